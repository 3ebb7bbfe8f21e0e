"""Smoothing in the coordinates of the filter's own square roots: no division, no difference, any rank.

With x - m = L u after a row, u ~ N(0, I) as far as rows up to it tell, the next row is a step of a Kalman filter for
(x', u), by the triangular arrays of ``sequential`` with x more rows below (Park & Kailath 1995, doi:10.1109/9.478336,
have such arrays):

    [ F L  chol_Q ]                       [ L'  0 ]
    [ I      0    ]   ->   update   ->    [ B   C ]           u = B u' + a + C w,     w ~ N(0, I)

B and C are parts of an orthogonal matrix, so that B B' + C C' <= I: on the way back errors shrink. Rauch, Tung and
Striebel's G = K L_p^+ (``smoother``) divides by what is hardly uncertain, the adjoint recursion of de Jong (1989)
takes P - P N P. Here a vague start costs no more digits than the filter itself loses, and states that become known
without end none.

u is told apart from other coordinates of the same law only by L: the law of u' belongs to the very numbers that the
arrays gave for L', which are all but arbitrary where P' is singular. So the steps of a chunk come out of the same pass
as its beliefs, and a chunk that is gone through a second time by the same program from the same start. Where blocks
meet, u is told from x by one division, as by Rauch, Tung and Striebel.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from smcssm.core import Observation, System
from smcssm.gaussian import Gaussian
from smcssm.kalman import parallel
from smcssm.kalman.sequential import Opened, SystemOf, closed, dense, ends, moved_factor, moved_mean, updated
from smcssm.kalman.smoother import Backward, length, regression, squared
from smcssm.linalg import in_one_kernel, stack, vector
from smcssm.linalg import rows as entries
from smcssm.linalg.panels import fence, panels, triangular_columns


def back(
    system: SystemOf, params: PyTree, belief: Gaussian, rows: Observation, blocks: int = 1
) -> tuple[Gaussian, Gaussian, Backward]:
    """The belief after many rows ``[t, ..., s, 1]``, the beliefs after each, and the steps back over them, of u."""

    def through(params: PyTree, start: Gaussian, rows: Observation, blocks: int) -> tuple[Gaussian, tuple]:
        last, (beliefs, steps) = _in_turn(system, params, start, rows)
        return last, _joined(system, params, start, rows, (beliefs, squared(steps)), blocks)

    if blocks == 1:
        last, (beliefs, steps) = _in_turn(system, params, belief, rows)
        return last, beliefs, steps
    last, kept = parallel.in_blocks(system, params, belief, rows, through, blocks)
    return last, *kept


def over(before: Gaussian, now: System, obs: Observation) -> tuple[Gaussian, Backward]:
    """The belief after a row and the step back over it."""
    m, L, like, x = before.mean, before.chol, before.mean[0], len(before.mean)
    noise, eye, stays = panels(entries(now.chol_Q), like), _eye(before), (obs.dt == 0)[None]
    columns = triangular_columns([*noise, *moved_factor(now.F, L, eye)], 2 * x, like)
    stay = [*jnp.unstack(jnp.concatenate([L, eye]), axis=1), *[jnp.zeros((2 * x, *like.shape), like.dtype)] * x]
    chol = [jnp.where(stays, old[j:], ends(j, c, 2 * x)) for j, (old, c) in enumerate(zip(stay, columns, strict=True))]
    m_p = jnp.where(stays, m, moved_mean(m, now.F, now.c))
    ahead = Opened(*fence((jnp.concatenate([m_p, jnp.zeros_like(m)]), chol)))
    H = [row + [0.0] * x for row in entries(now.H)]
    after = closed(updated(ahead, H, vector(now.d), entries(now.chol_R), obs.y, obs.mask)[0])
    rank = max(1, min(x, sum(p.values.shape[1] for p in noise)))  # of C, which is lower triangular
    L, B, C = after.chol[:x, :x], after.chol[x:, :x], after.chol[x:, x : x + rank]
    return Gaussian(after.mean[:x], L), Backward(B, after.mean[x:], C)


def end(belief: Gaussian) -> Gaussian:
    """The law of u after the last row."""
    return Gaussian(jnp.zeros_like(belief.mean), _eye(belief))


def states(beliefs: Gaussian, u: Float[Array, "t x s n"]) -> Float[Array, "t x s n"]:
    """x = m + L u of many rows."""
    return beliefs.mean + _through(beliefs, u[:, :, None])[:, :, 0]


def of_states(beliefs: Gaussian, laws: Gaussian) -> Gaussian:
    """The law of x from that of u, at many rows."""
    return Gaussian(states(beliefs, laws.mean), _through(beliefs, laws.chol))


def told_of(
    C: Float[Array, "x k y s n"], belief: Gaussian, law: Gaussian, seen: Float[Array, "y x s n"], number: Int[Array, ""]
) -> tuple[Float[Array, "x k y s n"], Float[Array, "y k y s n"]]:
    """How what is seen of the state after a row, ``seen`` x, goes together with what is seen of later ones.

    Args:
        C: Cov(u, seen x) for later rows by their number, given everything.
        belief: after the row.
        law: of u after it, given everything.
        seen: rows of a matrix.
        number: of this row; -1: nothing is seen.

    Returns:
        C with this row, and the covariances of this row with it and later ones.
    """
    root = jnp.einsum("yksn,kjsn->yjsn", seen, belief.chol)
    whole = jnp.einsum("ijsn,kjsn,yksn->iysn", law.chol, law.chol, root)
    here = (jnp.arange(C.shape[1]) == number)[:, None, None, None]
    C = jnp.where(here[None], whole[:, None], C)
    return C, jnp.einsum("yisn,ikzsn->ykzsn", root, C)


def _through(beliefs: Gaussian, X: Float[Array, "t x k s n"]) -> Float[Array, "t x k s n"]:
    """L X by columns of L: a product of many small matrices is slow."""
    terms = [beliefs.chol[:, :, i, None] * X[:, i, None] for i in range(X.shape[1])]
    return fence(sum(terms[1:], terms[0]))


def _in_turn(
    system: SystemOf, params: PyTree, start: Gaussian, rows: Observation
) -> tuple[Gaussian, tuple[Gaussian, Backward]]:
    def one(params: PyTree, belief: Gaussian, obs: Observation) -> tuple[Gaussian, Backward]:
        return over(belief, system(params, obs), obs)

    def row(belief: Gaussian, obs: Observation) -> tuple[Gaussian, tuple[Gaussian, Backward]]:
        belief, step = in_one_kernel(one, params, belief, obs)
        return belief, (belief, step)

    return jax.lax.scan(row, start, rows)


def _joined(
    system: SystemOf, params: PyTree, starts: Gaussian, rows: Observation, kept: tuple[Gaussian, Backward], blocks: int
) -> tuple[Gaussian, Backward]:
    """Blocks side by side, the last row of each told in the coordinates in which the next block begins."""
    if blocks == 1:
        return kept
    beliefs, steps = kept
    before = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest])[-2], starts, beliefs)
    after = jax.tree.map(lambda leaf: parallel.shift(leaf, -1, blocks), starts)
    obs = jax.tree.map(lambda leaf: leaf[-1], rows)
    now, stays, eye, like = system(params, obs), (obs.dt == 0)[None, None], _eye(before), before.mean[0]
    F, chol_Q = stack(entries(now.F), like), stack(entries(now.chol_Q), like)
    F, chol_Q = jnp.where(stays, eye, F), jnp.where(stays, 0, chol_Q)
    above, below = (jnp.concatenate(a, axis=1) for a in ((dense(F, before.chol), chol_Q), (eye, 0 * chol_Q)))
    G, D, _ = regression(above, below, dense(jnp.abs(F), length(before.chol)[:, None])[:, 0] + length(chol_Q))
    link = Backward(dense(G, after.chol), steps.g[-1], D)
    inner = jnp.arange(before.mean.shape[-2]) < before.mean.shape[-2] // blocks * (blocks - 1)

    def last_of_each(new: Array, old: Array) -> Array:
        return old.at[-1].set(jnp.where(inner[:, None], new, old[-1]))

    return jax.tree.map(last_of_each, (after, link), (beliefs, steps))


def _eye(like: Gaussian) -> Array:
    return jnp.broadcast_to(jnp.eye(len(like.mean), dtype=like.mean.dtype)[..., None, None], like.chol.shape)
