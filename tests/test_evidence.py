"""The evidence corrected between particles and challengers: right where the proposal is bad in places."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smcssm as ss
from posteriors import LOCAL_LEVEL
from smcssm.resampling import log_mean_weight
from smcssm.smc2.evidence import bridge, corrected
from smcssm.smc2.population import log_prior

RUNS, ROUNDS, MOVES = 1000, 6, 3


def ratios(rng, shape, of_particles):
    """Posterior over a proposal that has missed a place with 1% of the posterior, a hundred times too seldom.

    Of draws of the proposal, whose mean is 1, or of the posterior.
    """
    rare = rng.random(shape) < (0.01 if of_particles else 1e-4)
    bulk = np.exp(0.4 * rng.standard_normal(shape) + (0.08 if of_particles else -0.08))
    return np.where(rare, 100.0, bulk * (1 - 0.01) / (1 - 1e-4))


@pytest.mark.parametrize(("n", "groups", "sets", "uneven"), [(256, 1, 1, False), (1000, 4, 2, True)])
def test_evidence_is_right_where_the_proposal_misses_a_place(n, groups, sets, uneven):
    """Only ratios of posterior and proposal matter, so that these are drawn, and particles exchanged as by a move.

    Importance sampling weighed by the spread of its own weights ends 1% too low.
    """
    rng = np.random.default_rng(1)
    engine = ss.Engine(LOCAL_LEVEL.model, LOCAL_LEVEL.prior, n_particles=n, runs=RUNS, record=None)
    smc, population = engine._runtime.smc, engine._runtime.state.population
    assert smc.groups == groups

    @jax.jit
    def once(population, ratio, log_weight):
        bridged = bridge(smc, population, population.log_weight * 0 - ratio, log_weight)
        return corrected(smc, population, *bridged, jnp.ones(RUNS, bool))

    with jax.enable_x64(True):
        population = replace(population, phi=jnp.ones(RUNS), log_lik=-log_prior(smc, population.z))
        own = ratios(rng, (RUNS, n), True)
        for _ in range(MOVES):
            noise = rng.standard_normal(RUNS) / n**0.5 - 0.5 / n
            weight = 0.5 * uneven * rng.standard_normal((RUNS, n))  # that tells nothing of where particles are
            population = replace(
                population,
                log_evidence=population.log_evidence + noise,
                lost=population.lost + 1 / n,
                log_weight=jnp.asarray(weight - log_mean_weight(jnp.asarray(weight))[:, None]),
            )
            for _ in range(ROUNDS):
                new = ratios(rng, (RUNS, sets * n), False)
                population = once(population, jnp.log(own), jnp.log(new))
                for some in np.split(new, sets, axis=1):
                    own = np.where(rng.random((RUNS, n)) < some / own, some, own)
    ratio = np.exp(np.asarray(population.log_evidence))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / RUNS**0.5 + 0.5 / n
    assert ratio.std() < 0.3 * (MOVES / n) ** 0.5
    assert 0.5 < np.mean(np.asarray(population.lost)) ** 0.5 / ratio.std() < 1.2  # sweeps share particles that stay


def test_challengers_without_a_finite_density_and_particles_that_the_proposal_misses():
    """Neither is worth anything to a bridge; where all challengers are worth nothing, there is no correction."""
    engine = ss.Engine(LOCAL_LEVEL.model, LOCAL_LEVEL.prior, n_particles=64, runs=3, record=None)
    smc, population = engine._runtime.smc, engine._runtime.state.population
    with jax.enable_x64(True):
        due, zero = jnp.ones(3, bool), jnp.zeros((3, 64))
        population = replace(
            population, phi=jnp.ones(3), log_lik=-log_prior(smc, population.z), lost=jnp.full(3, 0.01)
        )
        own_log_q, log_weight = zero.at[0, 0].set(-jnp.inf), zero.at[1, :32].set(-jnp.inf).at[2].set(-jnp.inf)
        estimate, variance = bridge(smc, population, own_log_q, log_weight)
        found = corrected(smc, population, estimate, variance, due)
    np.testing.assert_allclose(estimate[:2, 0], [np.log(64 / 63), np.log(0.5)], rtol=1e-12)
    assert float(variance[1]) == 0.0
    assert float(found.log_evidence[2]) == 0.0
    assert np.isfinite(found.log_evidence).all()
    assert np.isfinite(found.lost).all()
