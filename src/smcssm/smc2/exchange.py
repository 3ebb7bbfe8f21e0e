"""More inner particles, where likelihood estimates are too noisy (Chopin, Jacob & Papaspiliopoulos 2013, 3.6).

    after a move that accepted fewer than 20%, with estimates L_i by M inner particles at theta_i:
        filter y_1:t once more at every theta_i, by 2 M inner particles and independently:   L'_i, belief'_i
        noise  <-  variance of log L' - log L over i,  less the third that L' brings;  and -log(1 - p)
        if noise > 1:    w_i  <-  w_i L'_i / L_i,   (belief_i, L_i)  <-  (belief'_i, L'_i)

Given theta, L is drawn from psi(L) L / p(y | theta) in the target and L' from psi', where psi are the laws of the
estimates; L' / L is the weight of the extended target in L' with psi as backward kernel, so that p(theta | y) stays
what it was, and so does the evidence, whose factor has mean 1. A share p of twins has L' = 0, an outcome of noise as
well: a factor of mean 1 that is 0 with probability p has the relative variance p / (1 - p), a lognormal one has that
with a log variance of -log(1 - p). The noise is measured at fixed theta: the spread of L
over theta says nothing of it. Var(log L) grows like t / M, so that M has to grow with t.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smcssm.core import AbstractRandomFilter, Observation, Status
from smcssm.history import History
from smcssm.resampling import log_mean_weight, normalise
from smcssm.smc2.adapt import carried, compiled, move_key
from smcssm.smc2.challengers import Challengers, replay, tempered_log_density
from smcssm.smc2.kernels.metropolis import blank_like
from smcssm.smc2.population import SMC2, Population, at_particles, fold_in

LOW = 0.2  # acceptance below which noise is suspected
LOUD = 1.0  # variance of a log-likelihood estimate from which on it is too noisy; 1 is near the optimum of PMMH


def suspected(smc: SMC2, acceptance: Float[np.ndarray, " s"], moved: np.ndarray) -> bool:
    """Whether a move accepted so little that noise may be the reason."""
    return not smc.filter.exact and bool((np.asarray(acceptance)[moved] < LOW).any())


def refine(
    smc: SMC2, population: Population, history: History, rung: int
) -> tuple[Population, Status]:
    """Judge the noise by twins, taken through all of history at once, and exchange particles for them if it is loud."""
    twins = compiled(twin, smc)(population, history.first, np.int64(rung))
    nothing_pending = np.full(population.t.shape, len(history))
    twins = replay(smc, population, twins, history, nothing_pending, np.int64(rung), np.int64(0))
    return judged(smc, population, twins)


def judged(smc: SMC2, population: Population, twins: Challengers) -> tuple[Population, Status]:
    """The population after the exchange, if it was called for and brought anything; NOISY where M cannot grow."""
    found = np.asarray(compiled(noise, smc)(population, twins))
    if not (found > LOUD).any():
        return population, Status.OK
    if np.isposinf(found).any():  # no twin is left, and none can take a particle's place
        return population, Status.NOISY
    if smc.filter.inner(twins.belief) == smc.filter.inner(population.belief):
        return population, Status.NOISY
    return compiled(exchange, smc)(population, twins), Status.OK


def twin(smc: SMC2, population: Population, first: Observation, rung: Any) -> Challengers:
    """The population's particles before the first observation, with twice as many inner particles where allowed."""
    like, key = population.belief, fold_in(move_key(population, rung, 0), 2)
    assert isinstance(smc.filter, AbstractRandomFilter)
    if 2 * smc.filter.inner(like) <= smc.filter.max_inner:
        like = jax.tree.map(lambda a: jnp.concatenate([a, a], axis=-3), like)
    belief = smc.filter.init(key, population.params, at_particles(blank_like(first)), like)
    zero = jnp.zeros_like(population.log_lik)
    return Challengers(population.z, population.params, belief, zero, zero)


def noise(smc: SMC2, population: Population, twins: Challengers) -> Float[Array, " s"]:
    """Variance of the log-likelihood estimates that the population carries, at fixed theta."""
    share = smc.filter.inner(population.belief) / smc.filter.inner(twins.belief)
    gap = _gap(smc, population, twins)
    alive = jnp.isfinite(gap)
    lost = jnp.sum(jnp.where(alive, 0.0, normalise(population.log_weight)), axis=-1)
    w = normalise(jnp.where(alive, population.log_weight, -jnp.inf))
    gap = jnp.where(alive, gap, 0.0)
    centred = gap - jnp.sum(w * gap, axis=-1, keepdims=True)
    spread = jnp.sum(w * centred**2, axis=-1) / (1 + share)
    return jnp.where(jnp.any(alive, axis=-1), spread - jnp.log1p(-jnp.minimum(lost, 1.0)), jnp.inf)


def exchange(smc: SMC2, population: Population, twins: Challengers) -> Population:
    """Twins in the place of their particles, properly weighted; the mean weight, and so the evidence, stays."""
    weight = population.log_weight + _gap(smc, population, twins)
    level = log_mean_weight(population.log_weight) - log_mean_weight(weight)
    new = eqx.tree_at(carried, population, carried(twins))
    return replace(new, log_weight=weight + level[:, None])


def _gap(smc: SMC2, population: Population, twins: Challengers) -> Float[Array, "s n"]:
    """log L' - log L; what was dead stays dead."""
    new, old = (tempered_log_density(smc, population.phi, at) for at in (twins, population))
    return jnp.where(jnp.isfinite(population.log_weight) & ~jnp.isnan(new), new - old, -jnp.inf)
