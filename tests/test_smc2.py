"""Inner particles in an engine: an exact posterior from estimated likelihoods, and what is done about their noise."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import posteriors
import smcssm as ss
from posteriors import LOCAL_LEVEL
from smcssm.filters import Particle
from smcssm.smc2 import exchange

MODEL = ss.models.Nonlinear(
    lambda key, theta: jax.random.normal(key),
    lambda key, theta, x, step: x + theta["sigma_level"] * jax.random.normal(key),
    lambda theta, x, y, step: norm.logpdf(y, x, theta["sigma_obs"]),
    names=("sigma_level", "sigma_obs"),
    sample_observation=lambda key, theta, x, step: x + theta["sigma_obs"] * jax.random.normal(key),
)
CASE = LOCAL_LEVEL._replace(
    model=MODEL, matrices=lambda level, obs: (0 * level, 1.0 + 0 * level, 1.0, level**2, 0.0, obs**2)
)
N, M, RUNS = 256, 16, 8
PRIOR = CASE.prior


def engine(schedule=None, max_inner=2 * M, **options):
    """Always of the same shape, so that programs are compiled once."""
    filter = Particle(n_particles=M, max_inner=max_inner)
    return ss.Engine(MODEL, PRIOR, n_particles=N, runs=RUNS, filter=filter, schedule=schedule, **options)


def inner(e):
    return e._runtime.smc.filter.inner(e._runtime.state.population.belief)


def data(t, seed=5):
    y = CASE.simulate(t, seed)
    y[7::31] = np.nan
    return y


def test_the_posterior_is_exact_although_the_likelihood_is_estimated():
    e, y = engine(), data(60)
    e.update(y)
    assert inner(e) > M  # noise was found too loud
    posteriors.assert_agrees(e, CASE, y, spread=1.2)


def test_the_estimate_of_a_particle_that_stays_is_kept():
    """Estimated anew it would no longer be a pseudo-marginal move, and its target another one."""
    e = engine()
    e.update(data(60)[:20])
    state, smc, history = e._runtime.state, e._runtime.smc, e._runtime.history
    with jax.enable_x64(True):
        everything, due = np.full(RUNS, len(history)), np.ones(RUNS, bool)
        new, _ = smc.kernel.move(smc, state.population, history, everything, due, rung=0, max_sweeps=1)
        before, after = (np.stack([p.z[0], p.log_lik]) for p in (state.population, new))
    stayed = 0
    for run in range(RUNS):
        known = set(map(tuple, before[:, run].T))  # copies of a particle may have estimates of their own
        places = {z for z, _ in known}
        kept = [pair in known for pair in map(tuple, after[:, run].T) if pair[0] in places]
        assert all(kept)
        stayed += len(kept)
    assert 0 < stayed < RUNS * N


@pytest.mark.slow
def test_paced_exchanges_bit_by_bit():
    e, y = engine(ss.Paced(budget=4, sets=2)), data(150)
    e.update(y)
    assert inner(e) > M
    posteriors.assert_agrees(e, CASE, y, spread=1.5)


@pytest.mark.slow
def test_a_block_is_its_steps_when_inner_particles_grow_on_the_way():
    y = data(60)
    block, steps = engine(), engine()
    block.update(y)
    for value in y:
        steps.step(value)
    assert inner(block) == inner(steps) > M
    assert block.log_evidence == steps.log_evidence


@pytest.mark.slow
def test_noise_is_measured_at_fixed_hyperparameters():
    """What twins tell of it, against the variance over many keys, at one theta."""
    e = engine()
    e.update(data(20))
    runtime = e._runtime
    smc, population, history = runtime.smc, runtime.state.population, runtime.history
    with jax.enable_x64(True):

        def of_one(a):
            return jnp.broadcast_to(a[..., :1, :1], a.shape)

        one = replace(population, z=of_one(population.z), params=jax.tree.map(of_one, population.params))
        logs = []
        for rung in range(2):
            twins = exchange.twin(smc, one, history.first, rung)
            everything = np.full(RUNS, len(history))
            logs.append(exchange.replay(smc, one, twins, history, everything, np.int64(rung), np.int64(0)))
        at = replace(one, log_lik=logs[0].log_lik, belief=logs[0].belief, log_weight=0 * one.log_weight)
        told = np.asarray(exchange.noise(smc, at, logs[1]))
    want = np.var(np.asarray(logs[0].log_lik))
    assert want > 0
    assert told.mean() == pytest.approx(want, rel=4 * (2 / (RUNS * N)) ** 0.5 * 2)  # of two, with tails


def test_twins_of_likelihood_zero_are_noise_too():
    """A factor that is 0 for a share p of them counts as the lognormal one of its variance; without any nothing is."""
    runtime = engine()._runtime
    smc, population = runtime.smc, runtime.state.population
    with jax.enable_x64(True):
        twins = exchange.twin(smc, population, runtime.blank(), 0)
        gap = np.random.default_rng(0).normal(size=(RUNS, N)) * 0.5
        dead = np.arange(N) < N // 4
        twins = replace(twins, log_lik=jnp.where(dead, -jnp.inf, gap))
        told = exchange.noise(smc, population, twins)
        np.testing.assert_allclose(told, gap[:, ~dead].var(axis=1) / 1.5 - np.log(0.75), rtol=1e-9)
        gone = replace(twins, log_lik=jnp.full((RUNS, N), -jnp.inf))
        kept, status = exchange.judged(smc, population, gone)
    assert kept is population
    assert status == ss.Status.NOISY


@pytest.mark.slow
def test_noise_that_may_not_be_bought_off_has_a_status():
    e = engine(max_inner=M)
    infos = e.update(data(150))
    assert inner(e) == M
    assert ss.Status.NOISY in infos.status


@pytest.mark.slow
def test_a_failed_call_leaves_inner_particles_as_they_were(monkeypatch):
    e, y = engine(), data(60)
    e.update(y[:10])
    evidence = e.log_evidence

    def fails(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(exchange, "judged", fails)
    with pytest.raises(ZeroDivisionError):
        e.update(y[10:])
    assert (inner(e), e.log_evidence, e.t) == (M, evidence, 10)


@pytest.mark.slow
def test_reset_and_copy():
    e, y = engine(), data(60)
    e.update(y)
    evidence, twin = e.log_evidence, e.copy()
    assert inner(twin) == inner(e) > M
    e.reset()
    assert inner(e) == M
    e.update(y)
    assert e.log_evidence == evidence


@pytest.mark.slow
def test_forecasts_are_those_of_the_exact_filter():
    y = data(60)
    e, exact = engine(), ss.Engine(ss.models.LocalLevel(initial_sd=1.0), PRIOR, n_particles=N, runs=RUNS)
    e.update(y)
    exact.update(y)
    got, want = e.forecast(5), exact.forecast(5)
    sd = want["sd"].values
    assert (np.abs(got["mean"] - want["mean"]).values < 0.1 * sd).all()
    np.testing.assert_allclose(got["sd"], sd, rtol=0.05)
    assert (np.abs(got["quantiles"] - want["quantiles"]).values < 0.15 * sd[..., None]).all()
    state, other = e.state(), exact.state()
    assert (np.abs(state["mean"].values - other["mean"].values) < 0.1 * other["sd"].values).all()
    np.testing.assert_allclose(state["sd"], other["sd"], rtol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"move": ss.moves.HMC()}, "an estimate has no useful gradient"),
        ({"late": ss.late.Revise(3)}, "the estimate would have to be made anew"),
        ({"forgetting": 0.99, "schedule": ss.Immediate(tempering=False)}, "the power of an estimate"),
    ],
)
def test_what_an_estimate_cannot_bear(options, message):
    with pytest.raises(ss.errors.ModelError, match=message):
        engine(**options)


def test_no_warm_start():
    import xarray as xr

    with pytest.raises(ss.errors.ModelError, match="a warm start needs the likelihood"):
        ss.Engine.from_posterior(MODEL, PRIOR, xr.Dataset(), data(5))
