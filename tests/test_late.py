"""Late rows: every particle is what a replay in the order of times makes of it, whatever the order of arrival."""

import jax
import numpy as np
import pytest

import smcssm as ss
from smcssm.late import Drop, Revise
from smcssm.priors import HalfNormal, Independent
from smcssm.timeline import Timeline
from test_engine import assert_same, leaves

PRIOR = Independent({"sigma_level": HalfNormal(1.0), "sigma_obs": HalfNormal(2.0)})
MODEL = ss.models.LocalLevel(initial_mean=1.0, initial_sd=3.0)
T, WINDOW = 160, 20


def stream(t=T, seed=0):
    """Irregular times, some of them equal, missing values, and noise of their own."""
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.exponential(size=t) * (rng.random(t) > 0.15))
    level = np.cumsum(0.4 * np.sqrt(np.diff(time, prepend=0.0)) * rng.normal(size=t))
    sd = rng.uniform(0.2, 1.0, t)
    y = level + np.sqrt(0.8**2 + sd**2) * rng.normal(size=t)
    y[rng.random(t) < 0.1] = np.nan
    return time, y, sd


def shuffled(t=T, window=WINDOW, seed=1):
    """A permutation in which nothing is more than a window behind: sorted by place plus noise."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([start + rng.permutation(min(window, t - start)) for start in range(0, t, window)])
    behind = max(int((order[:i] > order[i]).sum()) for i in range(t))
    assert window // 2 < behind <= window
    return order


def build(schedule=None, n=128, seed=0, **options):
    options = dict(late=Revise(WINDOW), origin=-1.0) | options
    return ss.Engine(MODEL, PRIOR, n_particles=n, schedule=schedule, seed=seed, **options)


PACED = ss.Paced(budget=4, sets=2)  # immediate up to row 16


def local_level(engine, time, y, sd):
    """Log-likelihood, mean and variance of the level of every particle, from rows in the order of their times."""
    theta = {n: v[0] for n, v in engine.snapshot().theta().items()}
    q, r = theta["sigma_level"] ** 2, theta["sigma_obs"] ** 2
    m, P, total, before = np.full_like(q, 1.0), np.full_like(q, 9.0), np.zeros_like(q), -1.0
    for i in np.argsort(time, kind="stable"):
        P, before = P + q * (time[i] - before), time[i]
        if np.isnan(y[i]):
            continue
        S = P + r + sd[i] ** 2
        total -= 0.5 * ((y[i] - m) ** 2 / S + np.log(2 * np.pi * S))
        m, P = m + P / S * (y[i] - m), P * (r + sd[i] ** 2) / S
    return total, m, P


def assert_replayed(engine, time, y, sd):
    p = engine._runtime.state.population
    with jax.enable_x64(True):
        found = [
            np.asarray(a) for a in (p.log_lik[0], p.belief.mean[0, 0], p.belief.chol[0, 0, 0] ** 2, p.phi, p.pending)
        ]
        lag = [np.asarray(a) for a in (p.lag.log_lik[0], p.lag.belief.mean[0, 0], p.lag.belief.chol[0, 0, 0] ** 2)]
    assert found[3] == 1 and (found[4] == 0).all()
    for a, b in zip(found, local_level(engine, time, y, sd), strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    old = np.argsort(time, kind="stable")[: max(len(time) - WINDOW, 0)]
    if len(old):
        for a, b in zip(lag, local_level(engine, time[old], y[old], sd[old]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", [None, PACED])
def test_every_particle_is_its_sorted_replay_at_any_moment(schedule):
    time, y, sd = (a[shuffled()] for a in stream())
    engine, moved = build(schedule), []
    for i in range(T):
        moved.append(engine.step(y[i], time=time[i], noise_sd=sd[i]).moved)
        if i % 15 == 14:
            assert_replayed(engine, time[: i + 1], y[: i + 1], sd[: i + 1])
    assert sum(moved[:20]) > 0 and sum(moved[40:]) > 0
    engine.forecast(2, noise_sd=[1.0, 1.0])
