"""One cycle of a paced move: challengers drawn now, taken through history bit by bit, judged when they have caught up.

    start   q <- fit to the population;  K sets of N challengers ~ q
    follow  at each observation, `budget` rows of history for every challenger
    judge   for each set k = 1..K:
                resample;  theta_i <- theta'_ki with probability
                    min(1, prior(theta') L(theta') q(theta) / prior(theta) L(theta) q(theta'))
                if phi < 1 and three quarters have moved since it last rose: raise it as far as half of the ESS allows

    if the population is astray and the challengers are a good importance sample of the whole posterior:
        they replace it, and their estimate the evidence

Given what was known at the start the challengers are independent of the population, so each set is one sweep of an
independence sampler, whatever the target has become since: p(theta | y_1:t) is left invariant. They are also an
importance sample of the whole posterior, properly weighted by prior L / q, which checks the evidence for nothing.

Where the posterior runs away from the population faster than cycles can follow (a break in the data, say), weights and
then evidence are of a few particles. Such a population is astray: it lags, is still bridging, consists of copies, is
unsure of its evidence or contradicts importance sampling. If the challengers know more of the whole posterior than the
population does, the next q is fitted to them, by importance weights w^a with an ESS of a fifth of them: adaptive
importance sampling (Cappe, Guillin, Marin & Robert 2004, doi:10.1198/106186004X12803) along the path q^(1-a) pi^a, so
slow that a mode is not forgotten on the way. Draws from it are independent of the population all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, no_type_check

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt

from smcssm.core import AbstractProposal, Observation, Status
from smcssm.history import Chunk
from smcssm.resampling import effective_sample_size, log_mean_weight, normalise, pareto_shape, systematic
from smcssm.smc2 import exchange
from smcssm.smc2.adapt import (
    carried,
    climb,
    distinct_sample_size,
    from_folds,
    gather,
    group_variance,
    in_folds,
    mixing,
    resample,
)
from smcssm.smc2.challengers import Challengers, accept, take, tempered_log_density, with_lag_here
from smcssm.smc2.kernels.metropolis import blank_like, fit
from smcssm.smc2.population import (
    SMC2,
    Lag,
    Population,
    Stream,
    at_full_exponent,
    particles,
    select,
    sort_marginals,
    stream,
)
from smcssm.smc2.proposals.points import flattened
from smcssm.smc2.report import Row

CLOSED = 2**62  # the first row of a pool that is not open
UNSURE = 0.25  # variance of the log evidence from which on importance sampling may well know better


@no_type_check  # JAX fills it with placeholders
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cycle:
    """The challengers of every series, and how far they are.

    ``challengers`` are K sets of N one after the other, ``log_q`` their proposal density under ``tuning``, which has
    the folds of all series in front. ``at`` of ``rows`` rows of history have been taken, ``work`` of them with the
    last observation. ``since`` is the first row of the open pool. ``fresh`` marks a surprise that came in mid-cycle,
    ``astray`` a population that its last challengers know better than, ``unmoved`` the share of particles that have not
    moved since the last trigger or rise of phi.
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
    """What came of a judgement, per series. ``gap`` is importance sampling's log evidence less the running one."""

    acceptance: Float[Any, " s"]
    correlation: Float[Any, " s"]
    distinct: Int[Any, " s"]
    status: Int[Any, " s"]
    again: Bool[Any, " s"]
    pareto_k: Float[Any, " s"]
    gap: Float[Any, " s"]
    gap_sd: Float[Any, " s"]


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
    tuning, each = _tuning(smc, proposal, cycle, population), len(like) // n_series
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
        key=jnp.where(due[:, None], jax.random.key_data(step_key), cycle.key),
        tuning=jax.tree.map(lambda a, b: jnp.where(_like(anew, a), a, b), tuning, cycle.tuning),
        challengers=select(due, drawn, cycle.challengers),
        log_q=select(due, log_q, cycle.log_q),
    )


def _tuning(smc: SMC2, proposal: AbstractProposal, cycle: Cycle, population: Population) -> PyTree[Array]:
    """Of the next proposal: fitted to the population, or to the last challengers where it is astray."""

    def of_both() -> PyTree[Array]:
        goal = max(0.2 * cycle.log_q.shape[-1], 30.0 * len(population.z))
        told = jnp.log(jax.vmap(partial(flattened, goal=goal))(_whole(smc, cycle)))
        z, log_weight = (_together(smc.folds, a, population.z) for a in (cycle.challengers.z, told))
        anew = fit(smc, proposal, replace(population, z=z, log_weight=log_weight))
        here = jnp.repeat(cycle.astray, smc.folds)
        return jax.tree.map(lambda a, b: jnp.where(_like(here, a), a, b), anew, of_one())

    def of_one() -> PyTree[Array]:
        return fit(smc, proposal, population)

    return jax.lax.cond(jnp.any(cycle.astray), of_both, of_one)


def _whole(smc: SMC2, cycle: Cycle) -> Float[Array, "s n"]:
    """Log importance weights of the challengers under the whole posterior; NaN made -inf."""
    phi = jnp.ones(cycle.at.shape)
    log_weight = tempered_log_density(smc, phi, cycle.challengers) - cycle.log_q
    return jnp.where(jnp.isnan(log_weight), -jnp.inf, log_weight)


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

    def one_set(k: Int[Array, ""], carry: tuple) -> tuple:
        population, begin, rose, unmoved, rate, status = carry
        population = resample(smc, population, rose, k)
        begin = jnp.where(k == 0, population.z, begin)
        z = in_folds(smc, population.z)
        current = from_folds(log_q_of(cycle.tuning, z, z), len(ready))

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
    log_target = tempered_log_density(smc, population.phi, cycle.challengers)
    k, gap, gap_sd = importance(smc, population, log_target - cycle.log_q)
    wrong = jnp.where(k > 0.7, bridged == 1, jnp.abs(gap) > 4 * gap_sd)  # q of a bridge need not fit its end
    doubtful = lagging | wrong | (bridged < 1) | (_own_variance(smc, population) > UNSURE)
    astray, replaced, population = rescue(smc, proposal, cycle, population, ready, doubtful)
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
    population = sort_marginals(smc, population)
    return cycle, population, Verdict(rate, correlation, distinct, status, again, k, gap, gap_sd)


def rescue(
    smc: SMC2,
    proposal: AbstractProposal,
    cycle: Cycle,
    population: Population,
    ready: Bool[Array, " s"],
    doubtful: Bool[Array, " s"],
) -> tuple[Bool[Array, " s"], Bool[Array, " s"], Population]:
    """Let good importance samples replace a doubtful population.

    Returns where the challengers are no good yet but know more than the population, where they have replaced it, and
    the population. Challengers know nothing of a mode that q has missed: where more than 5% of the population has a
    larger ratio of posterior to q than any of them, the population is the better one.
    """
    n, whole = population.z.shape[-1], _whole(smc, cycle)
    weight, z = at_full_exponent(population), in_folds(smc, population.z)
    log_q = from_folds(jax.vmap(proposal.log_density)(cycle.tuning, z, z), len(ready))
    ratio = tempered_log_density(smc, jnp.ones_like(population.phi), population) - log_q
    missed = jnp.sum(jnp.where(ratio > jnp.max(whole, axis=-1, keepdims=True), normalise(weight), 0.0), axis=-1) > 0.05
    own, known = distinct_sample_size(population.z, weight), effective_sample_size(whole)
    few = max(0.1 * n, 10.0 * len(population.z))
    astray = ready & ~missed & (doubtful | (own < few))
    good = astray & (known >= few) & (jax.vmap(pareto_shape)(whole) <= 0.7)
    return astray & ~good & (known > own), good, select(good, adopt(smc, cycle, population, whole), population)


def adopt(smc: SMC2, cycle: Cycle, population: Population, log_weight: Float[Array, "s n"]) -> Population:
    """The challengers, resampled by their importance weights, as the population; its evidence is then theirs.

    Each group is drawn from the challengers of its own proposal and keeps what they say of the evidence, so that the
    spread between groups goes on telling the error.
    """
    n, groups = population.z.shape[-1], smc.groups
    log_weight, *challengers = jax.tree.map(
        lambda a: _together(groups, a, population.z), (log_weight, *carried(cycle.challengers))
    )
    grouped = log_weight.reshape(len(log_weight), groups, -1)
    keys = jax.vmap(lambda k: jax.random.split(k, groups))(stream(population.key, Stream.CHALLENGERS, population.t, 3))
    ancestors = jax.vmap(jax.vmap(partial(systematic, count=n // groups)))(keys, grouped)
    ancestors = ancestors + (jnp.arange(groups) * grouped.shape[-1])[None, :, None]
    mass, total = log_mean_weight(grouped), log_mean_weight(log_weight)
    zero = jnp.zeros_like(population.log_lik)
    new = eqx.tree_at(carried, population, tuple(gather(challengers, ancestors.reshape(-1, n))))
    return replace(
        new,
        log_weight=jnp.repeat(mass - total[:, None], n // groups, axis=-1),
        log_lik=new.log_lik + new.pending,
        pending=zero,
        phi=jnp.ones_like(new.phi),
        log_evidence=total - population.log_mass,
        evidence_variance=jnp.zeros_like(new.phi),
        lost=1 / effective_sample_size(log_weight) - 1 / log_weight.shape[-1],
        eve=jnp.broadcast_to(jnp.arange(n), zero.shape),
        resamplings=jnp.zeros_like(new.resamplings),
    )


def _together(parts: int, a: Float[Array, "*z s kn"], z: Float[Array, "z s n"]) -> Float[Array, "*z s kn"]:
    """Challengers of all sets with those of the same group or fold together, as ``adapt`` wants them."""
    shape = a.shape[:-1]
    a = a.reshape(*shape, a.shape[-1] // z.shape[-1], parts, -1)
    return jnp.swapaxes(a, -3, -2).reshape(*shape, -1)


def importance(
    smc: SMC2, population: Population, log_weight: Float[Array, "s n"]
) -> tuple[Float[Array, " s"], Float[Array, " s"], Float[Array, " s"]]:
    """What the challengers say as importance samples: Pareto k, and log evidence less the running one with its sd.

    The running evidence's own error is the larger of what groups and resamplings show.
    """
    log_weight = jnp.where(jnp.isnan(log_weight), -jnp.inf, log_weight)
    estimate = log_mean_weight(log_weight) - population.log_mass
    relative = 1 / jnp.maximum(effective_sample_size(log_weight), 1.0) - 1 / log_weight.shape[-1]
    sd = jnp.sqrt(relative + _own_variance(smc, population))
    return jax.vmap(pareto_shape)(log_weight), estimate - population.log_evidence, sd


def _own_variance(smc: SMC2, population: Population) -> Float[Array, " s"]:
    """Of the running log evidence."""
    between = population.evidence_variance + group_variance(smc, population.log_weight)
    return jnp.maximum(between, population.lost)


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
