"""Smoothed states as a mixture over particles, trajectories, and moves that replay history in blocks."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smcssm as ss
from oracles import dense_smoother
from smcssm import assemble
from smcssm.errors import ModelError
from smcssm.priors import HalfNormal, Independent
from smcssm.smc2 import challengers
from smcssm.smc2.population import Stream, particles, stream

PRIOR = Independent({"sigma_level": HalfNormal(0.5), "sigma_trend": HalfNormal(0.1), "sigma_obs": HalfNormal(1.0)})
MODEL = ss.models.LocalLinearTrend(initial_sd=(2.0, 0.5))
T, N, RUNS = 270, 5, 2  # more than one chunk


def data():
    """Few values, so that no particle gets all of the weight."""
    rng = np.random.default_rng(4)
    y = np.cumsum(0.1 * rng.standard_normal(T)) + rng.standard_normal(T)
    y[(np.arange(T) % 60 != 3) & (np.arange(T) < 262)] = np.nan
    return y


@pytest.fixture(scope="module", params=["sequential", pytest.param("parallel", marks=pytest.mark.slow)])
def engine(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "SEGMENT", 256)  # two chunks for blocks as well
        engine = ss.Engine(MODEL, PRIOR, n_particles=N, runs=RUNS, ess_threshold=1e-3, solver=request.param)
    engine.update(data())
    return engine


def oracle(engine, horizon):
    """Mean and sd of x_t given y_1..horizon(t), as a mixture over particles of dense laws."""
    theta, w = engine.snapshot().theta(), engine.snapshot().weights() / RUNS
    assert np.sum(w > 1e-3) > 4
    mean, square = np.zeros((T, 2)), np.zeros((T, 2))
    F, H, dts = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0]]), np.r_[0.0, np.ones(T - 1)]
    for s, n in np.ndindex(w.shape):
        level, trend, obs = (theta[name][s, n] ** 2 for name in ("sigma_level", "sigma_trend", "sigma_obs"))
        fixed = (np.zeros(2), np.diag([4.0, 0.25]), F, np.zeros(2), np.diag([level, trend]), H, np.zeros(1), [[obs]])
        for stop in sorted({horizon(t) for t in range(T)}):
            m, joint, _ = dense_smoother(*fixed, data()[:stop], dts[:stop])
            t = np.array([t for t in range(T) if horizon(t) == stop])
            mean[t] += w[s, n] * m[t]
            square[t] += w[s, n] * (joint[t[:, None], np.arange(2), t[:, None], np.arange(2)] + m[t] ** 2)
    return mean, np.sqrt(square - mean**2)


def test_mixture_of_dense_laws(engine):
    got = engine.smooth()
    mean, sd = oracle(engine, lambda t: T)
    np.testing.assert_allclose(got["mean"], mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(got["sd"], sd, rtol=1e-8)
    assert got["mean"].dims == ("time", "state")
    assert list(got["time"].values[[0, -1]]) == [1, T]
    for last, now in zip((got["mean"], got["sd"]), engine.state().data_vars.values(), strict=True):
        np.testing.assert_allclose(last[-1], now, rtol=1e-10)


@pytest.mark.parametrize("engine", ["sequential"], indirect=True)
def test_covariances_of_neighbours(engine, monkeypatch):
    """Of dense laws, in one share of the particles and in several; the first state has none before it."""
    theta, w = engine.snapshot().theta(), engine.snapshot().weights() / RUNS
    F, H, dts = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0]]), np.r_[0.0, np.ones(T - 1)]
    second, mean = np.zeros((T, 2, T, 2)), np.zeros((T, 2))
    for s, n in np.ndindex(w.shape):
        level, trend, obs = (theta[name][s, n] ** 2 for name in ("sigma_level", "sigma_trend", "sigma_obs"))
        fixed = (np.zeros(2), np.diag([4.0, 0.25]), F, np.zeros(2), np.diag([level, trend]), H, np.zeros(1), [[obs]])
        m, joint, _ = dense_smoother(*fixed, data(), dts)
        mean += w[s, n] * m
        second += w[s, n] * (joint + m[:, :, None, None] * m)
    want = second - mean[:, :, None, None] * mean
    t = np.arange(T)
    for size in (N, 2):
        monkeypatch.setattr(importlib.import_module("smcssm.readout.smooth"), "room", lambda snapshot, size=size: size)
        got = engine.smooth(covariance=True)
        assert got["lag_one"].dims == ("time", "state", "other_state")
        np.testing.assert_allclose(got["covariance"], want[t, :, t], rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(got["lag_one"][1:], want[t[1:], :, t[:-1]], rtol=1e-7, atol=1e-10)
        assert np.isnan(got["lag_one"][0]).all()
    plain = engine.smooth()
    for name in ("mean", "sd"):
        np.testing.assert_allclose(got[name], plain[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("engine", ["sequential"], indirect=True)
def test_fixed_lag(engine):
    got, most = engine.smooth(lag=3), engine.smooth(lag=T)
    whole = engine.smooth()
    np.testing.assert_array_equal(most["mean"], whole["mean"])
    np.testing.assert_allclose(got["sd"][-4], whole["sd"][-4], rtol=1e-10)
    at = [4, 253, 255, T - 2]
    some = {t: min(t + 4, T) for t in at}
    mean, sd = oracle(engine, lambda t: some.get(t, T))
    np.testing.assert_allclose(got["mean"][at], mean[at], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(got["sd"][at], sd[at], rtol=1e-8)


def test_trajectories(engine):
    """Joint draws have the smoothed mean and sd, and neighbouring states move together as they should."""
    got = engine.smooth(draws=2000, seed=1)
    path, n = got["trajectory"], RUNS * 2000
    assert path.shape == (RUNS, 2000, T, 2)
    error = (path.mean(("chain", "draw")) - got["mean"]) / got["sd"] * np.sqrt(n)
    assert np.abs(error).max() < 5
    spread = path.std(("chain", "draw")) / got["sd"] - 1
    assert np.abs(spread).max() < 5 * np.sqrt(1 / n)  # mixtures have longer tails than a normal law: sd(sd) > 0.7
    step = path[:, :, 1:, 0].values - path[:, :, :-1, 0].values - path[:, :, :-1, 1].values
    theta, w = engine.snapshot().theta(), engine.snapshot().weights() / RUNS
    level = np.sqrt(np.sum(w * theta["sigma_level"] ** 2))  # of the innovations, where hardly anything was seen
    np.testing.assert_allclose(np.sqrt(np.mean(step[:, :, 100:200] ** 2)), level, rtol=0.1)
    np.testing.assert_array_equal(path, engine.smooth(draws=2000, seed=1)["trajectory"])
    assert not np.array_equal(path, engine.smooth(draws=2000, seed=2)["trajectory"])


def test_a_vague_start_in_float32():
    """In float32 the way back took a difference of numbers 1e6 times as large as what is left of it."""
    vague, y = ss.models.LocalLinearTrend(initial_sd=(1e3, 1e3)), data()[:30]
    y[:3] = 0.3, -0.2, 0.4
    same = {"n_particles": 2, "runs": 1, "ess_threshold": 1e-3}
    engines = [ss.Engine(vague, PRIOR, dtype=dtype, **same) for dtype in ("float32", "float64")]
    for engine in engines:
        engine.update(y)
    rough, fine = (engine.smooth() for engine in engines)
    np.testing.assert_allclose(rough["sd"], fine["sd"], rtol=1e-3)
    np.testing.assert_allclose(rough["mean"], fine["mean"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("engine", ["sequential"], indirect=True)
def test_a_share_of_the_particles_at_a_time(engine, monkeypatch):
    whole = engine.smooth()
    monkeypatch.setattr(importlib.import_module("smcssm.readout.smooth"), "room", lambda snapshot: 2)
    parts = engine.smooth()
    for name in ("mean", "sd"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("engine", ["sequential"], indirect=True)
def test_a_share_of_the_trajectories_at_a_time(engine, monkeypatch):
    """Each run's are of its own particles, in the last share too, which is not full."""
    smooth, seen = importlib.import_module("smcssm.readout.smooth"), []
    monkeypatch.setattr(smooth, "room", lambda snapshot: 3)
    monkeypatch.setattr(smooth, "share_of", lambda snapshot, data, numbers: seen.append(numbers))
    monkeypatch.setattr(smooth, "_drawn", lambda share, key: np.zeros((T, 2, RUNS, 3)))
    snapshot = engine.snapshot()
    smooth._trajectories(snapshot, snapshot.data(), 5, seed=1)
    want = smooth.resampled(snapshot.weights(), 5, np.random.default_rng(1))
    np.testing.assert_array_equal(np.concatenate(seen, axis=1)[:, :5], want)


def test_complaints():
    engine = ss.Engine(MODEL, PRIOR, n_particles=N)
    with pytest.raises(ModelError, match="no observation yet"):
        engine.smooth()
    with pytest.raises(ModelError, match="lag=-1"):
        engine.smooth(-1)
    with pytest.raises(ModelError, match="draws=-2"):
        engine.smooth(draws=-2)
    with pytest.raises(ModelError, match="lag=3 goes without"):
        engine.smooth(3, covariance=True)
    with pytest.raises(ModelError, match=r"solver='fast'"):
        ss.Engine(MODEL, PRIOR, solver="fast")
    forgetful = ss.Engine(MODEL, PRIOR, n_particles=64, schedule=ss.Jitter(exact=2))
    forgetful.update(data()[:3])
    with pytest.raises(ModelError, match="journal="):
        forgetful.smooth()


def test_moves_are_the_same_in_blocks(monkeypatch):
    """The same proposals are accepted, and what particles carry is what either replay says."""
    monkeypatch.setattr(assemble, "SEGMENT", 256)
    rng = np.random.default_rng(0)
    y = np.cumsum(0.3 * rng.standard_normal(T)) + rng.standard_normal(T)
    y[40:45] = np.nan
    model = ss.models.LocalLevel(initial_sd=10.0)
    prior = Independent({"sigma_level": HalfNormal(1.0), "sigma_obs": HalfNormal(2.0)})
    ends = {}
    for solver in ("sequential", "parallel"):
        e = ss.Engine(model, prior, n_particles=64, solver=solver)
        assert e.update(y).moved.sum() > 3
        ends[solver] = e
        smc, population, history = e._runtime.smc, e._runtime.state.population, e._runtime.history
        with jax.enable_x64(True):
            blank = jax.tree.map(np.zeros_like, history.first)
            params, belief = particles(smc, stream(population.key, Stream.INIT), population.z, blank)
            zero = jnp.zeros_like(population.log_lik)
            begin = challengers.Challengers(population.z, params, belief, zero, zero)
            counters = np.full(1, len(history)), np.int64(0), np.int64(0)
            again = challengers.replay(smc, population, begin, history, *counters)
            np.testing.assert_allclose(again.log_lik, population.log_lik, rtol=1e-10)
            for a, b in zip(jax.tree.leaves(again.belief), jax.tree.leaves(population.belief), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10)
    a, b = (np.asarray(e._runtime.state.population.z) for e in ends.values())
    np.testing.assert_allclose(a, b, rtol=1e-9)
    assert abs(ends["sequential"].log_evidence - ends["parallel"].log_evidence) < 1e-9
