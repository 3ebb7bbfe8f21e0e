"""One cycle of a paced move: challengers drawn now, taken through history bit by bit, judged when they have caught up.

    start   q <- fit to the population;  K sets of N challengers ~ q
    follow  at each observation, `budget` rows of history for every challenger
    judge   for each set k = 1..K:
                resample;  theta_i <- theta'_ki with probability
                    min(1, prior(theta') L(theta') q(theta) / prior(theta) L(theta) q(theta'))
                if phi < 1 and three quarters have moved since it last rose: raise it as far as half of the ESS allows

    the evidence is corrected; where the population is astray, and the challengers are a good importance sample of the
        whole posterior, they replace it

Given what was known at the start the challengers are independent of the population, so each set is one sweep of an
independence sampler, whatever the target has become since: p(theta | y_1:t) is left invariant. They are also an
importance sample of the whole posterior, properly weighted by prior L / q, which checks the evidence for nothing, and
corrects it together with the population (see `evidence`).

A population that the posterior ran away from is rescued by its challengers (see `rescue`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, no_type_check

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt

from smcssm.core import AbstractProposal, Observation, Status
from smcssm.history import Chunk
from smcssm.resampling import effective_sample_size
from smcssm.smc2 import exchange, relabel
from smcssm.smc2.adapt import carried, climb, from_folds, in_folds, mixing, resample
from smcssm.smc2.challengers import Challengers, accept, take, tempered_log_density, with_lag_here
from smcssm.smc2.evidence import (
    CONSISTENT,
    bridge,
    compared,
    corrected,
    importance_weights,
    own_variance,
)
from smcssm.smc2.kernels.metropolis import Metropolis, blank_like, fit
from smcssm.smc2.population import (
    SMC2,
    Lag,
    Population,
    Stream,
    particles,
    select,
    sort_marginals,
    stream,
)
from smcssm.smc2.report import Row
from smcssm.smc2.rescue import UNSURE, refit, rescue

CLOSED = 2**62  # the first row of a pool that is not open


@no_type_check  # JAX fills it with placeholders
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cycle:
    """The challengers of every series, and how far they are.

    ``challengers`` are K sets of N one after the other, ``log_q`` their proposal density under ``tuning``, which has
    the folds of all series in front. ``at`` of ``rows`` rows of history have been taken, ``work`` of them with the
    last observation. ``since`` is the first row of the open pool. ``fresh`` marks a surprise that came in mid-cycle,
    ``astray`` a population that its last challengers know better than, ``unmoved`` the share of particles that have not
    moved since the last trigger or rise of phi. ``waiting`` counts the observations since challengers were wanted where
    there was no room for them, as there may be in a fleet.
    """

    active: Bool[Array, " s"]
    at: Int[Array, " s"]
    rows: Int[Array, " s"]
    work: Int[Array, " s"]
    budget: Int[Array, " s"]
    since: Int[Array, " s"]
    fresh: Bool[Array, " s"]
    astray: Bool[Array, " s"]
    unmoved: Float[Array, " s"]
    waiting: Int[Array, " s"]
    key: UInt[Array, "s k"]
    tuning: PyTree[Array]
    challengers: Challengers
    log_q: Float[Array, "s n"]


@no_type_check
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Twins(Cycle):
    """Of every particle one more, at the same theta but with more inner particles: see `exchange`."""


class Feed(NamedTuple):
    """Rows of history for one observation, ``[b, ..., s]``, which of them are pooled, and how long history is now."""

    rows: Observation
    pooled: Bool[Any, "b s"]
    total: Int[Any, " s"]


class Verdict(NamedTuple):
    """What came of a judgement, per series.

    ``gap`` is importance sampling's log evidence less the running one, ``correction`` what that was changed by.
    """

    acceptance: Float[Any, " s"]
    correlation: Float[Any, " s"]
    distinct: Int[Any, " s"]
    status: Int[Any, " s"]
    again: Bool[Any, " s"]
    pareto_k: Float[Any, " s"]
    gap: Float[Any, " s"]
    gap_sd: Float[Any, " s"]
    correction: Float[Any, " s"]


def idle(smc: SMC2, proposal: AbstractProposal, sets: int, budget: int, population: Population) -> Cycle:
    """No cycle yet: arrays of the right shapes."""
    zero = jnp.zeros_like(population.t)

    def wide(a: Array) -> Array:
        return jnp.concatenate([a] * sets, axis=-1)

    p = population
    challengers = jax.tree.map(wide, Challengers(*carried(p)))
    return Cycle(
        active=zero > 0,
        at=zero,
        rows=zero,
        work=zero,
        budget=zero + budget,
        since=zero + CLOSED,
        fresh=zero > 0,
        astray=zero > 0,
        unmoved=jnp.ones_like(population.phi),
        waiting=zero,
        key=population.key,
        tuning=fit(smc, proposal, population),
        challengers=challengers,
        log_q=wide(population.log_lik),
    )


def start(
    smc: SMC2,
    proposal: AbstractProposal,
    sets: int,
    cycle: Cycle,
    population: Population,
    first: Observation,
    due: Bool[Array, " s"],
) -> Cycle:
    """Fit q and draw challengers in the series that are due."""
    like, n_series = in_folds(smc, population.z), len(population.t)
    tuning, each = _next_tuning(smc, proposal, cycle, population), len(like) // n_series
    uses = (stream(population.key, Stream.CHALLENGERS, population.t, use) for use in range(3))
    draw_key, init_key, step_key = uses
    keys = jax.vmap(lambda k: jax.random.split(k, sets * each))(draw_key)  # [s, sets * folds of a series]
    keys = jnp.moveaxis(keys.reshape(n_series, sets, each), 1, 0).reshape(sets, n_series * each)

    def one_set(keys: Array) -> tuple[Array, Array]:
        z = jax.vmap(proposal.propose)(keys, tuning, like)
        log_q = jax.vmap(proposal.log_density)(tuning, z, z)
        return from_folds(z, n_series), from_folds(log_q, n_series)

    z, log_q = (_in_a_row(a) for a in jax.vmap(one_set)(keys))
    params, belief = particles(smc, init_key, z, blank_like(first), population.belief)
    zero = jnp.zeros_like(log_q)
    drawn = Challengers(z, params, belief, zero, zero, Lag(belief, zero) if smc.horizon else None)
    anew = jnp.repeat(due, each)
    return replace(
        cycle,
        active=cycle.active | due,
        at=jnp.where(due, 0, cycle.at),
        waiting=jnp.where(due, 0, cycle.waiting),
        key=jnp.where(due[:, None], jax.random.key_data(step_key), cycle.key),
        tuning=jax.tree.map(lambda a, b: jnp.where(_like(anew, a), a, b), tuning, cycle.tuning),
        challengers=select(due, drawn, cycle.challengers),
        log_q=select(due, log_q, cycle.log_q),
    )


def _next_tuning(smc: SMC2, proposal: AbstractProposal, cycle: Cycle, population: Population) -> PyTree[Array]:
    """Fitted to the population, or to the last challengers where it is astray."""

    def of_one() -> PyTree[Array]:
        return fit(smc, proposal, population)

    def of_both() -> PyTree[Array]:
        anew = refit(smc, proposal, cycle.challengers, cycle.log_q, population)
        here = jnp.repeat(cycle.astray, smc.folds)
        return jax.tree.map(lambda a, b: jnp.where(_like(here, a), a, b), anew, of_one())

    return jax.lax.cond(jnp.any(cycle.astray), of_both, of_one)


def twins(smc: SMC2, cycle: Cycle, population: Population, first: Observation) -> Twins:
    """One set of twins, on its way through history at the largest of the budgets, instead of any challengers."""
    challengers, everywhere = exchange.twin(smc, population, first, 0), jnp.ones(cycle.at.shape, bool)
    return Twins(
        active=everywhere,
        at=jnp.zeros_like(cycle.at),
        rows=cycle.rows,
        work=cycle.work,
        budget=jnp.zeros_like(cycle.budget) + jnp.max(cycle.budget),
        since=cycle.since,
        fresh=~everywhere,
        astray=~everywhere,
        unmoved=jnp.ones_like(cycle.unmoved),
        waiting=jnp.zeros_like(cycle.at),
        key=jax.random.key_data(stream(population.key, Stream.CHALLENGERS, population.t, 4)),
        tuning=(),
        challengers=challengers,
        log_q=challengers.log_lik,
    )


def follow(smc: SMC2, cycle: Cycle, row: Row, feed: Feed) -> Cycle:
    """Note the observation just taken, and take challengers further through history.

    What the population has taken as missing, challengers take so too; a surprise must be moved upon afresh.
    """
    gone = (row.status == Status.IMPOSSIBLE)[None]
    since = jnp.where(row.pooled, jnp.minimum(cycle.since, feed.total - 1), cycle.since)
    room = jnp.where(cycle.active, jnp.minimum(cycle.budget, settled(smc, feed.total) - cycle.at), 0)
    key = jax.random.wrap_key_data(cycle.key)

    def one_row(j: Int[Array, ""], challengers: Challengers) -> Challengers:
        obs, pooled = jax.tree.map(lambda leaf: leaf[j], (feed.rows, feed.pooled))
        newest = cycle.at + j == feed.total - 1
        blank = newest[None] & gone
        seen = (jnp.where(blank, 0.0, obs.y).astype(obs.y.dtype), obs.mask & ~blank)
        obs = eqx.tree_at(lambda o: (o.y, o.mask), obs, seen)
        new = take(smc, key, challengers, obs, jnp.where(newest, row.pooled, pooled))
        return select(j < room, new, challengers)

    def run() -> Challengers:
        return jax.lax.fori_loop(0, jnp.max(room), one_row, cycle.challengers)

    challengers = jax.lax.cond(jnp.any(room > 0), run, lambda: cycle.challengers)
    fresh = row.pooled & cycle.active
    unmoved = jnp.where(row.pooled, 1.0, cycle.unmoved)
    progress = dict(at=cycle.at + room, rows=feed.total, work=room, challengers=challengers)
    return replace(cycle, since=since, fresh=fresh, unmoved=unmoved, **progress)


def settled(smc: SMC2, rows: Any) -> Any:
    """How many of so many rows are too old for a late one to come before them: challengers go no further."""
    return jnp.maximum(rows - smc.horizon, 0)


def remember(smc: SMC2, cycle: Cycle) -> Cycle:
    """Where challengers stand before the rows that late ones may still come before."""
    del smc
    return replace(cycle, challengers=with_lag_here(cycle.challengers))


def finish(smc: SMC2, cycle: Cycle, chunk: Chunk, ready: Bool[Array, " s"]) -> Cycle:
    """Take challengers through those rows, where they are about to be judged."""
    key = jax.random.wrap_key_data(cycle.key)

    def row(i: Int[Array, ""], c: Challengers) -> Challengers:
        return take(smc, key, c, *jax.tree.map(lambda leaf: leaf[i], (chunk.rows, chunk.pooled)))

    new = jax.lax.fori_loop(0, chunk.length, row, cycle.challengers)
    return replace(cycle, challengers=select(ready, new, cycle.challengers))


def judge(
    smc: SMC2, proposal: AbstractProposal, sets: int, cycle: Cycle, population: Population, ready: Bool[Array, " s"]
) -> tuple[Cycle, Population, Verdict]:
    """Judge the challengers in the series where they have caught up."""
    n = population.z.shape[-1]
    ess, bridged = effective_sample_size(population.log_weight), population.phi
    log_q_of = jax.vmap(proposal.log_density)

    def own_log_q(population: Population) -> Float[Array, "s n"]:
        z = in_folds(smc, population.z)
        return from_folds(log_q_of(cycle.tuning, z, z), len(ready))

    weights = importance_weights(smc, cycle.challengers, cycle.log_q)
    said = bridge(smc, population, own_log_q(population), weights)  # by particles that do not yet know challengers

    def one_set(k: Int[Array, ""], carry: tuple) -> tuple:
        population, begin, rose, unmoved, rate, status = carry
        population = resample(smc, population, rose, k)
        begin = jnp.where(k == 0, population.z, begin)
        current = own_log_q(population)

        def of_set(a: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(a, k * n, n, axis=-1)

        challengers, log_q = jax.tree.map(of_set, (cycle.challengers, cycle.log_q))
        counters = k, jnp.ones_like(k)
        population, accepted, trouble = accept(smc, population, challengers, current - log_q, ready, *counters)
        unmoved = unmoved * (1 - accepted)
        rise = ready & (population.phi < 1) & (unmoved <= 0.25)
        population, _ = climb(smc, population, rise)
        rate, status = rate + accepted / sets, jnp.maximum(status, trouble)
        return population, begin, rise, jnp.where(rise, 1.0, unmoved), rate, status

    nothing = jnp.zeros_like(population.phi), jnp.zeros_like(population.t, jnp.int32) + Status.OK
    at_first = population, population.z, ready, cycle.unmoved, *nothing
    population, begin, _, unmoved, rate, status = jax.lax.fori_loop(0, sets, one_set, at_first)
    population = _settle(population, ready)
    correlation, _, distinct = mixing(smc, begin, population)
    again = ready & ((population.phi < 1) | (unmoved > 0.1) | (distinct < 0.5 * n))
    lagging = ess < 0.1 * n
    sampled = as_importance_sample(smc, proposal, cycle, population, said, ready, bridged, lagging)
    population, astray, replaced, wrong, check = sampled
    again = again | astray | replaced
    status = jnp.maximum(status, jnp.where(lagging, Status.LAGGING, Status.OK))
    status = jnp.maximum(status, jnp.where(wrong, Status.SUSPECT, Status.OK))
    cycle = replace(
        cycle,
        active=cycle.active & ~ready,
        since=jnp.where(ready & (population.phi == 1), CLOSED, cycle.since),
        unmoved=jnp.where(ready, jnp.where(again, unmoved, 1.0), cycle.unmoved),
        astray=jnp.where(ready, astray, cycle.astray),
        budget=jnp.where(ready & lagging, 2 * cycle.budget, cycle.budget),
    )
    if isinstance(smc.kernel, Metropolis) and smc.kernel.relabel:  # last, as with an immediate move
        population = relabel.anew(smc, population, ready, jnp.asarray(sets), jnp.asarray(sets))
    population = sort_marginals(smc, population)
    return cycle, population, Verdict(rate, correlation, distinct, status, again, *check)


def as_importance_sample(
    smc: SMC2,
    proposal: AbstractProposal,
    cycle: Cycle,
    population: Population,
    said: tuple[Float[Array, "s g"], Float[Array, " s"]],
    ready: Bool[Array, " s"],
    bridged: Float[Array, " s"],
    lagging: Bool[Array, " s"],
) -> tuple[Population, Bool[Array, " s"], Bool[Array, " s"], Bool[Array, " s"], tuple[Array, ...]]:
    """The population, evidence corrected or rescued; whether it is astray, replaced, contradicted; and the check."""
    challengers, log_q, before = cycle.challengers, cycle.log_q, population.log_evidence
    k, gap, gap_sd = compared(smc, population, tempered_log_density(smc, population.phi, challengers) - log_q)
    wrong = jnp.where(k > 0.7, bridged == 1, jnp.abs(gap) > CONSISTENT * gap_sd)  # q of a bridge need not fit its end
    doubtful = lagging | (bridged < 1) | (own_variance(smc, population) > UNSURE)
    population = corrected(smc, population, *said, ready & ~doubtful)
    astray, replaced, population = rescue(
        smc, proposal, cycle.tuning, challengers, log_q, population, ready, doubtful | wrong
    )
    correction = jnp.where(bridged < 1, 0.0, population.log_evidence - before)  # else a surprise is taken in at last
    return population, astray, replaced, wrong, (k, gap, gap_sd, correction)


def _settle(population: Population, ready: Bool[Array, " s"]) -> Population:
    """Where phi is 1 nothing is pending any more."""
    done = (ready & (population.phi == 1))[:, None]
    settled = population.log_lik + jnp.where(done, population.pending, 0.0)
    return eqx.tree_at(
        lambda p: (p.log_lik, p.pending), population, (settled, jnp.where(done, 0.0, population.pending))
    )


def _in_a_row(a: Float[Array, "k *z s n"]) -> Float[Array, "*z s kn"]:
    """Sets of particles one after the other."""
    a = jnp.moveaxis(a, 0, -2)
    return a.reshape(*a.shape[:-2], -1)


def _like(mask: Bool[Array, " g"], a: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (a.ndim - 1))
