"""Which variables of a PyMC model can live in the state, and how the matrices depend on them.

Rao-Blackwellisation: let f ~ N(mu, L L') a priori, independent of the other variables theta, and

    a0 = a + J f,    c_t = c + C_t f,    d_t = d + D_t f,       nothing else depending on f.

Then (f, x) is a linear Gaussian state, f' = f, and theta alone needs particles:

    [f]         [mu      ]   [L    0      ]        [f]'   [I   0] [f]         y_t = [D_t  Z_t] [f] + d + ...
    [x]_1  ~ N( [a + J mu],  [J L  root P0] )      [x]  = [C_t T] [x] + ...                     [x]

The posterior of f given theta is read off the filtered belief at any time, exactly: f comes first in the state, so that
its marginal covariance has the leading block of the belief's triangular root. Adding J V J' to P0 instead would need
fewer states and gives the same evidence, but then nothing would know f: it is a function of the smoothed past.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.graph.replace import graph_replace
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.basic import MvNormalRV, NormalRV

from smcssm.priors.graphs import JaxProgram

AFFINE = ("a0", "c", "d")
_UNIFORM = 1e-9  # relative error of an affine function in float64, generously


class Law(NamedTuple):
    """f ~ N(mean, chol chol'), flattened; ``variable`` stands for it in the graphs."""

    variable: Any
    shape: tuple[int, ...]
    mean: np.ndarray
    chol: np.ndarray


def gaussian_laws(model: pm.Model, names: Sequence[str], plain: dict[Any, Any], graphs: dict[str, Any]) -> list[Law]:
    """Those of the names that are Gaussian with known parameters, and that nothing but ``AFFINE`` matrices read."""
    fixed = set(ancestors([g for name, g in graphs.items() if name not in AFFINE]))
    used = set(ancestors([graphs[name] for name in AFFINE]))
    out = []
    for v, own in plain.items():
        if v.name not in names or own in fixed or own not in used or model.rvs_to_transforms[v] is not None:
            continue
        others = [o for o in (*model.free_RVs, *model.deterministics, *model.potentials) if o is not v]
        if v not in ancestors(others) and set(model.free_RVs).isdisjoint(ancestors(v.owner.inputs)):
            law = _gaussian(v)
            out += [law._replace(variable=own)] if law is not None else []
    return out


def _gaussian(variable: Any) -> Law | None:
    op = getattr(variable.owner.op, "core_op", variable.owner.op)
    if not isinstance(op, NormalRV | MvNormalRV):
        return None
    location, spread = (_value(p) for p in op.dist_params(variable.owner))
    shape = tuple(map(int, _value(variable.shape)))
    mean = np.broadcast_to(location, shape).astype(float).ravel()
    if isinstance(op, NormalRV):
        return Law(variable, shape, mean, np.diag(np.broadcast_to(spread, shape).astype(float).ravel()))
    k, rows = shape[-1], math.prod(shape[:-1])
    covariances = np.broadcast_to(spread, (*shape[:-1], k, k)).astype(float).reshape(rows, k, k)
    try:
        roots = np.linalg.cholesky(covariances)
    except np.linalg.LinAlgError:  # singular: left among the hyperparameters
        return None
    chol = np.zeros((rows * k, rows * k))
    for i, root in enumerate(roots):
        chol[i * k : (i + 1) * k, i * k : (i + 1) * k] = root
    return Law(variable, shape, mean, chol)


def _value(graph: Any) -> np.ndarray:
    return np.asarray(graph.eval(mode="FAST_COMPILE"))


def affine_laws(laws: list[Law], graphs: dict[str, Any], inputs: list[Any], draws: list[np.ndarray]) -> list[Law]:
    """Those in which the ``AFFINE`` matrices are affine, all together; told at random points.

    With f in the place of g(f): g(f_1) + g(f_2) = g(f_3) + g(f_1 + f_2 - f_3). ``draws`` has, for each input, at least
    six random values, first axis.
    """
    if not laws:
        return []
    program = JaxProgram(inputs, [graphs[name] for name in AFFINE], [np.shape(d)[1:] for d in draws])
    kept: list[Law] = []
    for law in laws:
        places = [i for i, v in enumerate(inputs) if any(v is k.variable for k in (*kept, law))]
        if all(_is_affine(program, draws, places, i) for i in range(3)):
            kept.append(law)
    return kept


def _is_affine(program: JaxProgram, draws: list[np.ndarray], places: list[int], i: int) -> bool:
    def at(*signs: tuple[int, int]) -> list[np.ndarray]:
        point = [d[i] for d in draws]
        for j in places:
            point[j] = sum(sign * draws[j][k] for sign, k in signs)
        return [np.asarray(out) for out in program(*map(jnp.asarray, point))]

    one, two, three, four = at((1, i + 1)), at((1, i + 2)), at((1, i + 3)), at((1, i + 1), (1, i + 2), (-1, i + 3))
    for a, b, c, d in zip(one, two, three, four, strict=True):
        scale = sum(np.max(np.abs(m), initial=0.0) for m in (a, b, c, d))
        if not np.max(np.abs(a + b - c - d), initial=0.0) <= _UNIFORM * scale:
            return False
    return True


def affine_parts(laws: list[Law], graphs: dict[str, Any]) -> dict[str, Any]:
    """All matrices without f, and J, C, D: how a0, c and d depend on it, a column for each element."""
    zero = {law.variable: pt.constant(np.zeros(law.shape)) for law in laws}
    without = graph_replace(list(graphs.values()), zero, strict=False) if laws else list(graphs.values())
    out = dict(zip(graphs, without, strict=True))
    columns: dict[str, list[Any]] = {name: [] for name in AFFINE}
    for law in laws:
        for i in range(len(law.mean)):
            unit = pt.constant(np.eye(len(law.mean))[i].reshape(law.shape))
            replace = zero | {law.variable: unit}
            for name, graph in zip(
                AFFINE, graph_replace([graphs[n] for n in AFFINE], replace, strict=False), strict=True
            ):
                columns[name].append(graph - out[name])
    for key, name in zip("JCD", AFFINE, strict=True):
        size = graphs[name].type.shape[0]
        out[key] = pt.stack(columns[name], axis=1) if laws else pt.zeros((size, 0))
    return out
