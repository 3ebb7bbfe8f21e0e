"""The graphs of a PyMC model as programs: JAX functions of flat arrays, and batches of draws by NumPy.

JAX is for what is differentiated and mapped, NumPy for what PyMC alone can do: drawing from every law it has.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytensor.tensor as pt
from jaxtyping import Array
from pymc.distributions.shape_utils import change_dist_size
from pymc.distributions.transforms import _default_transform
from pytensor.compile.mode import Mode, get_mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import clone_replace, vectorize_graph
from pytensor.graph.traversal import ancestors, graph_inputs
from pytensor.tensor.basic import TensorConstant
from pytensor.tensor.random.type import RandomType

from smcssm.errors import ModelError


def _import_jaxify() -> Callable:
    """PyTensor's; importing it sets the global ``jax_enable_x64``, so put back what the user had."""
    with ThreadPoolExecutor(1) as thread:  # where a local ``jax.enable_x64`` of the caller does not reach
        users = thread.submit(lambda: jax.config.jax_enable_x64).result()
    from pytensor.link.jax.dispatch import jax_funcify

    jax.config.update("jax_enable_x64", users)
    return jax_funcify


_jaxify = _import_jaxify()
_JAX = get_mode("JAX").including("local_check_parameter_to_ninf_switch")  # bad parameters: -inf instead of NaN
_NUMPY = Mode(linker="py", optimizer="fast_compile")  # nothing to compile; thousands of draws in a tenth of a second


class JaxProgram:
    """A PyTensor graph as a JAX function. Shared variables (``pm.Data``) are frozen at their present values."""

    def __init__(self, inputs: Sequence[Any], outputs: Sequence[Any], input_shapes: Sequence[tuple[int, ...]]) -> None:
        leaves = list(graph_inputs(outputs))
        if any(isinstance(leaf.type, RandomType) for leaf in leaves):
            raise TypeError("it depends on a random draw that is not a variable of the model")
        frozen = {leaf: pt.constant(_value(leaf)) for leaf in leaves if isinstance(leaf, SharedVariable | TensorConstant)}
        outputs = clone_replace(list(outputs), replace=frozen, rebuild_strict=False)
        self.graph = FunctionGraph(list(inputs), outputs, clone=True)
        _JAX.optimizer.rewrite(self.graph)
        self.functions: dict[bool, Callable] = {}  # constants have the precision in force when they are made
        with jax.enable_x64(True):  # what JAX cannot trace shows here, not in the first step of an engine
            traced = jax.eval_shape(self, *(jax.ShapeDtypeStruct(shape, float) for shape in input_shapes))
        self.shapes = tuple(out.shape for out in traced)

    def __call__(self, *args: Array) -> list[Array]:
        """Pure; under jit, vmap and grad."""
        x64 = bool(jax.config.jax_enable_x64)
        if x64 not in self.functions:
            with jax.ensure_compile_time_eval():
                self.functions[x64] = _jaxify(self.graph)
        if x64:
            return [jnp.asarray(out) for out in self.functions[True](*args)]
        with warnings.catch_warnings():  # the casts in the graph ask for float64 and int64
            warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
            return [jnp.asarray(out) for out in self.functions[False](*args)]


def _value(leaf: SharedVariable | TensorConstant) -> np.ndarray:
    """In float64: PyTensor keeps 2.0 as float32, computes its logarithm so, and JAX would draw others down with it."""
    value = np.asarray(leaf.get_value() if isinstance(leaf, SharedVariable) else leaf.data)
    return value.astype(float) if value.dtype.kind == "f" else value


class Sampler:
    """Joint draws of the first few variables of a model: a pure function of the seeds, compiled once for every n."""

    def __init__(self, model: pm.Model, variables: Sequence[Any]) -> None:
        laws, n = [v for v in variables if v in model.free_RVs], pt.lscalar("n")
        roots = [v for v in laws if set(laws).isdisjoint(ancestors(v.owner.inputs))]
        graphs = [*unconstrained(model, laws), *laws, *(pt.sum(v) for v in variables if v in model.potentials)]
        try:
            graphs = vectorize_graph(graphs, {v: change_dist_size(v, (n,), expand=True) for v in roots})
            self.batched = True
        except Exception:  # a Mixture whose weights are variables, say: one draw after the other
            self.batched = False
        shared = [leaf for leaf in graph_inputs(graphs) if isinstance(leaf.type, RandomType)]
        generators = [leaf.type() for leaf in shared]  # inputs, so that the model's own generators stay as they are
        graphs = clone_replace(graphs, replace=dict(zip(shared, generators, strict=True)))
        self.function = pm.compile([n, *generators], graphs, mode=_NUMPY, on_unused_input="ignore")
        self.streams = len(generators)
        self.names = [v.name for v in laws]
        self.restricted = {v.name for v in laws if _is_restricted(model, v)}
        parts, values, _ = self._run(np.random.SeedSequence(0), 1)
        self.z_shapes, self.shapes = [a.shape[1:] for a in parts], [a.shape[1:] for a in values]

    def __call__(self, seeds: np.random.SeedSequence, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Up to n draws: z and the sum of the Potentials. Those outside the domain of a transform are left out."""
        try:
            parts, values, factors = self._run(seeds, n)
        except Exception as error:
            raise ModelError(f"prior: a draw failed: {reason(error)}. Do its parameters stay in range?") from error
        inside = np.ones(n, bool)
        for name, part, value in zip(self.names, parts, values, strict=True):
            part, value = part.reshape(n, -1), value.reshape(n, -1)
            if name in self.restricted:
                inside &= ~np.isnan(part).any(axis=1)  # such as the logarithm of a negative difference
            if bad := np.sum(~np.isfinite(value).all(axis=1)):
                raise ModelError(f"prior: {bad} of {n} draws of {name} are not finite; give it a proper law")
            if bad := np.sum(~np.isfinite(part).all(axis=1) & inside):
                raise ModelError(
                    f"prior: {bad} of {n} draws of {name} were rounded to the boundary of its support, where the "
                    f"unconstrained value is infinite; give it a law with less mass there"
                )
        log_weight = sum(factors, np.zeros(n))[inside]
        if not np.all(log_weight < np.inf):
            raise ModelError("prior: the Potentials are NaN or +inf at a draw; they must be finite or -inf")
        return np.concatenate([part.reshape(n, -1) for part in parts], axis=1)[inside].T, log_weight

    def _run(self, seeds: np.random.SeedSequence, n: int) -> tuple[list, list, list]:
        def run(size: int) -> list[np.ndarray]:
            out = self.function(size, *(np.random.default_rng(seed) for seed in seeds.spawn(self.streams)))
            return [np.asarray(a) for a in out]

        with np.errstate(all="ignore"):
            out = run(n) if self.batched else [np.stack(a) for a in zip(*(run(1) for _ in range(n)), strict=True)]
        k = len(self.names)
        return out[:k], out[k : 2 * k], [np.broadcast_to(a, n) for a in out[2 * k :]]


def unconstrained(model: pm.Model, variables: Sequence[Any]) -> list[Any]:
    """The unconstrained value of each variable, as a graph of the variables."""
    transforms = [model.rvs_to_transforms[v] for v in variables]
    pairs = zip(variables, transforms, strict=True)
    return [v if t is None else t.forward(v, *v.owner.inputs) for v, t in pairs]


def _is_restricted(model: pm.Model, variable: Any) -> bool:
    """Whether the user chose a transform, which may take only a part of the support."""
    default = _default_transform(variable.owner.op, variable)
    return type(model.rvs_to_transforms[variable]) is not type(default)


def reason(error: Exception) -> str:
    """The first line of an error; PyTensor's go on for pages."""
    return next(iter(str(error).splitlines()), type(error).__name__)
