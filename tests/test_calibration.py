"""Simulation-based calibration (Talts et al. 2018; Modrak et al. 2023): the online posterior is right on average.

A hyperparameter is drawn from the prior, data from the model, and the engine looks on. At any time the true value's
rank within the posterior must be uniform, for each hyperparameter and for the log-likelihood as a test quantity, which
sees what the hyperparameters one by one do not. Broken moves must fail the same test.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import smcssm as ss
from smcssm.priors import HalfNormal, Independent
from smcssm.smc2 import challengers, cycle
from smcssm.smc2.adapt import compiled
from smcssm.smc2.kernels import metropolis

PRIOR = Independent({"sigma_level": HalfNormal(1.0), "sigma_obs": HalfNormal(1.0)})
MODEL = ss.models.LocalLevel(initial_mean=0.0, initial_sd=2.0)
SMALL, CATCH, LARGE = ((10, 60), 80), ((10, 60), 160), ((10, 100, 400), 200)


def log_lik(level, obs, y):
    m, P, total = 0.0, 4.0, 0.0
    for t, value in enumerate(y):
        P += level**2 if t else 0.0
        S, v = P + obs**2, value - m
        total -= 0.5 * (np.log(2 * np.pi * S) + v * v / S)
        m, P = m + P / S * v, P * obs**2 / S
    return total


def ranks(schedule, times, count, n=256, move=None):
    """PIT of the truth in the posterior: [replication, time, quantity]."""
    out = []
    for i in range(count):
        rng = np.random.default_rng([7, i])
        level, obs = np.abs(rng.standard_normal(2))
        x = 2.0 * rng.standard_normal() + level * np.r_[0.0, np.cumsum(rng.standard_normal(times[-1] - 1))]
        y = x + obs * rng.standard_normal(times[-1])
        engine = ss.Engine(MODEL, PRIOR, n_particles=n, seed=1000 + i, schedule=schedule, move=move, record=None)
        row, start = [], 0
        for t in times:
            engine.update(y[start:t])
            snapshot, start = engine.snapshot(), t
            w, theta, population = snapshot.weights()[0], snapshot.theta(), snapshot.population
            total = np.asarray(population.log_lik)[0] + np.asarray(population.pending)[0]
            values = (theta["sigma_level"][0], theta["sigma_obs"][0], total)
            truths = (level, obs, log_lik(level, obs, y[:t]))
            row.append([w @ (v < truth) for v, truth in zip(values, truths, strict=True)])
        out.append(row)
    return np.array(out)


def p_values(u):
    """Kolmogorov-Smirnov and chi-square in ten bins, for every time and quantity."""

    def both(column):
        counts, _ = np.histogram(column, bins=10, range=(0, 1))
        return stats.kstest(column, "uniform").pvalue, stats.chisquare(counts).pvalue

    return np.array([both(column) for column in u.reshape(len(u), -1).T])


def is_calibrated(u):
    p = p_values(u)
    return p.min() > 0.01 / p.size


SCHEDULES = {"immediate": ss.Immediate(), "paced": ss.Paced(budget=4)}


@pytest.mark.parametrize("name", SCHEDULES)
def test_calibrated(name):
    assert is_calibrated(ranks(SCHEDULES[name], *SMALL))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
def test_calibrated_at_length(name):
    assert is_calibrated(ranks(SCHEDULES[name], *LARGE))


def accept_always(smc, population, c, log_ratio, due, rung, sweep):
    return challengers.accept(smc, population, c, log_ratio + 1e6, due, rung, sweep)


def without_jacobian(smc, population, c, log_ratio, due, rung, sweep):
    """As if the prior of log sigma were that of sigma."""
    jacobian = jnp.sum(c.z - population.z, axis=0)
    return challengers.accept(smc, population, c, log_ratio - jacobian, due, rung, sweep)


def stale_likelihood(smc, population, c, log_ratio, due, rung, sweep):
    """Particles are judged by the log-likelihood of those that were in their places before resampling."""
    stale = dataclasses.replace(population, log_lik=jnp.roll(population.log_lik, 1, axis=-1))
    new, rate, status = challengers.accept(smc, stale, c, log_ratio, due, rung, sweep)
    kept = jnp.all(new.z == population.z, axis=0)
    return dataclasses.replace(new, log_lik=jnp.where(kept, population.log_lik, new.log_lik)), rate, status


BROKEN = [
    ("immediate", accept_always, CATCH),
    pytest.param("immediate", without_jacobian, CATCH, marks=pytest.mark.slow),
    pytest.param("immediate", stale_likelihood, CATCH, marks=pytest.mark.slow),
    pytest.param("paced", accept_always, CATCH, marks=pytest.mark.slow),
    pytest.param("paced", without_jacobian, CATCH, marks=pytest.mark.slow),
    pytest.param("paced", stale_likelihood, LARGE, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "broken", "size"), BROKEN)
def test_broken_moves_are_not(monkeypatch, name, broken, size):
    home = metropolis if name == "immediate" else cycle
    monkeypatch.setattr(home, "accept", broken)
    if name == "paced":
        monkeypatch.setattr(metropolis, "accept", broken)
    compiled.cache_clear()
    try:
        assert not is_calibrated(ranks(SCHEDULES[name], *size))
    finally:
        compiled.cache_clear()
