"""Smoothing by a Rao-Blackwellised filter: regimes by ancestors, and the linear state exactly along each path.

    keep the last L + S rows, with the branches after each (u, m, C) and their ancestors a
    every S rows, for branch j of today, weight w_j, back over them:             each state told by L to L + S - 1 more
        i = j;  x - m_i ~ N(0, C_i)
        for rows r, the latest first:
            told of row r:  u_r,i  and  m_r,i + (law of x - m)
            i' = a_r,i;   law <- one Rauch-Tung-Striebel step over row r from branch i', with the matrices of u_r,i

Given its regimes the model is linear and Gaussian, so that only regimes are subject to the loss of ancestors. At S = L
a row costs two steps back; S = 1 tells every state by exactly L more rows, which costs L steps back. Rows before the
first and after the last are blank: over them nothing moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from smcssm.core import Observation, System
from smcssm.filters import RaoBlackwell
from smcssm.filters.collapse import taken
from smcssm.filters.rao_blackwell import Branches
from smcssm.gaussian import Gaussian
from smcssm.history import pad
from smcssm.kalman import smoother
from smcssm.linalg import rows as entries
from smcssm.linalg import stack, vector
from smcssm.readout.backwards import Moments, moments
from smcssm.smc2.adapt import compiled, gather
from smcssm.smc2.population import SMC2, Population, at_particles, fold_in

if TYPE_CHECKING:
    from smcssm.snapshot import Snapshot


class Way(NamedTuple):
    """How far back ancestors are traced at least, and how many rows are told each time."""

    lag: int
    stride: int


class Window(NamedTuple):
    """The last rows ``[l, ...]``, the branches after each, and their ancestors before it."""

    rows: Observation
    beliefs: Branches
    ancestors: Int[Array, "l m s n"]


def of_share(
    snapshot: Snapshot, data: Observation, numbers: Int[np.ndarray, "s n"], w: np.ndarray, way: Way, key: Array
) -> Moments:
    """Of states, then of the indicators of regimes, over outer particles by number."""
    smc, T = snapshot.smc, len(data.dt)
    blank = jax.tree.map(lambda leaf: np.zeros_like(leaf[0]), data)
    params, belief, window = compiled(_before, smc, way)(fold_in(key, 0), snapshot.population, numbers, blank)
    size = way.stride * max(1, smc.chunk // way.stride)
    told = []
    for first in range(0, T, size):
        rows = pad(jax.tree.map(lambda leaf, at=first: leaf[at : at + size], data), size)
        belief, window, found = compiled(_chunk, smc, way)(fold_in(key, 1), params, belief, window, rows, w)
        told.append(jax.device_get(found))
    told.append(jax.tree.map(lambda a: np.asarray(a)[way.stride :], compiled(_back, smc)(params, window, w)))
    mean, square = jax.tree.map(lambda *parts: np.concatenate(parts)[way.lag : way.lag + T], *told)
    return Moments(w.sum(), mean, square)


def _before(
    smc: SMC2, way: Way, key: Array, population: Population, numbers: Array, blank: Observation
) -> tuple[PyTree, Branches, Window]:
    """Particles by number, beliefs with as many inner particles as there are by now, and rows of nothing."""
    params, like = gather((population.params, population.belief), numbers)
    belief = _filter(smc).init(key, params, at_particles(blank), like)
    empty, ancestors = at_particles(blank), _same(belief)
    before = jax.tree.map(lambda a: jnp.repeat(a[None], way.lag + way.stride, axis=0), (empty, belief, ancestors))
    return params, belief, Window(*before)


def _chunk(
    smc: SMC2, way: Way, key: Array, params: PyTree, belief: Branches, window: Window, rows: Observation, w: Array
) -> tuple[Branches, Window, tuple[Array, Array]]:
    """Rows in blocks of S: after each the S oldest rows of the window are told."""
    inner = _filter(smc)
    blocks = jax.tree.map(lambda a: a.reshape(-1, way.stride, *a.shape[1:]), at_particles(rows))

    def row(belief: Branches, obs: Observation) -> tuple[Branches, tuple[Branches, Array]]:
        new, _, ancestors = inner.traced(fold_in(key, obs.index[:, 0]), params, belief, obs)
        blank = (obs.dt == 0) & ~jnp.any(obs.mask, axis=0)  # beyond the last row

        def unless_blank(new: Array, old: Array) -> Array:
            return jnp.where(blank.reshape((1,) * (new.ndim - 2) + blank.shape), old, new)

        new, ancestors = jax.tree.map(unless_blank, (new, ancestors), (belief, _same(belief)))
        return new, (new, ancestors)

    def block(carry: tuple[Branches, Window], rows: Observation) -> tuple[tuple, tuple[Array, Array]]:
        belief, window = carry
        belief, after = jax.lax.scan(row, belief, rows)
        kept = jax.tree.map(lambda a, b: jnp.concatenate([a[way.stride :], b]), window, Window(rows, *after))
        return (belief, kept), jax.tree.map(lambda a: a[: way.stride], _back(smc, params, kept, w))

    (belief, window), told = jax.lax.scan(block, (belief, window), blocks)
    return belief, window, jax.tree.map(lambda a: a.reshape(-1, a.shape[-1]), told)


def _back(smc: SMC2, params: PyTree, window: Window, w: Float[Array, "s n"]) -> tuple[Array, Array]:
    """Moments ``[l, x]`` of all rows of a window, from the branches after the last of them."""
    model, last = _filter(smc).model, jax.tree.map(lambda a: a[-1], window.beliefs)
    weight = _wide(w[None] * jnp.exp(last.log_weight))
    of_regime = jnp.arange(len(model.regime_names))[:, None, None]

    def row(carry: tuple[Array, Gaussian], r: Array) -> tuple[tuple[Array, Gaussian], tuple[Array, Array]]:
        i, law = carry
        now, obs, ancestors = jax.tree.map(lambda a: a[r], (window.beliefs, window.rows, window.ancestors))
        u = taken(now.u, i)
        mean = _wide(taken(now.mean, i)) + law.mean
        p = (_wide(u)[None] == of_regime).astype(mean.dtype)
        variance = jnp.concatenate([jnp.sum(law.chol**2, axis=1), jnp.zeros_like(p)])
        told = moments(jnp.concatenate([mean, p])[None], variance[None], weight)
        i = taken(ancestors, i)
        before = jax.tree.map(lambda a: a[jnp.maximum(r - 1, 0)], window.beliefs)
        at = Gaussian(_wide(taken(before.mean, i)), _wide(taken(before.chol, i)))
        step = smoother.reverse(at, _system(model.matrices(params, u, obs), u, mean.dtype), obs)
        return (i, smoother.apply(step, law)), jax.tree.map(lambda a: a[0], told)

    start = _same(last), Gaussian(jnp.zeros_like(_wide(last.mean)), _wide(last.chol))
    return jax.lax.scan(row, start, jnp.arange(len(window.ancestors)), reverse=True)[1]


def _filter(smc: SMC2) -> RaoBlackwell:
    assert isinstance(smc.filter, RaoBlackwell)
    return smc.filter


def _same(belief: Branches) -> Int[Array, "m s n"]:
    """Every branch its own ancestor."""
    m = jnp.arange(len(belief.log_weight), dtype=jnp.int32)
    return jnp.broadcast_to(m[:, None, None], belief.log_weight.shape)


def _wide(a: Array) -> Array:
    """Branches beside each other along the particles: ``[..., m, s, n]`` to ``[..., s, m n]``."""
    a = jnp.moveaxis(a, -3, -2)
    return a.reshape(*a.shape[:-2], -1)


def _system(system: System, u: Int[Array, "m s n"] | Float[Array, "m s n"], dtype: jnp.dtype) -> System:
    """Its matrices along the wide axis."""
    F, c, chol_Q, H, d, chol_R = system
    each = entries(F), vector(c), entries(chol_Q), entries(H), vector(d), entries(chol_R)
    return System(*(_wide(stack(e, jnp.zeros(u.shape, dtype))) for e in each))
