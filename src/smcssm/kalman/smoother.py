"""Smoothing as prediction backwards in time: the law of the state before a row given the state after it.

Rauch, Tung & Striebel (1965, doi:10.2514/3.3166) in square-root form. With x' = F x + c + chol_Q e after x ~ N(m, L L')
and m' the filtered mean after the row:

    [ F L  chol_Q ]          [ L_p  0 ]
    [ L      0    ]    ->    [ K    D ]          G = K L_p^+         x - m = G (x' - F m - c) + D e
    backwards    x - m = G (x' - m') + g + D e,      g = G (m' - F m - c)

so that given everything x - m is one ``predict`` from x' - m', in blocks if wanted as in ``parallel``: two such steps
are one of the same form. Trajectories are drawn likewise, e being known (backward sampling: Carter & Kohn 1994,
doi:10.1093/biomet/81.3.541). Cov(x, x' | all) = G Cov(x' | all).

L_p may have any rank. A row of [F L, chol_Q] that depends on those above it says nothing more of x and takes up no
direction: the rows are made orthogonal one by one (modified Gram-Schmidt, as stable as Householder for this product).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from smcssm.core import Matrix, Observation, System
from smcssm.gaussian import Gaussian
from smcssm.kalman.parallel import fold, prefixes, repeat, shift, unfold
from smcssm.kalman.sequential import SystemOf, dense, ends, opened, predict, updated
from smcssm.linalg import matvec, stack, vector
from smcssm.linalg import rows as entries
from smcssm.linalg.dense import extended
from smcssm.linalg.panels import Panel, fence, triangular_columns


class Backward(NamedTuple):
    """x - m = G (x' - m') + g + D e: the state before a row from the one after it, around the filtered means.

    D is lower triangular, without columns that are known to be zero.
    """

    G: Float[Array, "*t x x s n"]
    g: Float[Array, "*t x s n"]
    D: Float[Array, "*t x _ s n"]


def backward(
    system: SystemOf,
    params: PyTree,
    start: Gaussian,
    rows: Observation,
    beliefs: Gaussian,
    blocks: int = 1,
) -> Backward:
    """The steps back over rows ``[t, ..., s, 1]``, from the belief before them and those after each."""
    before = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), start, beliefs)
    many = repeat(params, blocks)

    def row(at: tuple[Gaussian, Observation]) -> Backward:
        before, obs = at
        return reverse(before, system(many, obs), obs)

    steps = jax.lax.map(row, fold((before, rows), blocks))
    return unfold(steps, blocks, len(rows.dt))


def reverse(before: Gaussian, now: System, obs: Observation) -> Backward:
    """The step back over one row, from the belief before it.

    What the row does to the mean is computed by itself: of two means the difference is lost where a state is known far
    more closely than it is large.
    """
    m, L, like = before.mean, before.chol, before.mean[0]
    x, F, chol_Q = len(m), stack(entries(now.F), like), stack(entries(now.chol_Q), like)
    size = dense(jnp.abs(F), length(L)[:, None])[:, 0] + length(chol_Q)
    G, D, L_p = regression(jnp.concatenate([dense(F, L), chol_Q], 1), jnp.concatenate([L, 0 * chol_Q], 1), size)
    stays = (obs.dt == 0)[None]
    eye = jnp.eye(x, dtype=like.dtype)[..., None, None]
    G, D, L_p = (jnp.where(stays[None], a, b) for a, b in ((eye, G), (0, D), (L, L_p)))
    m_p = jnp.where(stays, m, dense(F, m[:, None])[:, 0] + stack(vector(now.c), like))
    H = entries(now.H)
    y = obs.y - stack(matvec(H, list(m_p)), like) - stack(vector(now.d), like)
    moved = updated(opened(Gaussian(jnp.zeros_like(m), L_p)), H, [0.0] * len(H), entries(now.chol_R), y, obs.mask)[0].m
    return Backward(G, dense(G, moved[:, None])[:, 0], D)


def regression(
    above: Float[Array, "x k s n"], below: Float[Array, "x k s n"], size: Float[Array, "x s n"]
) -> tuple[Float[Array, "x x s n"], Float[Array, "x x s n"], Float[Array, "x x s n"]]:
    """G and D, lower triangular, of  below e = G (above e) + D e',  e and e' ~ N(0, I), and a root of above above'.

    A row of ``above`` that comes to less than half of the digits of ``size`` depends on those before it.
    """
    x, A, columns, scales = len(above), jnp.concatenate([above, below]), [], []
    for i in range(x):
        left = length(A[i][None])[0]
        new = left > jnp.finfo(above.dtype).eps ** 0.5 * size[i]
        scales.append(jnp.where(new, 1 / jnp.where(new, left, 1), 0))
        u = A[i] * scales[i][None]
        columns.append(jnp.sum(A * u[None], axis=1))
        A = fence(A - columns[i][:, None] * u[None])
    G = _divide([column[x:] for column in columns], [column[:x] for column in columns], scales)
    D = triangular_columns([Panel(tuple(range(x)), A[x:])], x, above[0, 0])
    D = jnp.stack([ends(0, column, x) for column in D], axis=1)
    return G, D, jnp.stack([column[:x] for column in columns], axis=1)


def smooth(steps: Backward, last: Gaussian, blocks: int = 1) -> tuple[Gaussian, Gaussian]:
    """The law of x - m given everything, before the rows and after each, from the law after the last of them.

    ``blocks`` divides the number of rows.
    """
    T, series = steps.g.shape[0], last.mean.shape[-2]
    steps = fold(jax.tree.map(lambda leaf: leaf[::-1], squared(steps) if blocks > 1 else steps), blocks)
    starts = repeat(last, blocks)
    if blocks > 1:
        begin = _begin(starts, series)
        of_block, _ = jax.lax.scan(lambda done, step: (_then(done, step), None), begin, steps)
        before = jax.tree.map(lambda leaf: shift(leaf, 1, blocks), prefixes(_then, of_block, blocks))
        of_first = _of_first(starts, series)
        mean = jnp.where(of_first[None], starts.mean, before.g)
        starts = Gaussian(mean, jnp.where(of_first[None, None], starts.chol, before.D))
    ended, all_of_them = jax.lax.scan(lambda law, step: (apply(step, law), law), starts, steps)
    first = jax.tree.map(lambda leaf: leaf[..., -series:, :], ended)
    return first, jax.tree.map(lambda leaf: leaf[::-1], unfold(all_of_them, blocks, T))


def lagged(steps: Backward, ends: Gaussian, lag: int) -> Gaussian:
    """The law after each row given the next ``lag`` rows only, for all but the last ``lag`` rows.

    All rows go back together, one step after the other, from the law after the row ``lag`` rows on of which none
    further tells, of which ``ends`` has all.
    """
    T = len(steps.g) - lag

    def side_by_side(leaf: Array, first: Array | int) -> Array:
        return fold(jax.lax.dynamic_slice_in_dim(leaf, first, T), T)[0]

    def step(i: Array, law: Gaussian) -> Gaussian:
        return apply(jax.tree.map(lambda leaf: side_by_side(leaf, lag - i), steps), law)

    law = jax.lax.fori_loop(0, lag, step, jax.tree.map(lambda leaf: side_by_side(leaf, lag), ends))
    return unfold(jax.tree.map(lambda leaf: leaf[None], law), T, T)


def sample(
    steps: Backward, last: Float[Array, "x s n"], noise: Float[Array, "t x s n"], blocks: int = 1
) -> tuple[Float[Array, "x s n"], Float[Array, "t x s n"]]:
    """A joint draw of x - m before the rows and after each, from a draw after the last and standard normal noise."""
    known = jnp.sum(steps.D * noise[:, None, : steps.D.shape[2]], axis=2)
    first, rest = smooth(
        Backward(steps.G, steps.g + known, jnp.zeros_like(steps.D)), Gaussian(last, jnp.zeros_like(steps.G[0])), blocks
    )
    return first.mean, rest.mean


def apply(step: Backward, law: Gaussian) -> Gaussian:
    """The law before a row from the one after it."""
    return predict(law, step.G, step.g, _lower(step.D), jnp.ones_like(law.mean[0, :, :1]))


def squared(steps: Backward) -> Backward:
    """With all columns of D."""
    missing = steps.G.shape[-3] - steps.D.shape[-3]
    return steps._replace(D=jnp.pad(steps.D, [(0, 0)] * (steps.D.ndim - 3) + [(0, missing), (0, 0), (0, 0)]))


def _then(step: Backward, another: Backward) -> Backward:
    """Two steps back as one."""
    x, both = len(step.g), dense(another.G, jnp.concatenate([step.G, step.g[:, None], step.D], axis=1))
    return Backward(both[:, :x], both[:, x] + another.g, extended(another.D, both[:, x + 1 :]))


def _begin(last: Gaussian, series: int) -> Backward:
    """No step; in the first block one to the law after the last row, from whatever comes after."""
    of_first = _of_first(last, series)
    eye = jnp.broadcast_to(jnp.eye(len(last.mean), dtype=last.mean.dtype)[..., None, None], last.chol.shape)
    G = jnp.where(of_first[None, None], 0, eye)
    return Backward(G, jnp.where(of_first[None], last.mean, 0), jnp.where(of_first[None, None], last.chol, 0))


def _of_first(law: Gaussian, series: int) -> Bool[Array, "s 1"]:
    """Whether a series is one of the first block."""
    return (jnp.arange(law.mean.shape[-2]) < series)[:, None]


def _lower(D: Array) -> Matrix:
    """With the zeros above the diagonal known."""
    return [[D[i, j] if j <= i else 0.0 for j in range(D.shape[1])] for i in range(len(D))]


def length(A: Float[Array, "r q s n"]) -> Float[Array, "r s n"]:
    """Of rows."""
    return jnp.sqrt(jnp.sum(A * A, axis=1))


def _divide(K: list[Array], L: list[Array], scales: list[Array]) -> Float[Array, "x x s n"]:
    """G with G L = K by column, L lower triangular; columns of scale 0, which are zero in both, are left out."""
    G: dict[int, Array] = {}
    for j in reversed(range(len(L))):
        rest = K[j]
        for k in range(j + 1, len(L)):
            rest = rest - G[k] * L[j][k][None]
        G[j] = fence(rest * scales[j][None])
    return jnp.stack([G[j] for j in range(len(L))], axis=1)
