"""Inner particles ``[..., m, s, n]``: weights along m, resampling of every outer particle by itself, and gathering.

Systematic resampling (Kitagawa 1996, doi:10.2307/1390750) without a search, for all columns at once:

    C_i = w_1 + ... + w_i,   total 1
    K_i = number of points (j + u_j) / M below C_i = ceil(M C_i - u) if all u_j = u        j = 0, ..., M-1
    a_j = number of i with K_i <= j                    a histogram of K, added up

Particle i is then the ancestor of slots K_{i-1}, ..., K_i - 1: of M w_i on average, whatever the order of particles.
Measured on one core, M = N = 256: 4 ns per particle, against 25 for a vmapped ``searchsorted``. Sums along m go row by
row, which a CPU does for all n at once.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped


def normalise(log_weight: Float[Array, "m s n"]) -> tuple[Float[Array, "m s n"], Float[Array, "s n"]]:
    """Log weights that sum to one, and the log of what they summed to.

    Where that is not finite (all zero, or a NaN among them) they are made equal: nothing is known of such a particle.
    """
    top = jnp.max(log_weight, axis=0)
    shift = jnp.where(jnp.isfinite(top), top, 0.0)
    total = shift + jnp.log(jnp.sum(jnp.exp(log_weight - shift[None]), axis=0))
    equal = -jnp.log(jnp.asarray(len(log_weight), log_weight.dtype))
    return jnp.where(jnp.isfinite(total)[None], log_weight - total[None], equal), total


def systematic(key: Array, weight: Float[Array, "m s n"]) -> Int[Array, "m s n"]:
    """Ancestors, one uniform number for each outer particle."""
    u = uniform(key, weight[:1])
    return _ancestors(jnp.ceil(_scaled(weight) - u).astype(jnp.int32))


def stratified(key: Array, weight: Float[Array, "m s n"]) -> Int[Array, "m s n"]:
    """Ancestors, one uniform number for each slot."""
    scaled = _scaled(weight)
    below = jnp.clip(jnp.floor(scaled).astype(jnp.int32), 0, len(weight) - 1)
    in_slot = take(uniform(key, weight), below) < scaled - below.astype(scaled.dtype)
    return _ancestors(below + in_slot)


SCHEMES: dict[str, Callable[[Array, Array], Array]] = {"systematic": systematic, "stratified": stratified}


def take(x: Shaped[Array, "*k m s n"], index: Int[Array, "j s n"]) -> Shaped[Array, "*k j s n"]:
    """Row ``index[j, s, n]`` of x in place (j, s, n)."""
    _, s, n = index.shape
    column = jnp.arange(s * n, dtype=index.dtype).reshape(1, s, n)
    flat = x.reshape(*x.shape[:-3], -1)
    return flat.at[..., index * (s * n) + column].get(mode="promise_in_bounds")


def uniform(key: Array, like: Float[Array, "*m s n"]) -> Float[Array, "*m s n"]:
    """Uniform numbers, of each series by its own key."""
    shape = (*like.shape[:-2], like.shape[-1])
    return jnp.moveaxis(jax.vmap(lambda k: jax.random.uniform(k, shape, like.dtype))(key), 0, -2)


def running_sum(a: Array) -> Array:
    """Cumulative sum over the first axis, row by row."""

    def add(total: Array, row: Array) -> tuple[Array, Array]:
        return total + row, total + row

    return jax.lax.scan(add, jnp.zeros_like(a[0]), a)[1]


def _scaled(weight: Float[Array, "m s n"]) -> Float[Array, "m s n"]:
    """M C_i; the last is M exactly."""
    total = running_sum(weight)
    return total * (len(weight) / total[-1:])


def _ancestors(below: Int[Array, "m s n"]) -> Int[Array, "m s n"]:
    """From the number of points below each cumulative weight."""
    m, s, n = below.shape
    column = jnp.arange(s * n, dtype=jnp.int32).reshape(1, s, n)
    slot = jnp.where(below < m, below, m) * (s * n) + column  # m: past the end, dropped
    histogram = jnp.zeros(m * s * n, jnp.int32).at[slot].add(1, mode="drop")
    return jnp.minimum(running_sum(histogram.reshape(below.shape)), m - 1)
