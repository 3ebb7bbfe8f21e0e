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

from dataclasses import replace
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from smcssm.core import FilterInfo, Observation, Status
from smcssm.gaussian import mixture_moments
from smcssm.resampling import Sums, crps_of_draws, effective_sample_size, largest_exponent, sums
from smcssm.smc2.population import SMC2, Lag, Population, Stream, at_full_exponent, at_particles, select, stream, times
from smcssm.smc2.report import Row, pack, recorded_quantiles

FEW = 8  # series


def observe(smc: SMC2, population: Population, obs: Observation) -> tuple[Population, Row]:
    """Take one observation of every series. A series that cannot take it stays as it was, status IMPOSSIBLE.

    Where no likelihood is positive and one is no number, nobody knows whether it is impossible: an evidence of NaN.
    """
    key = stream(population.key, Stream.FILTER, obs.index)
    belief, info = smc.filter.step(key, population.params, population.belief, at_particles(obs))
    increment, status = checked(population.log_weight, info)
    impossible, unknown = refused(smc, population.log_weight, increment, status)
    if smc.impossible == "missing":
        belief, increment = jax.lax.cond(
            jnp.any(impossible),
            lambda: _as_missing(smc, key, population, obs, belief, increment, impossible),
            lambda: (belief, increment),
        )
    taken = ~unknown if smc.impossible == "missing" else ~unknown & ~impossible
    if obs.reported is not None:
        taken, impossible, unknown = (of & obs.reported for of in (taken, impossible, unknown))
    new, (w, part, whole, pooled) = reweight(smc, forget(smc, population, taken), increment, taken)
    new = eqx.tree_at(lambda p: (p.belief, p.t), new, (select(taken, belief, population.belief), new.t + taken))
    status = jnp.maximum(jnp.max(status, axis=-1), jnp.where(new.phi < 1, Status.BRIDGING, Status.OK))
    status = jnp.where(impossible, Status.IMPOSSIBLE, status)
    mean, sd, pit, crps = _mixture(w, info, obs)
    pit = jnp.where(impossible[None], jnp.nan, pit)
    log_evidence = jnp.where(unknown, jnp.nan, whole_evidence(new, part, whole))
    ess, least, quantiles = whole.effective_sample_size, part.effective_sample_size, recorded_quantiles(new, whole)
    return new, Row(log_evidence, mean, sd, pit, crps, ess, least, status, pooled, quantiles)


def forget(smc: SMC2, population: Population, series: Bool[Array, " s"]) -> Population:
    """Flatten the likelihood so far: L <- L^forgetting. The evidence becomes the sum of one-step predictives."""
    if smc.forgetting == 1:
        return population
    p, keep = population, jnp.where(series, smc.forgetting, 1.0)[:, None]
    log_weight = p.log_weight + times(keep - 1, p.log_lik)
    changed = (log_weight, keep * p.log_lik)
    return eqx.tree_at(lambda p: (p.log_weight, p.log_lik), p, changed)


def checked(log_weight: Float[Array, "s n"], info: FilterInfo) -> tuple[Float[Array, "s n"], Int[Array, "s n"]]:
    """The increments in float64, NaN and +inf made -inf under a status of their own.

    Particles of weight zero say nothing.
    """
    increment = info.log_lik.astype(jnp.float64)
    broken = jnp.isnan(increment) | jnp.isposinf(increment)
    status = jnp.maximum(info.status.astype(jnp.int32), jnp.where(broken, Status.NOT_FINITE, Status.OK))
    return jnp.where(broken, -jnp.inf, increment), jnp.where(jnp.isfinite(log_weight), status, Status.OK)


def refused(
    smc: SMC2, log_weight: Float[Array, "s n"], increment: Float[Array, "s n"], status: Int[Array, "s n"]
) -> tuple[Bool[Array, " s"], Bool[Array, " s"]]:
    """Where every particle has likelihood zero; and where none has more than that, and that of some is no number.

    Ready-made models give NaN for values beyond all bounds: these are impossible where such are taken as missing.
    """
    none = ~jnp.any(jnp.isfinite(increment + log_weight), axis=-1)
    broken = jnp.any(status == Status.NOT_FINITE, axis=-1)
    if smc.impossible == "missing" and not hasattr(smc.filter.model, "function_named"):
        broken = jnp.zeros_like(broken)
    return none & ~broken, none & broken


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


class Weighted(NamedTuple):
    """Weights around one observation: normalised before it, and sums of them after it.

    ``before`` and ``whole`` are under the whole posterior, ``part`` is of the population as it is weighted; ``pooled``
    marks the series in which the observation is partly pending.
    """

    before: Float[Array, "s n"]
    part: Sums
    whole: Sums
    pooled: Bool[Array, " s"]


def reweight(
    smc: SMC2, population: Population, increment: Float[Array, "s n"], taken: Bool[Array, " s"]
) -> tuple[Population, Weighted]:
    """Weights and evidence after an increment, in the series that take it."""
    old = sums(population.log_weight)
    new = select(taken, sums(population.log_weight + increment), old)
    before, part, whole, phi = at_once = (old, new, new, population.phi)
    pooled = jnp.zeros_like(taken)
    if smc.schedule.tempering:
        surprise = _is_surprise(old, new, *population.z.shape[::2])
        tempered = surprise | (phi < 1)
        before, part, whole, phi = jax.lax.cond(
            jnp.any(tempered),
            lambda: select(tempered, _in_parts(population, increment, surprise, taken), at_once),
            lambda: at_once,
        )
        pooled = surprise & (phi < 1)
    w = before.normalise(at_full_exponent(population))
    log_evidence = population.log_evidence + jnp.where(taken, part.log_total - old.log_total, 0.0)
    population = replace(_entered(population, increment, phi, pooled, taken), log_evidence=log_evidence)
    return population, Weighted(w, part, whole, pooled)


def _in_parts(
    population: Population, increment: Float[Array, "s n"], surprise: Bool[Array, " s"], taken: Bool[Array, " s"]
) -> tuple[Sums, Sums, Sums, Float[Array, " s"]]:
    """Sums before, after, and after with nothing pending, and exponents, where some likelihoods enter in parts."""
    phi = jax.lax.cond(
        jnp.any(surprise), lambda: _exponents(population, increment, surprise), lambda: population.phi
    )
    new = _entered(population, increment, phi, surprise & (phi < 1), taken)
    return sums(at_full_exponent(population)), sums(new.log_weight), sums(at_full_exponent(new)), phi


def _entered(
    population: Population,
    increment: Float[Array, "s n"],
    phi: Float[Array, " s"],
    pooled: Bool[Array, " s"],
    taken: Bool[Array, " s"],
) -> Population:
    """The population with an increment, pending or settled, and what is pending entered as far as ``phi``."""
    increment, pooled = jnp.where(taken[:, None], increment, 0.0), pooled[:, None]
    settled = population.log_lik + jnp.where(pooled, 0.0, increment)
    pending = population.pending + jnp.where(pooled, increment, 0.0)
    entering = jnp.where(pooled, times(phi[:, None], increment), increment)
    log_weight = population.log_weight + times((phi - population.phi)[:, None], population.pending) + entering
    changed = (log_weight, settled, pending, phi)
    return eqx.tree_at(lambda p: (p.log_weight, p.log_lik, p.pending, p.phi), population, changed)


def whole_evidence(population: Population, part: Sums, whole: Sums) -> Float[Array, " s"]:
    """Log evidence with what is pending let in at once, from the sums of weights without it and with it."""
    return population.log_evidence + jnp.where(population.phi < 1, whole.log_total - part.log_total, 0.0)


def _is_surprise(old: Sums, new: Sums, size: int, n: int) -> Bool[Array, " s"]:
    """Whether one increment takes the ESS below what a proposal of ``size`` dimensions can be fitted to."""
    floor = min(max(0.1 * n, 10.0 * size), 0.5 * n)
    before, after = old.effective_sample_size, new.effective_sample_size
    return (after < floor) & (after < 0.5 * before)


def _exponents(
    population: Population, increment: Float[Array, "s n"], surprise: Bool[Array, " s"]
) -> Float[Array, " s"]:
    """The exponent of every pool; those that a surprise joins are looked for few at a time: of many series few are."""
    n_series, given = len(surprise), (population.log_weight, population.phi, population.pending, increment)
    if n_series <= FEW:
        return jnp.where(surprise, _exponent_at_surprise(*given), population.phi)
    series = jnp.nonzero(surprise, size=n_series + FEW, fill_value=n_series)[0]

    def some(i: Int[Array, ""], phi: Float[Array, " s"]) -> Float[Array, " s"]:
        here = jax.lax.dynamic_slice_in_dim(series, i * FEW, FEW)
        found = _exponent_at_surprise(*(jnp.take(a, here, axis=0, mode="clip") for a in given))
        return phi.at[here].set(found, mode="drop")

    return jax.lax.fori_loop(0, -(-jnp.sum(surprise) // FEW), some, population.phi)


def _exponent_at_surprise(
    old: Float[Array, "s n"], phi: Float[Array, " s"], pending: Float[Array, "s n"], increment: Float[Array, "s n"]
) -> Float[Array, " s"]:
    """The exponent of the pool once a surprise has joined it.

    Alone in the pool, it enters as far as half of the ESS allows. In an open pool the common exponent goes down, as
    far as necessary, or to where the ESS is largest.
    """
    alone = tempering_exponent(old, increment, jnp.ones_like(phi))

    def ess(exponent: Float[Array, " s"]) -> Float[Array, " s"]:
        lowered = times((exponent - phi)[:, None], pending) + times(exponent[:, None], increment)
        return effective_sample_size(old + lowered)

    candidates = phi[None] * jnp.exp(-jnp.linspace(0.0, 30.0, 61))[:, None]
    found = jax.lax.map(ess, candidates)
    enough = found >= 0.5 * effective_sample_size(old)[None]
    best = jnp.where(jnp.any(enough, axis=0), jnp.argmax(enough, axis=0), jnp.argmax(found, axis=0))
    return jnp.where(phi < 1, jnp.take_along_axis(candidates, best[None], axis=0)[0], alone)


def tempering_exponent(
    log_weight: Float[Array, "s n"], pending: Float[Array, "s n"], room: Float[Array, " s"]
) -> Float[Array, " s"]:
    """The largest exponent in (0, room] that leaves half of the ESS."""
    alive = jnp.where(jnp.isfinite(pending), log_weight, -jnp.inf)
    return largest_exponent(alive, pending, room, 0.5 * effective_sample_size(alive))


def _mixture(w: Float[Array, "s n"], info: FilterInfo, obs: Observation) -> tuple[Array, Array, Array, Array]:
    """Mean, sd, PIT and CRPS of the one-step predictive, hyperparameters integrated out; CRPS from its draws."""
    w = w[None]
    mean, sd = mixture_moments(w, info.mean, info.sd, -1)
    pit = jnp.sum(jnp.where(w > 0, w * info.pit, 0.0), axis=-1)
    crps = jnp.full_like(mean, jnp.nan) if info.draw is None else crps_of_draws(obs.y, info.draw, w)
    return mean, sd, pit, crps


def advance(
    smc: SMC2,
    population: Population,
    pending: PyTree,
    block: Observation,
    feed: PyTree,
    count: Int[Array, ""],
    trailing: PyTree = None,
) -> tuple[tuple, PyTree, Float[Array, "t1 c"]]:
    """Take up to ``count`` rows of a block, ending early when a series needs its schedule or cannot go on.

    Returns what has changed of the population (see ``stepped``), the pending state, and the report: a row per
    observation, how many were processed, and which series are due, in one array, for one transfer (see ``unpack``).
    ``trailing`` are the rows that leave the horizon meanwhile, and whether there is one; None without a horizon.
    """
    shape = jax.eval_shape(lambda p, o: observe(smc, p, o)[1], population, row_at(block, 0))
    rows = jax.tree.map(lambda leaf: jnp.zeros((block.dt.shape[0], *leaf.shape), leaf.dtype), shape)

    def go_on(carry: tuple) -> Bool[Array, ""]:
        i, _, _, rows, due = carry
        last = row_at(rows, jnp.maximum(i - 1, 0))
        stuck = (i > 0) & jnp.any((last.status == Status.IMPOSSIBLE) | jnp.isnan(last.log_evidence))
        return (i < count) & ~jnp.any(due) & ~stuck

    def body(carry: tuple) -> tuple:
        i, state, pending, rows, _ = carry
        obs = row_at(block, i)
        new, row = observe(smc, with_stepped(population, state), obs)
        new = new if trailing is None else trail(smc, new, *row_at(trailing, i))
        pending = smc.schedule.advance(smc, pending, new, row, row_at(feed, i))
        rows = jax.tree.map(lambda buffer, value: buffer.at[i].set(value), rows, row)
        return i + 1, stepped(new), pending, rows, smc.schedule.due(smc, pending, new)

    start = (jnp.zeros_like(count), stepped(population), pending, rows, jnp.zeros(population.t.shape, bool))
    done, state, pending, rows, due = jax.lax.while_loop(go_on, body, start)
    return state, pending, pack(rows, done, due)


def trail(smc: SMC2, population: Population, obs: Observation, follows: Bool[Array, ""]) -> Population:
    """Let what lags behind take the row that is too old by now for anything to be put in before it."""
    lag = population.lag
    assert lag is not None

    def on() -> Lag:
        key = stream(population.key, Stream.FILTER, obs.index)
        belief, info = smc.filter.step(key, population.params, lag.belief, at_particles(obs))
        return Lag(belief, lag.log_lik + info.log_lik.astype(jnp.float64))

    return replace(population, lag=jax.lax.cond(follows, on, lambda: lag))


STEPPED = ("t", "lag", "belief", "log_weight", "log_lik", "pending", "phi", "log_evidence")


def stepped(population: Population) -> tuple:
    """What changes without a move; the rest stays out of the loop."""
    return tuple(getattr(population, name) for name in STEPPED)


def with_stepped(population: Population, state: tuple) -> Population:
    """The population after a step."""
    return replace(population, **dict(zip(STEPPED, state, strict=True)))


def row_at(block: PyTree, i: Int[Array, ""] | int) -> PyTree:
    """One row of many."""
    return jax.tree.map(lambda leaf: leaf[i], block)
