"""PyTensor graphs as JAX functions: pure, under jit, vmap and grad, in the precision in force."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import pymc  # noqa: F401  registers the rewrite that _JAX includes
import pytensor.tensor as pt
from jaxtyping import Array
from pytensor.compile.mode import get_mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors, graph_inputs
from pytensor.scalar import convert_to_float32
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.variable import TensorConstant, TensorVariable


def import_jaxify() -> Callable:
    """PyTensor's; importing it sets the global ``jax_enable_x64``, so put back what the user had."""
    with ThreadPoolExecutor(1) as thread:  # where a local ``jax.enable_x64`` of the caller does not reach
        users = thread.submit(lambda: jax.config.jax_enable_x64).result()
    from pytensor.link.jax.dispatch.basic import jax_funcify

    jax.config.update("jax_enable_x64", users)
    return jax_funcify


_jaxify = import_jaxify()
_JAX = get_mode("JAX").including("local_check_parameter_to_ninf_switch")  # bad parameters: -inf instead of NaN


class JaxProgram:
    """The outputs of a graph as a JAX function of its inputs. Shared variables are frozen at their present values.

    Raises:
        TypeError: the graph draws random numbers.
        Exception: whatever PyTensor or JAX raise where they cannot convert or trace it.
    """

    def __init__(self, inputs: Sequence[Any], outputs: Sequence[Any], input_shapes: Sequence[tuple[int, ...]]) -> None:
        leaves = list(graph_inputs(outputs))
        if any(isinstance(leaf.type, RandomType) for leaf in leaves):
            raise TypeError("it depends on a random draw that is not a variable of the model")
        frozen: dict[Any, Any] = {
            leaf: pt.constant(leaf.get_value()) for leaf in leaves if isinstance(leaf, SharedVariable)
        }
        graph = FunctionGraph(list(inputs), _in_float64(clone_replace(list(outputs), replace=frozen)), clone=True)
        _JAX.optimizer.rewrite(graph)  # which adds constants
        self.graph = FunctionGraph(graph.inputs, _in_float64(graph.outputs), clone=True)
        self._functions: dict[bool, Callable] = {}  # constants have the precision in force when they are made
        with jax.enable_x64(True):  # what cannot be traced shows here, not in the first step of an engine
            traced = jax.eval_shape(self, *(jax.ShapeDtypeStruct(shape, float) for shape in input_shapes))
        self.shapes = tuple(out.shape for out in traced)

    def __call__(self, *args: Array) -> list[Array]:
        """Evaluate; floating-point outputs may be wider than the arguments."""
        if not self.graph.outputs:
            return []
        x64 = bool(jax.config.jax_enable_x64)
        if x64 not in self._functions:
            with jax.ensure_compile_time_eval():
                self._functions[x64] = _jaxify(self.graph)
        if x64:
            return [jnp.asarray(out) for out in self._functions[True](*args)]
        with warnings.catch_warnings():  # the casts in the graph ask for float64 and int64
            warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
            return [jnp.asarray(out) for out in self._functions[False](*args)]


def _in_float64(outputs: list[Any]) -> list[Any]:
    """PyTensor keeps 2.0 as float32, takes its logarithm so, and in JAX it may bring down what it meets."""
    narrow = [v for v in ancestors(outputs) if isinstance(v, TensorVariable) and v.dtype == "float32"]
    wide: dict[Any, Any] = {v: pt.constant(v.data, dtype="float64") for v in narrow if isinstance(v, TensorConstant)}
    casts = [v for v in narrow if v.owner and getattr(v.owner.op, "scalar_op", None) == convert_to_float32]
    wide |= {v: v.owner.inputs[0] for v in casts if v.owner.inputs[0].dtype == "float64"}
    return clone_replace(outputs, replace=wide, rebuild_strict=False)
