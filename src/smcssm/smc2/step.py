"""The population over hyperparameters and its step (Chopin, Jacob & Papaspiliopoulos 2013, arXiv 1101.1528).

    for each observation y_t, for every particle i:
        l_i   = log p(y_t | y_1:t-1, theta_i)              one step of the inner filter
        w_i  <- w_i exp(l_i),   Z <- Z * (weighted mean of exp(l))
        if exp(l) alone would collapse the effective sample size:
            choose phi with ESS(w exp(phi l)) = ESS(w) / 2;  w_i <- w_i exp(phi l_i);  pending_i <- l_i

With an exact inner filter this is IBIS (Chopin 2002, doi:10.1093/biomet/89.3.539). The target of the population is
prior(z) exp(log_lik + phi pending) at all times. Outside a surprise phi = 1 and pending = 0; what is pending is kept
apart from ``log_lik``, so that a likelihood of exp(-1e10) does not swallow the rest.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, no_type_check

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt

from smcssm.core import (
    AbstractFilter,
    AbstractKernel,
    AbstractPrior,
    AbstractSchedule,
    FilterInfo,
    Observation,
    Status,
    at_each_particle,
)
from smcssm.resampling import effective_sample_size, log_mean_weight, normalise, weighted_quantile

RECORDED_QUANTILES = (0.05, 0.5, 0.95)


class SMC2(eqx.Module):
    """The parts of one engine. Hashable: programs are compiled once per configuration."""

    prior: AbstractPrior
    filter: AbstractFilter
    kernel: AbstractKernel
    schedule: AbstractSchedule
    ess_threshold: float = 0.5
    impossible: str = "error"
    record: bool = True
    dtype: str = "float64"


@no_type_check  # JAX fills it with placeholders
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Population:
    """N weighted particles for each of S series. Log weights are not normalised; ``key`` is raw key data."""

    key: UInt[Array, "s k"]
    t: Int[Array, " s"]
    z: Float[Array, "z s n"]
    params: PyTree[Array]
    belief: PyTree[Array]
    log_weight: Float[Array, "s n"]
    log_lik: Float[Array, "s n"]
    pending: Float[Array, "s n"]
    phi: Float[Array, " s"]
    log_evidence: Float[Array, " s"]
    scale: Float[Array, "z s 1"]
    order: Int[Array, "h s n"]
    ordered: Float[Array, "h s n"]


class Row(NamedTuple):
    """What is reported of one observation of every series; ``log_evidence`` is the running sum, this one included."""

    log_evidence: Float[Any, " s"]
    predictive_mean: Float[Any, "y s"]
    predictive_sd: Float[Any, "y s"]
    pit: Float[Any, "y s"]
    ess: Float[Any, " s"]
    status: Int[Any, " s"]
    pooled: Bool[Any, " s"]
    quantiles: Float[Any, "h q s"]


class Stream(enum.IntEnum):
    """What a key is for: streams of randomness that never meet."""

    PRIOR = 0
    INIT = 1
    FILTER = 2
    MOVE = 3
    FORECAST = 4


def stream(key: UInt[Array, "s k"], purpose: Stream, *counters: Any) -> Array:
    """One key per series for one purpose at one time. Each is split further, or used, by one caller alone."""
    return fold_in(jax.random.wrap_key_data(key), int(purpose), *counters)


def prior_draws(smc: SMC2, key: Array, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The draws z ``[z, s, n]`` that a population of these keys starts from, and their log weights. On the host."""
    draws = [smc.prior.sample(k, n) for k in stream(key, Stream.PRIOR)]
    return np.stack([np.asarray(z, float) for z, _ in draws], axis=1), np.stack([np.asarray(w) for _, w in draws])


def fold_in(key: Array, *data: Any) -> Array:
    """One key per series, made specific by counters."""
    for d in data:
        key = jax.vmap(jax.random.fold_in)(key, jnp.broadcast_to(jnp.asarray(d, jnp.uint32), key.shape))
    return key


def log_prior(smc: SMC2, z: Float[Array, "z s n"]) -> Float[Array, "s n"]:
    """Log prior density, -inf outside the model's support."""

    def one(z: Float[Array, " z"]) -> Float[Array, ""]:
        inside = smc.filter.model.support(smc.prior.constrain(z))
        return jnp.where(inside, smc.prior.log_prob(z), -jnp.inf)

    return at_each_particle(one)(z)


def particles(smc: SMC2, key: Array, z: Float[Array, "z s n"], blank: Observation) -> tuple[PyTree, PyTree]:
    """Cached parameters and initial beliefs at z."""
    theta = at_each_particle(smc.prior.constrain)(z)
    params = at_each_particle(smc.filter.model.params)(theta)
    params = jax.tree.map(lambda a: a.astype(smc.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, params)
    return params, smc.filter.init(key, params, at_particles(blank))


def at_particles(obs: Observation) -> Observation:
    """The record with one more trailing axis, to broadcast over particles."""
    return jax.tree.map(lambda leaf: leaf[..., None], obs)


def init(
    smc: SMC2, key: Array, z: Float[Array, "z s n"], log_weight: Float[Array, "s n"], blank: Observation
) -> Population:
    """A population from prior draws; evidence starts at 0 relative to the normalised, truncated prior."""
    zero = jnp.zeros_like(log_weight)
    theta = at_each_particle(smc.prior.constrain)(z)
    inside = at_each_particle(smc.filter.model.support)(theta)
    log_weight = jnp.where(inside, log_weight, -jnp.inf)
    params, belief = particles(smc, stream(key, Stream.INIT), z, blank)
    series = jnp.zeros(z.shape[1])
    population = Population(
        key=key,
        t=series.astype(jnp.int64),
        z=z,
        params=params,
        belief=belief,
        log_weight=log_weight - log_mean_weight(log_weight)[:, None],
        log_lik=zero,
        pending=zero,
        phi=series + 1.0,
        log_evidence=series,
        scale=jnp.std(z, axis=-1, keepdims=True),
        order=jnp.zeros((0, *zero.shape), jnp.int32),
        ordered=jnp.zeros((0, *zero.shape)),
    )
    return sort_marginals(smc, population)


def sort_marginals(smc: SMC2, population: Population) -> Population:
    """Sort every hyperparameter once per move, so that its weighted quantiles cost O(N) per step."""
    if not smc.record:
        return population
    theta = at_each_particle(smc.prior.constrain)(population.z)
    flat = jnp.concatenate([theta[n].reshape(-1, *population.log_weight.shape) for n in smc.filter.model.names])
    order = jnp.argsort(flat, axis=-1).astype(jnp.int32)
    ordered = jnp.take_along_axis(flat, order, axis=-1)
    return eqx.tree_at(lambda p: (p.order, p.ordered), population, (order, ordered))


def observe(smc: SMC2, population: Population, obs: Observation) -> tuple[Population, Row]:
    """Take one observation of every series. A series that cannot take it stays as it was, status IMPOSSIBLE."""
    key = stream(population.key, Stream.FILTER, obs.index)
    belief, info = smc.filter.step(key, population.params, population.belief, at_particles(obs))
    increment, status = _checked(population.log_weight, info)
    impossible = ~jnp.any(jnp.isfinite(increment + population.log_weight), axis=-1)
    if smc.impossible == "missing":
        belief, increment = jax.lax.cond(
            jnp.any(impossible),
            lambda: _as_missing(smc, key, population, obs, belief, increment, impossible),
            lambda: (belief, increment),
        )
    new, ess, pooled = _reweight(smc, population, increment)
    new = eqx.tree_at(lambda p: (p.belief, p.t), new, (belief, population.t + 1))
    taken = jnp.ones_like(impossible) if smc.impossible == "missing" else ~impossible
    if obs.reported is not None:
        taken = taken & obs.reported
        impossible = impossible & obs.reported
    new = select(taken, new, population)
    status = jnp.maximum(jnp.max(status, axis=-1), jnp.where(new.phi < 1, Status.BRIDGING, Status.OK))
    status = jnp.where(impossible, Status.IMPOSSIBLE, status)
    mean, sd, pit = _mixture(population.log_weight, info)
    row = Row(new.log_evidence, mean, sd, pit, ess, status, pooled, recorded_quantiles(new))
    return new, row


def _checked(log_weight: Float[Array, "s n"], info: FilterInfo) -> tuple[Float[Array, "s n"], Int[Array, "s n"]]:
    """The increments in float64, NaN and +inf made -inf under a status of their own.

    Particles of weight zero say nothing.
    """
    increment = info.log_lik.astype(jnp.float64)
    broken = jnp.isnan(increment) | jnp.isposinf(increment)
    status = jnp.maximum(info.status.astype(jnp.int32), jnp.where(broken, Status.NOT_FINITE, Status.OK))
    return jnp.where(broken, -jnp.inf, increment), jnp.where(jnp.isfinite(log_weight), status, Status.OK)


def _as_missing(
    smc: SMC2,
    key: Array,
    population: Population,
    obs: Observation,
    belief: PyTree,
    increment: Float[Array, "s n"],
    impossible: Bool[Array, " s"],
) -> tuple[PyTree, Float[Array, "s n"]]:
    """Let time pass without a value in the series for which the value was impossible."""
    absent = eqx.tree_at(lambda o: (o.y, o.mask), obs, (jnp.zeros_like(obs.y), jnp.zeros_like(obs.mask)))
    only_time, _ = smc.filter.step(key, population.params, population.belief, at_particles(absent))
    return select(impossible, only_time, belief), jnp.where(impossible[:, None], 0.0, increment)


def _reweight(
    smc: SMC2, population: Population, increment: Float[Array, "s n"]
) -> tuple[Population, Float[Array, " s"], Bool[Array, " s"]]:
    """Weights and evidence after an increment, the ESS, and where it was a surprise and is partly pending."""
    old = population.log_weight
    surprise, phi = jnp.zeros_like(population.phi, bool), population.phi
    if smc.schedule.tempering:
        surprise = _is_surprise(old, population.phi[:, None] * increment, population.z.shape[0])
        fresh = surprise & (phi == 1)
        phi = jax.lax.cond(
            jnp.any(fresh),
            lambda: jnp.where(fresh, tempering_exponent(old, increment, jnp.ones_like(phi)), phi),
            lambda: phi,
        )
        surprise = surprise & (phi < 1)
    settled = population.log_lik + jnp.where(surprise[:, None], 0.0, increment)
    pending = population.pending + jnp.where(surprise[:, None], increment, 0.0)
    entering = jnp.where(surprise[:, None], times(phi[:, None], increment), increment)
    new = old + entering
    log_evidence = population.log_evidence + (log_mean_weight(new) - log_mean_weight(old))
    changed = (new, settled, pending, phi, log_evidence)
    population = eqx.tree_at(
        lambda p: (p.log_weight, p.log_lik, p.pending, p.phi, p.log_evidence), population, changed
    )
    return population, effective_sample_size(new), surprise


def times(exponent: Float[Array, "s #n"], log_factor: Float[Array, "s n"]) -> Float[Array, "s n"]:
    """exponent * log_factor, where 0 * -inf is still -inf: a zero likelihood stays zero at any exponent."""
    return jnp.where(jnp.isneginf(log_factor), -jnp.inf, exponent * log_factor)


def _is_surprise(
    log_weight: Float[Array, "s n"], increment: Float[Array, "s n"], size: int
) -> Bool[Array, " s"]:
    """Whether one increment takes the ESS below what a proposal of ``size`` dimensions can be fitted to."""
    n = log_weight.shape[-1]
    floor = min(max(0.1 * n, 10.0 * size), 0.5 * n)
    before, after = effective_sample_size(log_weight), effective_sample_size(log_weight + increment)
    return (after < floor) & (after < 0.5 * before)


def tempering_exponent(
    log_weight: Float[Array, "s n"], pending: Float[Array, "s n"], room: Float[Array, " s"]
) -> Float[Array, " s"]:
    """The largest exponent in (0, room] that leaves half of the ESS; bisection on its logarithm."""
    alive = jnp.where(jnp.isfinite(pending), log_weight, -jnp.inf)
    factor = jnp.where(jnp.isfinite(pending), pending, 0.0)
    goal = 0.5 * effective_sample_size(alive)

    def enough(exponent: Float[Array, " s"]) -> Bool[Array, " s"]:
        return effective_sample_size(alive + exponent[:, None] * factor) >= goal

    def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        good = enough(room * jnp.exp(middle))
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, _ = jax.lax.fori_loop(0, 60, halve, (jnp.full_like(room, -690.0), jnp.zeros_like(room)))
    return jnp.where(enough(room), room, room * jnp.exp(low))


def _mixture(log_weight: Float[Array, "s n"], info: FilterInfo) -> tuple[Array, Array, Array]:
    """Mean, sd and PIT of the one-step predictive, hyperparameters integrated out."""
    w = normalise(log_weight)[None]

    def average(a: Float[Array, "y s n"]) -> Float[Array, "y s"]:
        return jnp.sum(jnp.where(w > 0, w * a, 0.0), axis=-1)

    mean = average(info.mean)
    return mean, jnp.sqrt(average(info.sd**2 + (info.mean - mean[..., None]) ** 2)), average(info.pit)


def recorded_quantiles(population: Population) -> Float[Array, "h q s"]:
    """Weighted quantiles of every hyperparameter entry, from the order kept since the last move."""
    w = jnp.take_along_axis(normalise(population.log_weight)[None], population.order, axis=-1)
    levels = jnp.asarray(RECORDED_QUANTILES)
    return jnp.moveaxis(weighted_quantile(population.ordered, w, levels), -1, 1)


def select(series: Bool[Array, " s"], new: PyTree, old: PyTree) -> PyTree:
    """``new`` in the series marked, ``old`` in the others; the series axis of a leaf is its only or last but one."""

    def one(a: Array, b: Array) -> Array:
        mask = series if a.ndim == 1 else series[:, None]
        return jnp.where(mask.reshape((1,) * (a.ndim - mask.ndim) + mask.shape), a, b)

    return jax.tree.map(one, new, old)


def advance(
    smc: SMC2, population: Population, pending: PyTree, block: Observation, feed: PyTree, count: Int[Array, ""]
) -> tuple[tuple, PyTree, Float[Array, "t1 c"]]:
    """Take up to ``count`` rows of a block, ending early when a series needs its schedule or cannot go on.

    Returns what has changed of the population (see ``stepped``), the pending state, and the report: a row per
    observation, how many were processed, and which series are due, in one array, for one transfer (see ``unpack``).
    """
    shape = jax.eval_shape(lambda p, o: observe(smc, p, o)[1], population, _row(block, 0))
    rows = jax.tree.map(lambda leaf: jnp.zeros((block.dt.shape[0], *leaf.shape), leaf.dtype), shape)

    def go_on(carry: tuple) -> Bool[Array, ""]:
        i, _, _, rows, due = carry
        stuck = (i > 0) & jnp.any(_row(rows, jnp.maximum(i - 1, 0)).status == Status.IMPOSSIBLE)
        stuck = stuck & (smc.impossible == "error")
        return (i < count) & ~jnp.any(due) & ~stuck

    def body(carry: tuple) -> tuple:
        i, state, pending, rows, _ = carry
        obs = _row(block, i)
        new, row = observe(smc, with_stepped(population, state), obs)
        pending = smc.schedule.advance(smc, pending, new, row, _row(feed, i))
        rows = jax.tree.map(lambda buffer, value: buffer.at[i].set(value), rows, row)
        return i + 1, stepped(new), pending, rows, smc.schedule.due(smc, pending, new)

    start = (jnp.zeros_like(count), stepped(population), pending, rows, jnp.zeros(population.t.shape, bool))
    done, state, pending, rows, due = jax.lax.while_loop(go_on, body, start)
    return state, pending, pack(rows, done, due)


STEPPED = ("t", "belief", "log_weight", "log_lik", "pending", "phi", "log_evidence")


def stepped(population: Population) -> tuple:
    """What changes without a move; the rest stays out of the loop."""
    return tuple(getattr(population, name) for name in STEPPED)


def with_stepped(population: Population, state: tuple) -> Population:
    """The population after a step."""
    return replace(population, **dict(zip(STEPPED, state, strict=True)))


def pack(rows: Row, done: Int[Array, ""], due: Bool[Array, " s"]) -> Float[Array, "t1 c"]:
    """Rows as a table of float64, and a last line that says how many count and which series are due."""
    table = jnp.concatenate([leaf.reshape(len(leaf), -1).astype(jnp.float64) for leaf in rows], axis=1)
    last = jnp.concatenate([done[None].astype(jnp.float64), due.astype(jnp.float64)])
    return jnp.concatenate([table, jnp.pad(last, (0, table.shape[1] - len(last)))[None]])


def unpack(table: np.ndarray, n_channels: int, n_series: int) -> tuple[Row, np.ndarray]:
    """The rows that count, and which series are due. On the host."""
    done, due = int(table[-1, 0]), table[-1, 1 : 1 + n_series] > 0
    wide, start, leaves = (n_channels, n_series), 0, []
    for shape in ((n_series,), wide, wide, wide, (n_series,), (n_series,), (n_series,)):
        width = math.prod(shape)
        leaves.append(table[:done, start : start + width].reshape(done, *shape).copy())
        start += width
    quantiles = table[:done, start:].reshape(done, -1, len(RECORDED_QUANTILES), n_series).copy()
    *numbers, status, pooled = leaves
    return Row._make([*numbers, status.astype(int), pooled > 0, quantiles]), due


def _row(block: PyTree, i: Int[Array, ""] | int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[i], block)
