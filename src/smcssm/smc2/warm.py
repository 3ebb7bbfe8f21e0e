"""A warm start: a population from draws that claim to be of p(theta | y_1:t), checked and if need be repaired.

    filter y_1:t at the draws theta_i
    q <- fit to the draws;  theta'_i ~ q;  filter y_1:t at theta'_i
    w'_i = prior(theta') L(theta') / q(theta')             mean w' estimates the evidence
    if prior L / q at the draws themselves is too uneven, the draws are not what they claim to be:
        the population is (theta', w'), properly weighted; fit q to it and draw again, while its ESS is low
    move

Adaptive importance sampling (Cappé, Guillin, Marin & Robert 2004, doi:10.1198/106186004X12803): each q is independent
of the draws that it makes given what it was fitted to, so that the last weights, and the evidence, are right whatever
the trace was. The move leaves the posterior invariant and takes away what the check cannot see.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smcssm.errors import ModelError, SmcssmWarning
from smcssm.history import History
from smcssm.resampling import effective_sample_size, log_mean_weight, pareto_shape
from smcssm.smc2.adapt import carried, compiled, from_folds, in_folds
from smcssm.smc2.challengers import Challengers, replay, tempered_log_density
from smcssm.smc2.cycle import idle, start
from smcssm.smc2.kernels.metropolis import blank_like
from smcssm.smc2.population import SMC2, Population, Stream, particles, sort_marginals, stream
from smcssm.smc2.proposals import Mixture
from smcssm.smc2.schedules.immediate import MoveReport

ROUNDS = 8  # of importance sampling, at most
FITS = 0.3  # share of N that the ESS must have: of draws for them to be taken, of a round for it to be the last
MAX_SWEEPS = 30


class Judged(NamedTuple):
    """Challengers with their log weights; and prior L / q at the population, in logs."""

    challengers: Challengers
    log_weight: Float[Array, "s n"]
    of_population: Float[Array, "s n"]


def warm_start(
    smc: SMC2, fresh: Population, z: Float[np.ndarray, "z s n"], history: History
) -> tuple[Population, MoveReport]:
    """The population after all of history, from draws ``z`` of its posterior; ``fresh`` is one from the prior."""
    everything = np.full(fresh.t.shape, len(history))  # nothing is pending
    population = compiled(_placed, smc)(fresh, z, history.first, np.int64(len(history)))
    drawn = Challengers(population.z, population.params, population.belief, population.log_lik, population.pending)
    population = compiled(_carry, smc)(population, replay(smc, population, drawn, history, everything, 0, 0))
    judged = _judge(smc, population, history, 0)
    least, n = max(10.0 * len(z), 20.0), z.shape[-1]
    told = np.asarray(effective_sample_size(judged.of_population))
    fit = (told >= FITS * n) & np.isfinite(np.asarray(judged.of_population)).all(axis=-1)
    if not fit.all():
        population, judged = _repair(smc, population, judged, history, least)
        warnings.warn(
            f"the draws do not fit the posterior of these observations (reweighting them leaves {told.min():.0f} of "
            f"{n}): importance sampling has replaced them. Are model, prior and observations those of the trace?",
            SmcssmWarning,
            stacklevel=4,
        )
    population = compiled(_with_evidence, smc)(population, judged.log_weight)
    return _move(smc, population, history, everything)


def _judge(smc: SMC2, population: Population, history: History, number: int) -> Judged:
    """One round: fit, draw, filter, weigh."""
    cycle = compiled(idle, smc, Mixture(), 1, 1)(population)
    cycle = compiled(_draw, smc)(cycle, population, history.first, np.int64(number))
    everything = np.full(population.t.shape, len(history))
    challengers = replay(smc, population, cycle.challengers, history, everything, number + 1, 0)
    weights = compiled(_weigh, smc)(cycle, population, challengers)
    return Judged(challengers, *weights)


def _repair(
    smc: SMC2, population: Population, judged: Judged, history: History, least: float
) -> tuple[Population, Judged]:
    for number in range(1, ROUNDS + 1):
        population = compiled(_replaced, smc)(population, judged.challengers, judged.log_weight)
        ess = np.asarray(effective_sample_size(judged.log_weight))
        if not (ess >= least).all():
            raise ModelError(
                f"the draws are not of the posterior of these observations, and too far off to be repaired: importance "
                f"sampling from a fit to them has an effective size of {ess.min():.1f}, {least:.0f} are needed. Check "
                "that model, prior, observations and units are those of the trace"
            )
        if (ess >= FITS * population.z.shape[-1]).all() or number == ROUNDS:
            break
        judged = _judge(smc, population, history, number)
    return population, judged


def _move(smc: SMC2, population: Population, history: History, since: Any) -> tuple[Population, MoveReport]:
    due = np.ones(population.t.shape, bool)
    report = MoveReport.start(population, due)
    before = population.log_evidence
    population, moved = smc.kernel.move(smc, population, history, since, due, rung=ROUNDS + 1, max_sweeps=MAX_SWEEPS)
    return compiled(sort_marginals, smc)(population), report.rung(moved, due, before, population.log_evidence).end()


def _placed(smc: SMC2, fresh: Population, z: Array, first: Any, t: Array) -> Population:
    """Particles at z that have seen nothing yet, all of the same weight."""
    params, belief = particles(smc, stream(fresh.key, Stream.INIT), z, blank_like(first), fresh.belief)
    zero = jnp.zeros_like(fresh.log_weight)
    changed = (fresh.t + t, z, params, belief, zero)
    return eqx.tree_at(lambda p: (p.t, p.z, p.params, p.belief, p.log_weight), fresh, changed)


def _carry(smc: SMC2, population: Population, c: Challengers) -> Population:
    del smc
    return eqx.tree_at(carried, population, carried(c))


def _draw(smc: SMC2, cycle: Any, population: Population, first: Any, number: Array) -> Any:
    """Challengers from a fit to the population; each round has keys of its own."""
    key = jax.random.key_data(stream(population.key, Stream.CHALLENGERS, population.t, 3 + number))
    keyed = eqx.tree_at(lambda p: p.key, population, key)
    return start(smc, Mixture(), 1, cycle, keyed, first, jnp.ones(population.t.shape, bool))


def _weigh(smc: SMC2, cycle: Any, population: Population, challengers: Challengers) -> tuple[Array, Array]:
    z = in_folds(smc, population.z)
    log_q = from_folds(jax.vmap(Mixture().log_density)(cycle.tuning, z, z), len(population.t))
    ratios = (
        tempered_log_density(smc, population.phi, challengers) - cycle.log_q,
        tempered_log_density(smc, population.phi, population) - log_q,
    )
    of_challengers, of_population = (jnp.where(jnp.isfinite(r), r, -jnp.inf) for r in ratios)
    return of_challengers, of_population


def _replaced(smc: SMC2, population: Population, c: Challengers, log_weight: Array) -> Population:
    """The challengers as the population, weights on the scale of 1."""
    relative = log_weight - log_mean_weight(log_weight)[:, None]
    return eqx.tree_at(lambda p: p.log_weight, _carry(smc, population, c), relative)


def _with_evidence(smc: SMC2, population: Population, log_weight: Array) -> Population:
    """The evidence by importance sampling, and its relative variance; nothing usable is NaN."""
    del smc
    usable = jax.vmap(pareto_shape)(log_weight) <= 0.7
    evidence = log_mean_weight(log_weight) - population.log_mass
    variance = 1 / effective_sample_size(log_weight) - 1 / log_weight.shape[-1]
    changed = (evidence, jnp.where(usable, variance, math.nan))
    return eqx.tree_at(lambda p: (p.log_evidence, p.evidence_variance), population, changed)
