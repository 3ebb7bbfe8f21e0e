"""From many weighted candidates to m of them, without bias, for every outer particle at once.

Optimal resampling (Fearnhead & Clifford 2003, doi:10.1111/1467-9868.00421): of all unbiased reductions to m weighted
points the one whose weights have the least expected squared error. For weights w_1..w_c and c > m:

    find the threshold C with  sum_i min(1, w_i / C) = m
    keep every candidate with w_i > C, and its weight                                   A of them
    of the others draw m - A, candidate i with probability w_i / C (systematically), each of weight C

E[new weight of i] = w_i; and the sum of all weights is the same after as before, since the others add up to (m - A) C.
Where no more than m candidates have any weight they are all kept, as they are: nothing is random.

C is found by Newton's method on 1 / C from m / sum w: sum_i min(1, w_i / C) is concave and piecewise linear in 1 / C,
so that the iterates grow, and reach the root in finitely many steps.

Running sums go along the candidates one after the other, with all outer particles side by side: on a CPU ``cumsum``
took 35 times as long.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from smcssm.linalg.panels import fence
from smcssm.resampling import effective_sample_size

Reduced = tuple[Int[Array, "m s n"], Float[Array, "m s n"]]
"""Which candidate is in each place, and its log weight; -inf in places that stay empty."""


def optimal(key: Array, log_weight: Float[Array, "c s n"], m: int) -> Reduced:
    """Fearnhead & Clifford's reduction of c candidates to m <= c; ``key`` is [s] keys."""
    w, top = _relative(log_weight)
    C = threshold(w, m)
    kept = w > C[None]
    others = jnp.where(kept, 0.0, w)
    hits = _hits(key, others, m - jnp.sum(kept, axis=0, dtype=jnp.int32))
    places, filled = compress(kept | (hits > 0), m)
    log_C = jnp.log(jnp.where(C > 0, C, 1.0)) + top
    weight = taken(jnp.where(kept, log_weight, log_C[None]), places)
    return places, jnp.where(filled, weight, -jnp.inf)


def systematic(key: Array, log_weight: Float[Array, "c s n"], m: int) -> Reduced:
    """m equal shares drawn with one uniform number each (Kitagawa 1996); all are kept where m have any weight."""
    w, _ = _relative(log_weight)
    few = (jnp.sum(w > 0, axis=0) <= m)[None]
    drawn, share = shares(key, log_weight, m)
    places, filled = compress(w > 0, m)
    weight = jnp.where(filled, taken(log_weight, places), -jnp.inf)
    return jnp.where(few, places, drawn), jnp.where(few, weight, share)


def when_degenerate(key: Array, log_weight: Float[Array, "m s n"]) -> Reduced:
    """As many as there are: resampled systematically where the effective sample size is below one half of that."""
    m = len(log_weight)
    drawn, share = shares(key, log_weight, m)
    poor = (effective_sample_size(jnp.moveaxis(log_weight, 0, -1)) < 0.5 * m)[None]
    same = jnp.arange(m, dtype=jnp.int32)[:, None, None]
    return jnp.where(poor, drawn, same), jnp.where(poor, share, log_weight)


def shares(key: Array, log_weight: Float[Array, "c s n"], m: int) -> tuple[Int[Array, "m s n"], Float[Array, "1 s n"]]:
    """Candidates by the number of equally spaced points that hit them, and the log weight of each share."""
    w, top = _relative(log_weight)
    total = jnp.sum(w, axis=0)
    points = _points(key, w, jnp.full(total.shape, m, jnp.int32))
    goal = jnp.arange(m, dtype=jnp.int32)[:, None, None]

    def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        reached = taken(points, middle) > goal
        return jnp.where(reached, low, jnp.minimum(middle + 1, high)), jnp.where(reached, middle, high)

    low = jnp.zeros((m, *total.shape), jnp.int32)
    bounds = (low, jnp.full_like(low, len(w) - 1))
    places, _ = jax.lax.fori_loop(0, (len(w) - 1).bit_length(), halve, bounds)
    return places, (jnp.log(jnp.where(total > 0, total, 1.0)) + top - jnp.log(m))[None]


def threshold(w: Float[Array, "c s n"], m: int) -> Float[Array, "s n"]:
    """The C above; 0 where no more than m weights are positive."""
    few = jnp.sum(w > 0, axis=0) <= m

    def grows(state: tuple[Array, Array, Array]) -> Bool[Array, ""]:
        return jnp.any(state[2])

    def newton(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        C, above, _ = state
        kept = w > C[None]
        new = jnp.sum(kept, axis=0, dtype=jnp.int32)
        C = jnp.sum(jnp.where(kept, 0.0, w), axis=0) / jnp.maximum(m - new, 1)
        return jnp.where(few, 0.0, C), new, (new > above) & ~few

    start = jnp.where(few, 0.0, jnp.sum(w, axis=0) / m)
    return jax.lax.while_loop(grows, newton, (start, jnp.zeros_like(few, jnp.int32), ~few))[0]


def compress(chosen: Bool[Array, "c s n"], m: int) -> tuple[Int[Array, "m s n"], Bool[Array, "m s n"]]:
    """The numbers of the first m that are chosen, in order, and which of the m places they fill.

    Each moves by the number d of those before it that are not chosen: first by the lowest bit of d where it is 1, then
    by the next bit, and never two to one place (Warren 2012, Hacker's Delight, 7-4). What moves is d itself.
    """

    def count(holes: Int[Array, "s n"], chosen: Bool[Array, "s n"]) -> tuple[Int[Array, "s n"], Int[Array, "s n"]]:
        holes = holes + (~chosen).astype(jnp.int32)
        return holes, jnp.where(chosen, holes, -1)

    _, d = jax.lax.scan(count, jnp.zeros(chosen.shape[1:], jnp.int32), chosen)
    bit = 1
    while bit < len(chosen):
        right = jnp.concatenate([d[bit:], jnp.full_like(d[:bit], -1)])
        arrives, stays = (right >= 0) & (right & bit > 0), (d >= 0) & (d & bit == 0)
        d = fence(jnp.where(arrives, right, jnp.where(stays, d, -1)))
        bit *= 2
    filled = d[:m] >= 0
    return jnp.where(filled, d[:m] + jnp.arange(m, dtype=jnp.int32)[:, None, None], 0), filled


def taken(a: Array, places: Int[Array, "m s n"]) -> Array:
    """Entries ``[..., c, s, n]`` at the candidates that fill the places."""
    index = places.reshape((1,) * (a.ndim - 3) + places.shape)
    return jnp.take_along_axis(a, index, axis=-3, mode="promise_in_bounds")


def uniform(key: Array, like: Float[Array, "s n"]) -> Float[Array, "s n"]:
    """Numbers in [0, 1), of each series by its own key."""
    return jax.vmap(lambda k: jax.random.uniform(k, like.shape[-1:], like.dtype))(key)


def fold_in(key: Array, use: int) -> Array:
    """Another key of each series."""
    return jax.vmap(lambda k: jax.random.fold_in(k, use))(key)


def _relative(log_weight: Float[Array, "c s n"]) -> tuple[Float[Array, "c s n"], Float[Array, "s n"]]:
    """Weights with a largest one of 1, and its logarithm; all 0 where there is none or one is NaN."""
    top = jnp.max(log_weight, axis=0)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    w = jnp.exp(log_weight - top[None])
    return jnp.where(jnp.isfinite(w), w, 0.0), top


def _points(key: Array, w: Float[Array, "c s n"], m: Int[Array, "s n"]) -> Int[Array, "c s n"]:
    """How many of m equally spaced points lie below the sum of the weights up to each, the first one random."""
    total, start = jnp.sum(w, axis=0), uniform(key, w[0])
    each = m / jnp.where(total > 0, total, 1.0)

    def count(sum: Float[Array, "s n"], w: Float[Array, "s n"]) -> tuple[Float[Array, "s n"], Int[Array, "s n"]]:
        sum = sum + w
        return sum, jnp.floor(sum * each + start).astype(jnp.int32)

    return jax.lax.scan(count, jnp.zeros_like(total), w)[1]


def _hits(key: Array, w: Float[Array, "c s n"], m: Int[Array, "s n"]) -> Int[Array, "c s n"]:
    """How many of m equally spaced points hit each candidate."""
    points = _points(key, w, m)
    return jnp.where(w > 0, jnp.diff(points, axis=0, prepend=0), 0)
