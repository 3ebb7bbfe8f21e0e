"""The likelihood by what the data take away from the covariance of a stationary process: d² operations for d states.

As in celerite (Foreman-Mackey, Agol, Ambikasaran & Angus 2017, doi:10.3847/1538-3881/aa9332), for any kernel: before a
row x ~ N(m, P - S) with P the stationary covariance, and as F P F' + Q = P, noise is not needed at all.

    predict    m <- F m,  S <- F S F'                                       block by block
    update     w = P h - S h,  D = h w + r²,  v = y - h m,  m <- m + w v / D,  S <- S + w w' / D

S only grows by what is positive, but D is a difference, that loses (h P h + r²) / D of its digits. Square roots lose
none, and need d³ operations: where the ratio is beyond ``LIMIT`` anywhere, the caller must take them.
"""

from __future__ import annotations

import math
import operator
from functools import reduce
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from smcssm.core import Observation
from smcssm.gp import state
from smcssm.gp.filtering import beside, slots_of
from smcssm.gp.kernel import Kernel
from smcssm.linalg import matvec
from smcssm.linalg.entries import dot, is_zero, transpose
from smcssm.linalg.panels import fence

LIMIT = 1e7  # in float64 nine digits of D are left


class _Row(NamedTuple):
    """F by size of block, h without its zeros, P h, h P h + r² and the datum: ``[n, ...]`` of all rows, or of one."""

    F: list[Array]
    h: Array
    Ph: Array
    marginal: Array
    y: Array
    seen: Array


def log_likelihood(kernel: Kernel, given: Observation) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """log p(y), and whether digits enough are left; float64, without exposures."""
    rows, used = _rows(kernel, given)

    def row(before: tuple[Array, Array], at: _Row) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        m, S = _moved(at.F, before[0][:, None])[:, 0], _moved(at.F, _moved(at.F, before[1]).T)
        w = at.Ph - _seen(at.h, S, used)
        D, v = fence((at.marginal - _seen(at.h, at.Ph - w, used), at.y - _seen(at.h, m, used)))
        enough = at.seen & (LIMIT * D > at.marginal)  # else it is given up, and only must stay finite
        gain = fence(jnp.where(enough, w / jnp.where(enough, D, 1.0), 0.0))
        return (m + gain * v, S + gain[:, None] * w[None]), (v, D)

    nothing = jnp.zeros(rows.Ph.shape[1:], rows.Ph.dtype)
    v, D = jax.lax.scan(jax.checkpoint(row, prevent_cse=False), (nothing, nothing[:, None] * nothing[None]), rows)[1]
    enough = LIMIT * D > rows.marginal
    D, sound = jnp.where(rows.seen & enough, D, 1.0), jnp.all(enough | ~rows.seen)
    return jnp.sum(jnp.where(rows.seen, -0.5 * (v * v / D + jnp.log(2 * math.pi * D)), 0.0)), sound


def _moved(F: list[Array], X: Float[Array, "x k"]) -> Float[Array, "x k"]:
    """F X, blocks of one size side by side."""
    out, start = [], 0
    for f in F:
        n, b = f.shape[:2]
        x = X[start : start + n * b].reshape(n, b, -1)
        product = reduce(operator.add, [f[:, :, k, None] * x[:, None, k] for k in range(b)])
        out.append(product.reshape(n * b, -1))
        start += n * b
    return fence(jnp.concatenate(out) if len(out) > 1 else out[0])


def _seen(h: Array, X: Array, used: list[int]) -> Array:
    """h X; written out, which is faster than a sum over an axis."""
    return reduce(operator.add, [h[i] * X[k] for i, k in enumerate(used)])


def _rows(kernel: Kernel, given: Observation) -> tuple[_Row, list[int]]:
    """Of all rows, and the states that are seen: blocks in the order of their sizes."""
    side = beside(given)
    label, moves_on = slots_of(side)[0] if kernel.n_outputs > 1 else None, side.dt > 0
    assert side.noise_sd is not None
    later = jnp.where(moves_on, side.dt, 1)
    blocks = sorted(kernel.blocks(), key=lambda block: len(block.row(label)))
    moves = state.together(blocks, lambda block, dt: block.transition(dt), later)

    def columns(entries: list[Any]) -> Array:
        each = [jnp.broadcast_to(jnp.asarray(e, given.y.dtype), side.dt.shape)[:, 0] for e in entries]
        return fence(jnp.stack(fence(each)).T)

    F = []
    for b, group in groupby(moves, key=len):
        same = [[[jnp.where(moves_on, e, i == j) for j, e in enumerate(r)] for i, r in enumerate(F)] for F in group]
        F.append(columns([e for f in same for r in f for e in r]).reshape(-1, len(same), b, b))
    h, Ph, variance = [], [], jnp.square(side.noise_sd[0])
    for block in blocks:
        L, own = block.stationary_root(), block.row(label)
        hL = matvec(transpose(L), own)
        h, Ph, variance = h + own, Ph + matvec(L, hL), variance + dot(hL, hL)
    used = [k for k, e in enumerate(h) if not is_zero(e)]
    datum = given.y[:, 0, 0, 0], given.mask[:, 0, 0, 0]
    return _Row(F, columns([h[k] for k in used]), columns(Ph), columns([variance])[:, 0], *datum), used
