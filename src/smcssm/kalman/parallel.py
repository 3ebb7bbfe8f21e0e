"""Many rows at once: the Kalman filter in blocks, sequential inside of blocks and a scan across.

Sarkka & Garcia-Fernandez (2021, doi:10.1109/TAC.2020.2976316); square roots: Yaghoobi, Corenflos, Hassan & Sarkka
(2022, arXiv 2207.00426). The element of a span of rows is what they say given the state x_0 before them:

    x_k | x_0 ~ N(A x_0 + b, U U'),        p(rows | x_0) proportional to exp(-|zeta - Z' x_0|^2 / 2)

    1  in all blocks side by side, row by row: the element of each block, from x_0 known exactly (that of the first from
       the belief before it, whatever x_0 is)
           (b, U) by an ordinary step, A as its mean is but for c, d and y; the whitened innovations join (Z, zeta)
    2  across blocks (Hillis & Steele 1986, doi:10.1145/7902.7903), distances d = 1, 2, 4, ...:
           element[k] <- element[k] after element[k - d]:
               the later one is a row of the earlier: zeta = Z' x + n, n ~ N(0, I), then x' = A x + b + U e
       hence the belief before each block
    3  in all blocks side by side: the ordinary filter from there

Only moments come from the scan. Likelihoods come from 3, one update per row, so that they are as accurate as those of
the sequential filter, of which this has the signature. Blocks lie on the series axis. A row whose innovation covariance
is singular once x_0 is known (an exact observation, say) has no element, and that of an explosive state without noise
grows beyond all numbers; where one is met, all is filtered row by row, but for particles that are NaN to begin with.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from smcssm.core import Matrix, Observation, System
from smcssm.gaussian import Gaussian
from smcssm.kalman import sequential
from smcssm.kalman.sequential import Keep, SystemOf, dense
from smcssm.linalg import in_one_kernel
from smcssm.linalg.dense import extended
from smcssm.linalg.entries import Rows, is_zero, multiply, rows, vector
from smcssm.linalg.entrywise import at_entry, scan_entries
from smcssm.linalg.panels import fence

SIDE_BY_SIDE = 1 << 15  # blocks of all particles that an H100 goes through in the time of one
SHORTEST = 8  # rows in a block


class Element(NamedTuple):
    """A span of rows given the state x_0 before it: A, the law of the last state at x_0 = 0, and [Z; zeta']."""

    A: Float[Array, "x x s n"]
    given: Gaussian
    about: Float[Array, "_ x s n"]
    exists: Bool[Array, "s n"]


def filter(
    system: SystemOf, params: PyTree, belief: Gaussian, rows: Observation, keep: Keep, blocks: int | None = None
) -> tuple[Gaussian, PyTree]:
    """The belief after many rows ``[t, ..., s, 1]``, and what is kept of each ``[t, ...]``."""

    def through(params: PyTree, belief: Gaussian, rows: Observation, blocks: int) -> tuple[Gaussian, PyTree]:
        del blocks
        return sequential.filter(system, params, belief, rows, keep)

    if blocks is None:
        particles = max(math.prod(leaf.shape[-2:]) for leaf in jax.tree.leaves((params, belief)))
        blocks = blocks_for(len(rows.dt), particles)
    return in_blocks(system, params, belief, rows, through, blocks)


Through = Callable[[PyTree, Gaussian, Observation, int], tuple[Gaussian, PyTree]]
"""One pass over rows, of so many blocks side by side: the beliefs after them, and what is kept of each row."""


def in_blocks(
    system: SystemOf, params: PyTree, belief: Gaussian, rows: Observation, through: Through, blocks: int
) -> tuple[Gaussian, PyTree]:
    """A pass over rows, whose last part, 3 above, is ``through``; of one block that alone."""
    T, B = len(rows.dt), blocks
    if B == 1:
        return through(params, belief, rows, 1)
    of_block, many, start = fold(rows, B), repeat(params, B), repeat(belief, B)
    element = _elements(system, many, start, of_block, B)
    starts = _starts(element, start, B)
    usable = element.exists & ~_any(lambda a: ~jnp.isfinite(a), starts)
    lost = _any(jnp.isnan, (many, start))  # from the start: nothing is to be saved by going row by row

    def together() -> tuple[Gaussian, PyTree]:
        ends, kept = through(many, starts, of_block, B)
        last = jax.tree.map(lambda leaf: leaf[..., -belief.mean.shape[-2] :, :], ends)
        return last, unfold(kept, B, T)

    def in_turn() -> tuple[Gaussian, PyTree]:
        return through(params, belief, rows, 1)

    return jax.lax.cond(jnp.all(usable | lost), together, in_turn)


def _any(is_so: Callable[[Array], Array], tree: PyTree) -> Bool[Array, "s n"]:
    """Particles with any number that is so."""
    return reduce(operator.or_, [jnp.any(is_so(a), axis=tuple(range(a.ndim - 2))) for a in jax.tree.leaves(tree)])


def blocks_for(n_rows: int, particles: int = 1) -> int:
    """How many blocks, a power of two: on a CPU as many as rows in each, about; elsewhere as many as fill the device.

    There a row of all blocks is one kernel, which takes as long for one block as for so many.
    """
    if jax.default_backend() == "cpu":
        return 1 << max(0, round(0.5 * math.log2(max(n_rows, 1))))
    most = min(n_rows // SHORTEST, SIDE_BY_SIDE // particles)
    return 1 << max(0, most.bit_length() - 1)


def fold(tree: PyTree, blocks: int) -> PyTree:
    """Rows ``[t, ..., s, n]`` as rows of all blocks, ``[l, ..., blocks * s, n]``; zero rows at the end are nothing."""

    def one(leaf: Array) -> Array:
        length = -(-len(leaf) // blocks)
        padding = [(0, blocks * length - len(leaf))] + [(0, 0)] * (leaf.ndim - 1)
        leaf = jnp.pad(leaf, padding).reshape(blocks, length, *leaf.shape[1:])
        leaf = jnp.moveaxis(leaf, 0, -3)
        return leaf.reshape(*leaf.shape[:-3], -1, leaf.shape[-1])

    return jax.tree.map(one, tree)


def unfold(tree: PyTree, blocks: int, n_rows: int) -> PyTree:
    """The inverse of ``fold``."""

    def one(leaf: Array) -> Array:
        leaf = leaf.reshape(*leaf.shape[:-2], blocks, -1, leaf.shape[-1])
        leaf = jnp.moveaxis(leaf, -3, 0)
        return leaf.reshape(-1, *leaf.shape[2:])[:n_rows]

    return jax.tree.map(one, tree)


def repeat(tree: PyTree, blocks: int) -> PyTree:
    """The same for every block."""
    return jax.tree.map(lambda leaf: jnp.tile(leaf, (blocks, 1)), tree)


def prefixes[T](combine: Callable[[T, T], T], elements: T, blocks: int) -> T:
    """Every block combined with all before it: log2(blocks) rounds of one program, so that it is compiled once."""

    def one_round(i: Array, elements: T) -> T:
        distance = 1 << i
        earlier = jax.tree.map(lambda leaf: shift(leaf, distance, blocks), elements)
        return jax.tree.map(
            lambda new, old: jnp.where(_number(old, blocks) >= distance, new, old),
            in_one_kernel(combine, earlier, elements),
            elements,
        )

    return jax.lax.fori_loop(0, math.ceil(math.log2(blocks)), one_round, elements)


def shift(leaf: Array, distance: Array | int, blocks: int) -> Array:
    """Block k - distance in the place of block k; at the start some that do not count."""
    return jnp.roll(leaf, distance * (leaf.shape[-2] // blocks), axis=-2)


def _number(leaf: Array, blocks: int) -> Array:
    """The number of each block, to broadcast against a leaf ``[..., blocks * s, n]``."""
    number = jnp.arange(leaf.shape[-2]) // (leaf.shape[-2] // blocks)
    return number.reshape(*[1] * (leaf.ndim - 2), -1, 1)


def _elements(system: SystemOf, params: PyTree, start: Gaussian, rows: Observation, blocks: int) -> Element:
    """Pass 1."""

    def one(params: PyTree, element: Element, obs: Observation) -> Element:
        return over(element, system(params, obs), obs)

    def row(element: Element, obs: Observation) -> tuple[Element, None]:
        return in_one_kernel(one, params, element, obs), None

    return jax.lax.scan(row, _nothing(start, blocks), rows)[0]


def _nothing(start: Gaussian, blocks: int) -> Element:
    """The element of no rows; the first block's follows the belief before it, whatever x_0 is."""
    x, like = len(start.mean), start.mean[0]
    given = jax.tree.map(lambda leaf: jnp.where(_number(leaf, blocks) == 0, leaf, 0), start)
    A = jnp.where(_number(start.chol, blocks) == 0, 0, jnp.broadcast_to(_eye(x, like), (x, x, *like.shape)))
    return Element(A, given, jnp.zeros((x + 1, x, *like.shape), like.dtype), jnp.ones(like.shape, bool))


def over(element: Element, now: System, obs: Observation) -> Element:
    """With one row more."""
    element = _move(element, now.F, now.c, now.chol_Q, obs.dt)
    return _absorb(element, now.H, now.d, now.chol_R, obs.y, obs.mask)


def _move(element: Element, F: Matrix, c: Matrix, chol_Q: Matrix, dt: Array) -> Element:
    """Over a transition."""
    A = jnp.where((dt == 0)[None, None], element.A, _product(rows(F), element.A))
    return element._replace(A=A, given=sequential.predict(element.given, F, c, chol_Q, dt))


def _absorb(element: Element, H: Matrix, d: Matrix, chol_R: Matrix, y: Array, mask: Array) -> Element:
    """With an observation, whose innovation tells of x_0."""
    H, A = rows(H), element.A
    after, _, gain, w = sequential.updated(sequential.opened(element.given), H, vector(d), rows(chol_R), y, mask)
    joint = jnp.concatenate([_product(H, A), A])
    condition = jax.vmap(lambda a: sequential.condition(gain, a, jnp.zeros_like(y), mask), in_axes=1, out_axes=(1, 0))
    joint, of_A = condition(joint)
    about = _with_rows(element.about, -jnp.stack(of_A), jnp.stack(w))
    return Element(joint[len(H) :], sequential.closed(after), about, element.exists & gain.positive)


def _with_rows(about: Array, W: Float[Array, "y x s n"], w: Float[Array, "y s n"]) -> Array:
    """[Z; zeta'] when w = W x_0 + n, n ~ N(0, I), was seen as well; what is left of zeta is of no consequence."""
    return extended(about, fence(jnp.concatenate([jnp.moveaxis(W, 0, 1), w[None]])))


def _after(earlier: Element, later: Element) -> Element:
    """The element of two spans, the second of which is a row of the first, by one triangular array."""
    x, Z, zeta = len(earlier.A), jnp.swapaxes(later.about[:-1], 0, 1), later.about[-1]
    take = jnp.concatenate([Z, later.A])
    zero, eye = jnp.zeros_like(later.A), jnp.broadcast_to(_eye(x, zeta), later.A.shape)
    own = jnp.concatenate([jnp.concatenate([eye, zero], 1), jnp.concatenate([zero, later.given.chol], 1)])
    joint = extended(own, dense(take, earlier.given.chol))
    means = dense(take, jnp.concatenate([earlier.A, earlier.given.mean[:, None]], 1))
    means = means.at[:, -1].add(jnp.concatenate([-zeta, later.given.mean]))

    def condition(means: Array, at: tuple[Any, Array]) -> tuple[Array, Array]:
        i, column = at
        pivot, row = at_entry(column, i), at_entry(means, i)
        w = fence(-row / pivot[None])
        return means + column[:, None] * w[None], w

    means, w = scan_entries(condition, means, (np.arange(x), jnp.moveaxis(joint[:, :x], 1, 0)))
    about = _with_rows(earlier.about, -w[:, :-1], w[:, -1])
    return Element(means[x:, :-1], Gaussian(means[x:, -1], joint[x:, x:]), about, earlier.exists & later.exists)


def _eye(x: int, like: Array) -> Array:
    return jnp.eye(x, dtype=like.dtype)[..., None, None]


def _starts(element: Element, start: Gaussian, blocks: int) -> Gaussian:
    """Pass 2: the belief before each block."""
    before = jax.tree.map(lambda leaf: shift(leaf, 1, blocks), prefixes(_after, element, blocks).given)
    return jax.tree.map(lambda new, old: jnp.where(_number(old, blocks) > 0, new, old), before, start)


def _product(M: Rows, A: Float[Array, "x k s n"]) -> Float[Array, "_ k s n"]:
    """M A, known zeros and ones of M for nothing."""
    out = []
    for row in M:
        terms = [multiply(e[None] if jnp.ndim(e) else e, A[k]) for k, e in enumerate(row) if not is_zero(e)]
        out.append(fence(sum(terms[1:], terms[0])) if terms else jnp.zeros_like(A[0]))
    return jnp.stack(out)
