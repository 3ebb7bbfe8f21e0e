"""Weights of a population, and resampling (systematic: Kitagawa 1996, doi:10.2307/1390750). Last axis: particles."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Sums(NamedTuple):
    """Of unnormalised weights: the logarithm of the largest, and over it the sums of weights and of their squares."""

    top: Float[Array, "..."]
    total: Float[Array, "..."]
    squares: Float[Array, "..."]

    @property
    def log_total(self) -> Float[Array, "..."]:
        """Log of the sum of weights; -inf when every weight is zero."""
        return jnp.log(self.total) + self.top

    @property
    def effective_sample_size(self) -> Float[Array, "..."]:
        """See the function of that name."""
        return jnp.where(self.squares > 0, self.total**2 / jnp.where(self.squares > 0, self.squares, 1.0), 0.0)

    def normalise(self, log_weight: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """The weights that were added up, so that they sum to one."""
        return jnp.exp(log_weight - self.top[..., None]) / self.total[..., None]


def sums(log_weight: Float[Array, "... n"]) -> Sums:
    """What evidence, effective sample size and normalised weights have in common."""
    top = jax.lax.stop_gradient(jnp.max(log_weight, axis=-1))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    w = jnp.exp(log_weight - top[..., None])
    return Sums(top, jnp.sum(w, axis=-1), jnp.sum(w * w, axis=-1))


def normalise(log_weight: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """Weights that sum to one."""
    return sums(log_weight).normalise(log_weight)


def log_mean_weight(log_weight: Float[Array, "... n"]) -> Float[Array, "..."]:
    """Log of the mean unnormalised weight; -inf when every weight is zero."""
    return sums(log_weight).log_total - jnp.log(log_weight.shape[-1])


def effective_sample_size(log_weight: Float[Array, "... n"]) -> Float[Array, "..."]:
    """1 / sum of squared normalised weights (Kong, Liu & Wong 1994); 0 when every weight is zero."""
    return sums(log_weight).effective_sample_size


def distinct_sample_size(z: Float[Array, " n"], weight: Float[Array, " n"]) -> Float[Array, ""]:
    """The effective sample size of normalised weights where copies of a value count as one."""
    if len(z) <= 500:  # all pairs are faster than sorting
        return 1 / (weight @ jnp.sum(jnp.where(z[:, None] == z[None], weight[None], 0.0), axis=1))
    order = jnp.argsort(z)
    number = jnp.cumsum(jnp.diff(z[order], prepend=z[order[:1]]) != 0)
    return 1 / jnp.sum(jax.ops.segment_sum(weight[order], number, len(z), indices_are_sorted=True) ** 2)


def largest_exponent(
    log_weight: Float[Array, "... n"],
    log_factor: Float[Array, "... n"],
    room: Float[Array, "..."],
    goal: Float[Array, "..."],
    halvings: int = 60,
) -> Float[Array, "..."]:
    """The largest exponent in (0, room] of a factor at which the ESS reaches ``goal``; bisection on its logarithm.

    That is known to 690 / 2^halvings.
    """
    alive = jnp.where(jnp.isfinite(log_factor), log_weight, -jnp.inf)
    factor = jnp.where(jnp.isfinite(log_factor), log_factor, 0.0)

    def enough(exponent: Float[Array, "..."]) -> Bool[Array, "..."]:
        return effective_sample_size(alive + exponent[..., None] * factor) >= goal

    def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        good = enough(room * jnp.exp(middle))
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, _ = jax.lax.fori_loop(0, halvings, halve, (jnp.full_like(room, -690.0), jnp.zeros_like(room)))
    return jnp.where(enough(room), room, room * jnp.exp(low))


def systematic(key: Array, log_weight: Float[Array, " n"], count: int | None = None) -> Int[Array, " m"]:
    """Ancestors of ``count`` draws, by default as many as there are particles.

    Particle i is drawn floor or ceil of ``count`` times its weight, without bias.
    """
    n = log_weight.shape[-1]
    count = n if count is None else count
    cumulative = jnp.cumsum(normalise(log_weight))
    points = (jnp.arange(count) + jax.random.uniform(key, dtype=cumulative.dtype)) / count
    return jnp.searchsorted(cumulative / cumulative[-1], points, side="right").clip(0, n - 1)


def multinomial(key: Array, log_weight: Float[Array, " n"]) -> Int[Array, " n"]:
    """Ancestors drawn independently; more random than ``systematic``, but lineages tell the variance (see `adapt`)."""
    n = log_weight.shape[-1]
    cumulative = jnp.cumsum(normalise(log_weight))
    points = jnp.sort(jax.random.uniform(key, (n,), cumulative.dtype))
    return jnp.searchsorted(cumulative / cumulative[-1], points, side="right").clip(0, n - 1)


def weighted_quantile(
    ordered: Float[Array, "... n"], weight: Float[Array, "... n"], levels: Float[Array, " q"]
) -> Float[Array, "... q"]:
    """The smallest of sorted values at which the cumulative normalised weight reaches each level."""

    def one(values: Float[Array, " n"], w: Float[Array, " n"]) -> Float[Array, " q"]:
        cumulative = jnp.cumsum(w)
        return values[jnp.searchsorted(cumulative, levels * cumulative[-1])]

    flat = jax.vmap(one)(ordered.reshape(-1, ordered.shape[-1]), weight.reshape(-1, weight.shape[-1]))
    return flat.reshape(*ordered.shape[:-1], levels.shape[0])


def crps_of_draws(
    y: Float[Array, "y s"], draws: Float[Array, "y s n"], weight: Float[Array, "1 s n"]
) -> Float[Array, "y s"]:
    """E|X - y| - E|X - X'| / 2, the continuous ranked probability score, from independent draws of X by weight.

    Without bias: pairs of different draws alone count for E|X - X'| (Ferro 2014, doi:10.1002/qj.2270).
    """
    w = jnp.broadcast_to(weight, draws.shape)
    order = jnp.argsort(jnp.where(w > 0, draws, jnp.inf), axis=-1)
    w, x = (jnp.take_along_axis(a, order, axis=-1) for a in (w, jnp.where(w > 0, draws, 0.0)))
    below, sum_below = jnp.cumsum(w, axis=-1) - w, jnp.cumsum(w * x, axis=-1) - w * x
    apart = jnp.sum(w * (x * below - sum_below), axis=-1) / (1 - jnp.sum(w**2, axis=-1))
    return jnp.sum(w * jnp.abs(x - y[..., None]), axis=-1) - apart


def pareto_shape(log_weight: Float[Array, " n"]) -> Float[Array, ""]:
    """Shape k of a generalised Pareto law fitted to the largest weights; importance sampling is unreliable above 0.7.

    Vehtari, Simpson, Gelman, Yao & Gabry (2024, JMLR 25); the fit is that of Zhang & Stephens (2009,
    doi:10.1198/tech.2009.08017), drawn towards 0.5 as if by ten more observations.
    """
    n = log_weight.shape[-1]
    tail = int(min(0.2 * n, 3 * n**0.5)) + 1
    w = jnp.sort(jnp.exp(log_weight - jnp.max(log_weight)))[-tail - 1 :]
    x = jnp.maximum(w[1:] - w[0], jnp.finfo(w.dtype).tiny)
    grid = 30 + int(tail**0.5)
    b = 1 / x[-1] + (1 - jnp.sqrt(grid / (jnp.arange(grid) + 0.5))) / (3 * x[int(tail / 4 + 0.5) - 1])
    k = jnp.mean(jnp.log1p(-b[:, None] * x[None]), axis=-1)
    profile = tail * (jnp.log(-b / k) - k - 1)
    b = jnp.sum(b * jax.nn.softmax(profile))
    return (tail * jnp.mean(jnp.log1p(-b * x)) + 5) / (tail + 10)
