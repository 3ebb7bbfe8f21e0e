"""Simulation-based calibration (Talts et al. 2018; Modrak et al. 2023): the online posterior is right on average.

A hyperparameter is drawn from the prior, data from the model, and the engine looks on. At any time the true value's
rank within the posterior must be uniform, for each hyperparameter and for the log-likelihood as a test quantity, which
sees what the hyperparameters one by one do not. Of estimated likelihoods, the ranks of the last state and regime take
its place: an estimate that a posterior draw carries and one at the truth have different laws. Broken moves must fail
the same test.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import smcssm as ss
from gridded import SIGMA_OBS, SWITCHING_MEAN, VOLATILITY, switching_path
from smcssm.priors import HalfNormal, Independent
from smcssm.smc2 import challengers, cycle
from smcssm.smc2.adapt import compiled
from smcssm.smc2.kernels import metropolis

SMALL, CATCH, LARGE = ((10, 60), 80), ((10, 60), 160), ((10, 100, 400), 200)


def log_lik(level, obs, y):
    m, P, total = 0.0, 4.0, 0.0
    for t, value in enumerate(y):
        P += level**2 if t else 0.0
        S, v = P + obs**2, value - m
        total -= 0.5 * (np.log(2 * np.pi * S) + v * v / S)
        m, P = m + P / S * v, P * obs**2 / S
    return total


class Study(NamedTuple):
    """A model with its prior; ``draw(rng, t)`` gives a truth and t observations, ``pits`` its PITs in a posterior."""

    model: object
    prior: object
    draw: object
    pits: object
    filter: object = None


def draw_level(rng, t):
    level, obs = np.abs(rng.standard_normal(2))
    x = 2.0 * rng.standard_normal() + level * np.r_[0.0, np.cumsum(rng.standard_normal(t - 1))]
    return (level, obs), x + obs * rng.standard_normal(t)


def pits_level(snapshot, truth, y):
    w, theta, population = snapshot.weights()[0], snapshot.theta(), snapshot.population
    total = np.asarray(population.log_lik)[0] + np.asarray(population.pending)[0]
    values = (theta["sigma_level"][0], theta["sigma_obs"][0], total)
    return [w @ (v < at) for v, at in zip(values, (*truth, log_lik(*truth, y)), strict=True)]


LEVEL = Study(
    ss.models.LocalLevel(initial_mean=0.0, initial_sd=2.0),
    Independent({"sigma_level": HalfNormal(1.0), "sigma_obs": HalfNormal(1.0)}),
    draw_level,
    pits_level,
)


def draw_switching(rng, t):
    theta = 2.0 * abs(rng.standard_normal()), rng.beta(8.0, 2.0), abs(rng.standard_normal())
    u, x = switching_path(rng, t, *theta[1:])
    return (theta, u, x, rng.random(t)), theta[0] * u + x + SIGMA_OBS * rng.standard_normal(t)


def pits_switching(snapshot, truth, y):
    """Of the hyperparameters, of the last state, and (at random within its probability) of the last regime."""
    (values, u, x, uniform), last, w = truth, len(y) - 1, snapshot.weights()[0]
    theta, belief = snapshot.theta(), snapshot.population.belief
    each = np.exp(np.asarray(belief.log_weight)[:, 0])
    below = stats.norm.cdf(x[last], np.asarray(belief.mean)[0, :, 0], np.abs(np.asarray(belief.chol)[0, 0, :, 0]))
    low = w @ snapshot.regimes()[0, 0]
    regime = low + uniform[last] * (1 - low) if u[last] else uniform[last] * low
    names = SWITCHING_MEAN.names
    of_theta = [w @ (theta[name][0] < value) for name, value in zip(names, values, strict=True)]
    return [*of_theta, w @ (each * below).sum(axis=0), regime]


SWITCHING = Study(
    SWITCHING_MEAN.model, SWITCHING_MEAN.prior, draw_switching, pits_switching, ss.filters.RaoBlackwell(n_particles=4)
)


def draw_volatility(rng, t):
    theta = rng.standard_normal() - 1.0, rng.beta(20.0, 1.5), 0.5 * abs(rng.standard_normal())
    h = theta[2] * rng.standard_normal(t)
    h[0] /= np.sqrt(1 - theta[1] ** 2)
    for i in range(1, t):
        h[i] += theta[1] * h[i - 1]
    return theta, np.exp((theta[0] + h) / 2) * rng.standard_normal(t)


def pits_volatility(snapshot, truth, y):
    w, theta = snapshot.weights()[0], snapshot.theta()
    return [w @ (theta[name][0] < value) for name, value in zip(VOLATILITY.names, truth, strict=True)]


VOLATILE = Study(
    VOLATILITY.model, VOLATILITY.prior, draw_volatility, pits_volatility, ss.filters.Particle(n_particles=32)
)


def ranks(schedule, times, count, n=256, move=None, study=LEVEL):
    """PIT of the truth in the posterior: [replication, time, quantity]."""
    out = []
    for i in range(count):
        truth, y = study.draw(np.random.default_rng([7, i]), times[-1])
        options = dict(schedule=schedule, move=move, filter=study.filter, record=None)
        engine = ss.Engine(study.model, study.prior, n_particles=n, seed=1000 + i, **options)
        row, start = [], 0
        for t in times:
            engine.update(y[start:t])
            row.append(study.pits(engine.snapshot(), truth, y[:t]))
            start = t
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


@pytest.mark.parametrize("name", ["immediate", pytest.param("paced", marks=pytest.mark.slow)])
def test_calibrated(name):
    assert is_calibrated(ranks(SCHEDULES[name], *SMALL))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
def test_calibrated_at_length(name):
    assert is_calibrated(ranks(SCHEDULES[name], *LARGE))


@pytest.mark.slow
@pytest.mark.parametrize("study", [SWITCHING, VOLATILE], ids=["branches", "particles"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_calibrated_with_estimated_likelihoods(name, study):
    """Of four branches, so that nearly all paths of regimes have been left out by the end; of 32 inner particles."""
    assert is_calibrated(ranks(SCHEDULES[name], *CATCH, study=study))


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
