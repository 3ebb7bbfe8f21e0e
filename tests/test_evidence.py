"""The evidence corrected between particles and challengers: without bias where the proposal is bad in places."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

import smcssm as ss
from posteriors import LOCAL_LEVEL
from smcssm.smc2.evidence import bridge, corrected
from smcssm.smc2.population import log_prior

RUNS, N, ROUNDS, MOVES = 1000, 256, 6, 3


def weights_of_draws(rng, shape):
    """Of a proposal that has missed a place with 1% of the posterior, a hundred times too seldom; their mean is 1."""
    rare = rng.random(shape) < 1e-4
    bulk = np.exp(0.4 * rng.standard_normal(shape) - 0.08)
    return np.where(rare, 100.0, bulk * (1 - 0.01) / (1 - 1e-4))


def draws_by_weight(rng, shape):
    """The same under the posterior."""
    rare = rng.random(shape) < 0.01
    bulk = np.exp(0.4 * rng.standard_normal(shape) + 0.08)
    return np.where(rare, 100.0, bulk * (1 - 0.01) / (1 - 1e-4))


def test_evidence_is_unbiased_where_the_proposal_misses_a_place():
    """Only ratios of posterior and proposal matter, so that these are drawn, and particles exchanged as by a move.

    Importance sampling weighed by the spread of its own weights ends 1% too low.
    """
    rng = np.random.default_rng(1)
    engine = ss.Engine(LOCAL_LEVEL.model, LOCAL_LEVEL.prior, n_particles=N, runs=RUNS, record=None)
    smc, population = engine._runtime.smc, engine._runtime.state.population
    with jax.enable_x64(True):
        population = replace(population, phi=jnp.ones(RUNS), log_lik=-log_prior(smc, population.z))

        @jax.jit
        def once(population, log_q, log_weight):
            return corrected(smc, population, *bridge(smc, population, log_q, log_weight), jnp.ones(RUNS, bool))

        own = draws_by_weight(rng, (RUNS, N))
        for _ in range(MOVES):
            noise = rng.standard_normal(RUNS) / N**0.5 - 0.5 / N
            population = replace(
                population, log_evidence=population.log_evidence + noise, lost=population.lost + 1 / N
            )
            for _ in range(ROUNDS):
                new = weights_of_draws(rng, (RUNS, N))
                population = once(population, jnp.asarray(-np.log(own)), jnp.asarray(np.log(new)))
                own = np.where(rng.random((RUNS, N)) < new / own, new, own)
    ratio = np.exp(np.asarray(population.log_evidence))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / RUNS**0.5 + 0.5 / N
    # Sweeps share particles that stay where they are: the variance that is carried along is the least there can be.
    assert 0.5 < np.mean(np.asarray(population.lost)) ** 0.5 / ratio.std() < 1.2
