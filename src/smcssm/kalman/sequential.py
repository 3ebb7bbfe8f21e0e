"""Predict, update and likelihood for a whole population in square-root form (Kailath, Sayed & Hassibi 2000, ch. 12).

    predict    [F L | chol_Q]             ->  [L_p | 0]
    update     [chol_R  H L_p]                [S_c   0 ]
               [  0       L_p]            ->  [ K    L ]      w = S_c^-1 (y - H m - d),  m <- m + K w

both by ``linalg.panels``, which skips known zeros and takes one channel after the other. A missing channel is made an
independent N(0, 1). Singular chol_Q, chol_R and chol_P0 are legal, and none of the square roots of a system need be
triangular; the innovation covariance must be positive definite, and a particle where it is not gets log-likelihood
-inf, the others being unaffected. Derivatives are finite at factors of any rank. Any number of axes may stand between
a state's and the series axis; all arrays, those of the observation too, then have as many, some of them of size 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from smcssm.core import Matrix, Observation, System
from smcssm.gaussian import Gaussian
from smcssm.linalg import in_one_kernel, rows, stack, vector
from smcssm.linalg.entries import Entry, Rows, dot, is_zero, matvec, multiply
from smcssm.linalg.panels import Column, Panel, fence, panels, spread, triangular_columns

WIDTH = 7  # columns of a dense F L computed together; the first ones need every column of F, the last ones few
TOLERANCE = 16  # a conditional innovation sd below this many rounding errors of the marginal one counts as zero


class Innovation(NamedTuple):
    """log p(y_t | y_1:t-1) over present channels, and mean and sd of the predictive of every channel."""

    log_lik: Float[Array, "*m s n"]
    mean: Float[Array, "y *m s n"]
    sd: Float[Array, "y *m s n"]
    positive: Bool[Array, "*m s n"]


SystemOf = Callable[[Any, Observation], System]
"""The system of a row, from the parameters of all particles: ``AbstractLinearGaussian.matrices``."""

Keep = Callable[[Gaussian, Innovation], PyTree]
"""What is kept of every row, from the belief after it and what it brought; leaves end in [s, n]."""


class Opened(NamedTuple):
    """Mean, and columns of the lower-triangular factor from the diagonal downwards: the ends of [x, s, n]."""

    m: Float[Array, "x *m s n"]
    L: list[Float[Array, "_ *m s n"]]


def predict(belief: Gaussian, F: Matrix, c: Matrix, chol_Q: Matrix, dt: Float[Array, "*#m s 1"]) -> Gaussian:
    """x' = F x + c + chol_Q e over dt > 0; the identity over dt = 0."""
    return closed(predicted(belief, F, c, chol_Q, dt))


def update(
    belief: Gaussian,
    H: Matrix,
    d: Matrix,
    chol_R: Matrix,
    y: Float[Array, "y *#m s 1"],
    mask: Bool[Array, "y *#m s 1"],
) -> tuple[Gaussian, Innovation]:
    """Condition on y = H x + d + chol_R n, channels with mask False left out."""
    after, innovation, *_ = updated(opened(belief), rows(H), vector(d), rows(chol_R), y, mask)
    return closed(after), innovation


def step(
    belief: Gaussian,
    system: System,
    y: Float[Array, "y *#m s 1"],
    mask: Bool[Array, "y *#m s 1"],
    dt: Float[Array, "*#m s 1"],
) -> tuple[Gaussian, Innovation]:
    """Predict, then update."""
    before = predicted(belief, system.F, system.c, system.chol_Q, dt)
    after, innovation, *_ = updated(before, rows(system.H), vector(system.d), rows(system.chol_R), y, mask)
    return closed(after), innovation


def filter(
    system: SystemOf, params: PyTree, belief: Gaussian, rows: Observation, keep: Keep
) -> tuple[Gaussian, PyTree]:
    """The belief after many rows ``[t, ..., s, 1]``, one after the other, and what is kept of each ``[t, ...]``."""

    def one(params: PyTree, belief: Gaussian, obs: Observation) -> tuple[Gaussian, Innovation]:
        return step(belief, system(params, obs), obs.y, obs.mask, obs.dt)

    def row(belief: Gaussian, obs: Observation) -> tuple[Gaussian, PyTree]:
        belief, innovation = in_one_kernel(one, params, belief, obs)
        return belief, keep(belief, innovation)

    # Backwards a row is computed anew from the belief before it: storing all it went through takes six times as long.
    return jax.lax.scan(jax.checkpoint(row, prevent_cse=False), belief, rows)


def live(rows: Observation, length: Int[Any, ""] | int) -> Observation:
    """Rows ``[t, ..., s, 1]``; those from ``length`` on, and those not reported, say nothing and take no time."""
    counts = jnp.arange(len(rows.dt))[:, None, None] < length
    counts = counts if rows.reported is None else counts & rows.reported
    return replace(rows, mask=rows.mask & counts[:, None], dt=jnp.where(counts, rows.dt, 0))


def opened(belief: Gaussian) -> Opened:
    """By column, before the work of a step."""
    return Opened(belief.mean, _columns(belief.chol))


def _columns(L: Array) -> list[Array]:
    """Columns from the diagonal down. Unstacked first: derivatives of slices of L are as large as L, each."""
    return [column[j:] for j, column in enumerate(jnp.unstack(L, axis=1))]


def closed(belief: Opened) -> Gaussian:
    """The inverse of ``opened``."""
    n = len(belief.m)
    columns = [spread(column, range(j, n), range(n)) for j, column in enumerate(belief.L)]
    return Gaussian(belief.m, jnp.stack(columns, axis=1))


def predicted(belief: Gaussian, F: Matrix, c: Matrix, chol_Q: Matrix, dt: Array) -> Opened:
    """``predict``, left open."""
    m, L, like = belief.mean, belief.chol, belief.mean[0]
    mean = moved_mean(m, F, c)
    columns = triangular_columns([*panels(rows(chol_Q), like), *moved_factor(F, L)], len(m), like)
    moved = [ends(j, column, len(m)) for j, column in enumerate(columns)]
    stays = (dt == 0)[None]
    chol = [jnp.where(stays, old, new) for old, new in zip(_columns(L), moved, strict=True)]
    return Opened(*fence((jnp.where(stays, m, mean), chol)))


def dense(F: Array, X: Array, first: int = 0) -> Array:
    """F X, where rows of X before ``first`` are zero. Column by column of F: what XLA makes the fastest loop of."""
    total = F[:, first][:, None] * X[first][None]
    for k in range(first + 1, len(X)):
        total = total + F[:, k][:, None] * X[k][None]
    return fence(total)


def moved_mean(m: Array, F: Matrix, c: Matrix) -> Array:
    """F m + c."""
    known = not (isinstance(F, jax.Array) and F.ndim > 2)
    mean = stack(matvec(rows(F), list(m)), m[0]) if known else dense(F, m[:, None])[:, 0]
    return mean + stack(vector(c), m[0])


def moved_factor(F: Matrix, L: Array, below: Array | None = None) -> list[Panel]:
    """The columns of F L, with more rows below."""
    below = L[:0] if below is None else below
    if isinstance(F, jax.Array) and F.ndim > 2:
        return _dense_factor(F, L, below)
    return _sparse_factor(rows(F), L, below)


def _dense_factor(F: Array, L: Array, below: Array) -> list[Panel]:
    n, every = len(L), tuple(range(len(L) + len(below)))
    parts = [(dense(F, L[:, j : j + WIDTH], j), below[:, j : j + WIDTH]) for j in range(0, n, WIDTH)]
    return [Panel(every, jnp.concatenate(part) if len(below) else part[0]) for part in parts]


def _sparse_factor(F: Rows, L: Array, below: Array) -> list[Panel]:
    """F L row by row, known zeros of F skipped: row i has as many entries as L has in the last row that it takes."""
    used, rows_of_L, n = [[k for k, f in enumerate(row) if not is_zero(f)] for row in F], list(L), len(L)
    product: dict[int, Array] = {}
    for i, ks in enumerate(used):
        terms = [_times(F[i][k], rows_of_L[k][: ks[-1] + 1]) for k in ks]
        product |= {i: fence(sum(terms[1:], terms[0]))} if terms else {}
    product |= {n + i: row for i, row in enumerate(below)}
    used += [[n - 1]] * len(below)
    out = []
    starts = sorted({0, *(ks[-1] + 1 for ks in used if ks)} - {n})
    for start, stop in zip(starts, [*starts[1:], n], strict=True):
        filled = tuple(i for i in product if used[i][-1] >= start)
        if filled:
            out.append(Panel(filled, fence(jnp.stack([product[i][start:stop] for i in filled]))))
    return out


def _times(f: Entry, x: Array) -> Array:
    return multiply(f[None] if jnp.ndim(f) else f, x)


def _once(e: Entry) -> Entry:
    return e if isinstance(e, float) else fence(e)


def ends(first: int, column: Column, stop: int) -> Array:
    """Entries ``first`` to ``stop`` of a column of a triangular matrix."""
    return spread(jnp.concatenate([column.head[None], column.tail]), column.rows, range(first, stop))


def updated(
    belief: Opened, H: Rows, d: list[Entry], chol_R: Rows, y: Array, mask: Array
) -> tuple[Opened, Innovation, Gain, list[Array]]:
    """``update``, with the gain and the whitened innovations."""
    m, L = belief
    n, ny, like = len(m), len(H), m[0]
    mean = fence(stack(matvec(H, list(m)), like) + stack(vector(d), like))
    gain, sd = gain_of(L, H, chol_R, mask, like)
    joint, w = condition(gain, jnp.concatenate([mean, m]), y, mask)
    log_lik = -0.5 * math.log(2 * math.pi) * jnp.sum(mask, axis=0)
    for w_i, s in zip(w, gain.s, strict=True):
        log_lik = log_lik - 0.5 * w_i * w_i - jnp.log(jnp.abs(s))
    chol = [ends(ny + j, column, ny + n) for j, column in enumerate(gain.columns[ny:])]
    log_lik = jnp.where(gain.positive, log_lik, -jnp.inf)
    return Opened(joint[ny:], chol), Innovation(log_lik, mean, sd, gain.positive), gain, w


class Gain(NamedTuple):
    """Columns of the factor of (y, x): channels first. ``s`` is the channels' diagonal, 1 where S is singular."""

    columns: list[Column]
    s: list[Array]
    positive: Bool[Array, "*m s n"]


def gain_of(L: list[Array], H: Rows, chol_R: Rows, mask: Array, like: Array) -> tuple[Gain, Float[Array, "y *m s n"]]:
    """The triangular array, and the predictive standard deviation of every channel."""
    n, ny = len(L), len(H)
    HL = [[_once(dot(h[j:], list(column))) for j, column in enumerate(L)] for h in H]
    sd = fence(jnp.sqrt(stack([dot(f, f) + dot(r, r) for f, r in zip(HL, chol_R, strict=True)], like)))
    columns = triangular_columns(_array(HL, L, chol_R, mask, like), ny + n, like)
    positive, diagonal = jnp.ones(like.shape, bool), []
    for i, noisy in enumerate(_surely_noisy(chol_R)):
        s = jnp.abs(columns[i].head)
        singular = (s <= TOLERANCE * jnp.finfo(s.dtype).eps * sd[i]) & ~noisy & mask[i]
        diagonal.append(jnp.where(singular, 1.0, columns[i].head))
        positive = positive & ~singular
    return Gain(columns, diagonal, positive), sd


def condition(gain: Gain, joint: Array, y: Array, mask: Array) -> tuple[Array, list[Array]]:
    """Means of (y, x) after channel by channel of y, and the whitened innovations, 0 where missing."""
    whitened = []
    for i, (column, s) in enumerate(zip(gain.columns, gain.s, strict=False)):
        w = jnp.where(mask[i], y[i] - joint[i], 0.0) / s
        joint = joint + spread(column.tail, column.rows[1:], range(len(joint))) * w[None]
        whitened.append(w)
    return joint, whitened


def _array(HL: Rows, L: list[Array], chol_R: Rows, mask: Array, like: Array) -> list[Panel]:
    """The columns of the array above, rows of missing channels emptied but for a 1 in a column of their own.

    Independent noise has that column for itself already.
    """
    n, ny = len(L), len(HL)
    seen = [[0.0 if is_zero(e) else jnp.where(mask[i], e, 0.0) for e in HL[i]] for i in range(ny)]
    if all(is_zero(chol_R[i][j]) for i in range(ny) for j in range(len(chol_R[i])) if i != j):
        noise = [[jnp.where(mask[i], chol_R[i][j], 1.0) if i == j else 0.0 for j in range(ny)] for i in range(ny)]
    else:
        unit = [[jnp.where(mask[i], 0.0, 1.0) if i == j else 0.0 for j in range(ny)] for i in range(ny)]
        noise = [unit[i] + [0.0 if is_zero(r) else jnp.where(mask[i], r, 0.0) for r in chol_R[i]] for i in range(ny)]
    out = [p for column in zip(*noise, strict=True) for p in panels([[e] for e in column], like)]
    for j, column in enumerate(L):
        state = Panel(tuple(range(ny + j, ny + n)), column[:, None])
        top = panels([[row[j]] for row in seen], like)
        out.append(Panel(top[0].rows + state.rows, jnp.concatenate([top[0].values, state.values])) if top else state)
    return out


def _surely_noisy(chol_R: Rows) -> list[Array | bool]:
    """Channels with noise of their own whatever the earlier ones say: S cannot be singular there, however small it is.

    Told from the diagonal of a chol_R known to be lower triangular up to that row.
    """
    lower = [all(is_zero(r) for i in range(k + 1) for r in chol_R[i][i + 1 :]) for k in range(len(chol_R))]
    return [jnp.asarray(row[k]) != 0 if lower[k] else jnp.asarray(False) for k, row in enumerate(chol_R)]
