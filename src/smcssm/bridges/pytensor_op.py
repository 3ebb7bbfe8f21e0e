"""The Kalman filter as PyTensor Ops: shapes inferred, with a pullback, for the Numba, JAX and Python backends.

In JAX mode an Op is ``bridges.kernels``, differentiated by JAX. In PyTensor's default mode the likelihood and its
pullback are ``bridges.native``; single steps call JAX on the host.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, no_type_check

import jax
import numba
import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType, grad_not_implemented
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch import basic as numba_dispatch
from pytensor.tensor.utils import _parse_gufunc_signature

from smcssm.bridges import native
from smcssm.bridges.kernels import FUNCTIONS, SIGNATURES
from smcssm.priors.graphs import import_jaxify

_NATIVE = {("log_likelihood", False): native.log_likelihood, ("log_likelihood", True): native.pullback}
_jaxify: Any = import_jaxify()
_started = os.getpid()
VERSION = hashlib.sha256(Path(native.__file__).read_bytes()).hexdigest()  # PyTensor keeps compiled code on disk


class KalmanOp(Op):
    """A function of ``bridges.kernels``, or its pullback: of the same inputs and a cotangent for each output."""

    __props__ = ("kernel", "adjoint")

    def __init__(self, kernel: str, adjoint: bool = False) -> None:
        self.kernel, self.adjoint = kernel, adjoint
        inputs, outputs = _parse_gufunc_signature(SIGNATURES[kernel])
        self.inputs, self.outputs = ([*inputs, *outputs], inputs) if adjoint else (inputs, outputs)
        self.gufunc_signature = "->".join(_written(side) for side in (self.inputs, self.outputs))

    def make_node(self, *inputs: Any) -> Apply:
        """Apply to tensors of float64, whose shapes must agree where they are known."""
        variables = [pt.as_tensor(i).astype("float64") for i in inputs]
        known: dict[str, int] = {}
        for variable, dims in zip(variables, self.inputs, strict=True):
            if variable.ndim != len(dims):
                raise TypeError(f"{self.kernel}: got {variable.ndim} axes where ({','.join(dims)}) is expected")
            for dim, size in zip(dims, variable.type.shape, strict=True):
                if size is not None and known.setdefault(dim, size) != size:
                    raise ValueError(f"{self.kernel}: axis {dim} of {self.gufunc_signature} is {known[dim]} and {size}")
        outputs = [pt.tensor(dtype="float64", shape=tuple(known.get(dim) for dim in dims)) for dims in self.outputs]
        return Apply(self, variables, outputs)

    def infer_shape(self, node: Apply, shapes: Sequence[Any]) -> list[tuple]:
        """By the names of the axes."""
        size = {
            dim: s for dims, shape in zip(self.inputs, shapes, strict=True) for dim, s in zip(dims, shape, strict=True)
        }
        return [tuple(size[dim] for dim in dims) for dims in self.outputs]

    def perform(self, node: Apply, inputs: Sequence[Any], output_storage: Sequence[Any]) -> None:
        """On NumPy arrays."""
        for storage, value in zip(output_storage, on_host(self.kernel, self.adjoint)(*inputs), strict=True):
            storage[0] = value

    def pullback(self, inputs: Sequence[Any], outputs: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        """One more Op; there are no second derivatives."""
        if self.adjoint:
            return [grad_not_implemented(self, i, v) for i, v in enumerate(inputs)]
        connected = [
            pt.zeros_like(out) if isinstance(g.type, DisconnectedType) else g
            for out, g in zip(outputs, cotangents, strict=True)
        ]
        adjoint: Any = KalmanOp(self.kernel, adjoint=True)
        return adjoint(*inputs, *connected, return_list=True)


@no_type_check
def _of_any_layout(adjoint: bool) -> Callable:
    """Numba compiles a function for each layout of its arguments: one is enough."""
    as_c, value, pullback = np.ascontiguousarray, native.log_likelihood, native.pullback

    @numba_dispatch.numba_njit
    def likelihood(m0, P0, F, c, Q, H, d, R, y, dt):  # noqa: PLR0913, PLR0917
        return value(as_c(m0), as_c(P0), as_c(F), as_c(c), as_c(Q), as_c(H), as_c(d), as_c(R), as_c(y), as_c(dt))

    @numba_dispatch.numba_njit
    def gradient(m0, P0, F, c, Q, H, d, R, y, dt, g):  # noqa: PLR0913, PLR0917
        return pullback(
            as_c(m0), as_c(P0), as_c(F), as_c(c), as_c(Q), as_c(H), as_c(d), as_c(R), as_c(y), as_c(dt), as_c(g)
        )

    return gradient if adjoint else likelihood


def _written(side: Sequence[tuple[str, ...]]) -> str:
    return ",".join(f"({','.join(dims)})" for dims in side)


def _jax_function(kernel: str, adjoint: bool) -> Callable[..., tuple]:
    function, n = FUNCTIONS[kernel], len(_parse_gufunc_signature(SIGNATURES[kernel])[0])
    return function if not adjoint else lambda *args: jax.vjp(function, *args[:n])[1](tuple(args[n:]))


@functools.cache
def on_host(kernel: str, adjoint: bool) -> Callable[..., tuple[np.ndarray, ...]]:
    """A kernel or its pullback as a function of NumPy arrays: compiled by Numba where there is such code."""
    if (kernel, adjoint) in _NATIVE:
        compiled = _NATIVE[kernel, adjoint]

        def by_numba(*args: np.ndarray) -> tuple[np.ndarray, ...]:
            out = compiled(*(np.ascontiguousarray(a) for a in args))
            return out if adjoint else (out,)

        return by_numba
    jitted = jax.jit(_jax_function(kernel, adjoint))

    def by_jax(*args: np.ndarray) -> tuple[np.ndarray, ...]:
        if os.getpid() != _started:
            raise RuntimeError(
                f"kalman_{kernel} runs JAX, which hangs in forked processes: use "
                'pm.sample(..., mp_ctx="forkserver"), or cores=1'
            )
        with jax.enable_x64(True):
            return tuple(np.array(out) for out in jitted(*args))

    return by_jax


@_jaxify.register(KalmanOp)
def _(op: KalmanOp, **kwargs: Any) -> Callable:
    function = _jax_function(op.kernel, op.adjoint)

    def one_or_all(*args: Any) -> Any:
        out = function(*args)
        return out[0] if len(out) == 1 else out

    return one_or_all


@numba_dispatch.register_funcify_and_cache_key(KalmanOp)
@no_type_check
def _(op: KalmanOp, node: Any, **kwargs: Any) -> tuple[Callable, str | None]:
    if (op.kernel, op.adjoint) in _NATIVE:
        return _of_any_layout(op.adjoint), f"smcssm {op.kernel} {op.adjoint} {VERSION}"
    host = on_host(op.kernel, op.adjoint)
    kinds = [numba.types.Array(numba.types.float64, len(dims), "C") for dims in op.outputs]
    result = numba.types.Tuple(kinds) if len(kinds) > 1 else kinds[0]
    alone = len(kinds) == 1

    @numba_dispatch.numba_njit
    def by_host(*args):
        with numba.objmode(out=result):
            out = host(*args)
            out = out[0] if alone else out
        return out

    return by_host, None
