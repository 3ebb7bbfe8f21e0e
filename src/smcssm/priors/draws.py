"""Draws from a PyMC model by NumPy on the host: JAX cannot draw from all of PyMC's laws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.distributions.shape_utils import change_dist_size
from pymc.distributions.transforms import _default_transform
from pymc.logprob.transforms import LogOddsTransform, LogTransform, SimplexTransform
from pytensor.compile.io import In
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Apply
from pytensor.graph.replace import _vectorize_node, clone_replace
from pytensor.graph.traversal import ancestors, graph_inputs, toposort
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.random.type import RandomType

from smcssm.errors import ModelError

_NUMPY = Mode(linker="py", optimizer="fast_compile")  # nothing to compile; thousands of draws in a tenth of a second
_TINY, _ALMOST_ONE = 1e-300, 1 - 2.0**-53


class Sampler:
    """Joint draws of the first few variables of a model: a pure function of the seeds, compiled once for every n."""

    def __init__(self, model: pm.Model, variables: Sequence[Any]) -> None:
        laws, n = [v for v in variables if v in model.free_RVs], pt.lscalar("n")
        graphs = [*unconstrained(model, laws, inside=True), *laws]
        graphs += [pt.sum(v) for v in variables if v in model.potentials]
        self.names = [v.name for v in laws]
        self.restricted = {v.name for v in laws if _is_restricted(model, v)}
        try:
            self._compile(n, _batched(graphs, laws, n), batched=True)
            example = self._run(np.random.SeedSequence(0), 2)
            if any(a.ndim != v.ndim + 1 or np.any(a[0] == a[1]) for v, a in zip(laws, example[1], strict=True)):
                raise NotImplementedError("part of a law is drawn once for all")
        except Exception:  # there are laws that PyTensor cannot batch: one draw after the other
            self._compile(n, graphs, batched=False)
            example = self._run(np.random.SeedSequence(0), 1)
        self.z_shapes, self.shapes = ([a.shape[1:] for a in arrays] for arrays in example[:2])

    def __call__(self, seeds: np.random.SeedSequence, n: int) -> tuple[np.ndarray, np.ndarray]:
        """z ``[z n]`` and the sum of the Potentials ``[n]``, without the draws outside the domain of a transform."""
        try:
            parts, values, factors = self._run(seeds, n)
        except Exception as error:
            raise ModelError(f"prior: a draw failed: {reason(error)}. Do the parameters stay in range?") from error
        inside = self._inside(parts, n)
        for name, part, value in zip(self.names, parts, values, strict=True):
            if bad := np.sum(~np.isfinite(value).reshape(n, -1).all(axis=1)):
                raise ModelError(
                    f"prior: {bad} of {n} draws of {name} are not finite; keep its parameters in range, and its "
                    f"tails light"
                )
            if bad := np.sum(~np.isfinite(part).reshape(n, -1).all(axis=1) & inside):
                raise ModelError(
                    f"prior: {bad} of {n} draws of {name} lie on the boundary of its support, in float64, where the "
                    f"unconstrained value is infinite; give it a law with less mass there, or another scale"
                )
        log_weight = sum(factors, np.zeros(n))[inside]
        if not np.all(log_weight < np.inf):
            raise ModelError("prior: the Potentials are NaN or +inf at a draw; they must be finite or -inf")
        return np.concatenate([part.reshape(n, -1) for part in parts], axis=1)[inside].T, log_weight

    def log_share(self, n: int = 200_000) -> float:
        """Log of the share of n draws that lie in the domain of every transform of the user."""
        if not self.restricted:
            return 0.0
        few = 1000
        share = np.mean(self._inside(self._run(np.random.SeedSequence(1), few)[0], few))
        if self.batched and 0 < share < 1:
            share = np.mean(self._inside(self._run(np.random.SeedSequence(2), n)[0], n))
        return float(np.log(share)) if share > 0 else 0.0

    def _inside(self, parts: list, n: int) -> np.ndarray:
        """Which draws a transform of the user did not take for, say, the logarithm of a negative difference."""
        inside = np.ones(n, bool)
        for name, part in zip(self.names, parts, strict=True):
            if name in self.restricted:
                inside &= ~np.isnan(part).reshape(n, -1).any(axis=1)
        return inside

    def values(self, seeds: np.random.SeedSequence, n: int) -> list[np.ndarray]:
        """n draws of each variable, first axis, on its own scale."""
        return self._run(seeds, n)[1]

    def _compile(self, n: Any, graphs: Sequence[Any], batched: bool) -> None:
        shared = [leaf for leaf in graph_inputs(graphs) if isinstance(leaf.type, RandomType)]
        generators = [leaf.type() for leaf in shared]  # inputs, so that the model's own generators stay as they are
        graphs = clone_replace(list(graphs), replace=dict(zip(shared, generators, strict=True)))
        self.function = pm.compile(
            [n, *(In(g, mutable=True) for g in generators)], graphs, mode=_NUMPY, on_unused_input="ignore"
        )
        self.streams, self.batched = len(generators), batched

    def _run(self, seeds: np.random.SeedSequence, n: int) -> tuple[list, list, list]:
        def run(size: int) -> Any:  # with new generators: a graph need not advance those it is given
            return self.function(size, *(np.random.default_rng(seed) for seed in seeds.spawn(self.streams)))

        with np.errstate(all="ignore"):
            out = run(n) if self.batched else [np.stack(a) for a in zip(*(run(1) for _ in range(n)), strict=True)]
        k = len(self.names)
        return out[:k], out[k : 2 * k], [np.broadcast_to(a, n) for a in out[2 * k :]]


def unconstrained(model: pm.Model, variables: Sequence[Any], inside: bool = False) -> list[Any]:
    """The unconstrained value of each variable, as a graph of the variables.

    ``inside`` takes a draw that float64 rounded to 0 or 1 for the number next to it.
    """
    pairs = [(v, model.rvs_to_transforms[v]) for v in variables]
    return [v if t is None else t.forward(_next_inside(t, v) if inside else v, *v.owner.inputs) for v, t in pairs]


def _next_inside(transform: Any, variable: Any) -> Any:
    match transform:
        case LogTransform() | SimplexTransform():
            return pt.maximum(variable, _TINY)
        case LogOddsTransform():
            return pt.clip(variable, _TINY, _ALMOST_ONE)
        case _:
            return variable


def _is_restricted(model: pm.Model, variable: Any) -> bool:
    """Whether the user chose a transform, which may take only a part of the support."""
    default = _default_transform(variable.owner.op, variable)
    return type(model.rvs_to_transforms[variable]) is not type(default)


def _batched(outputs: Sequence[Any], laws: Sequence[Any], n: Any) -> list[Any]:
    """n independent copies, first axis, of outputs that depend on random laws.

    PyTensor's ``vectorize_graph`` draws once for all what depends on no other law (the start of a random walk), and
    fails where the first parameter of a law has no batch axis (3.3.7).
    """
    roots = [v for v in laws if set(laws).isdisjoint(ancestors(v.owner.inputs))]
    new: dict[Any, Any] = {v: change_dist_size(v, (n,), expand=True) for v in roots}
    for node in toposort(outputs, blockers=roots):
        inputs: list[Any] = [new.get(v, v) for v in node.inputs]
        if new.keys().isdisjoint(node.inputs):
            if any(isinstance(v.type, RandomType) for v in node.inputs):
                drawn = [v for v in node.outputs if not isinstance(v.type, RandomType)]
                new |= {v: change_dist_size(v, (n,), expand=True) for v in drawn}
            continue
        if isinstance(node.op, RandomVariable):
            old: Any = node.op.dist_params(node)
            k = len(old)
            pairs = zip(old, inputs[-k:], strict=True)
            inputs[-k:] = [b if b.ndim > a.ndim else pt.expand_dims(b, 0) for a, b in pairs]
        batched = _vectorize_node(node.op, node, *inputs)
        batched = batched.outputs if isinstance(batched, Apply) else batched
        new |= dict(zip(node.outputs, batched, strict=True))
    return [new.get(v, v) for v in outputs]


def reason(error: Exception) -> str:
    """The first line of an error; PyTensor's go on for pages."""
    return next(iter(str(error).splitlines()), type(error).__name__)
