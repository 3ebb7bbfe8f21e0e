"""Smoothing with filters other than Kalman's: sums over all paths of regimes, and smoothing on a grid."""

import functools
import importlib
import itertools

import jax
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

import enumeration
import smcssm as ss
from filtering import block
from grids import around, grid_filter, normal_density
from many_runs import assert_mean
from oracles import dense_smoother
from smcssm import assemble
from smcssm.core import at_each_particle
from smcssm.errors import ModelError
from smcssm.filters import Particle, RaoBlackwell, rao_blackwell
from smcssm.priors import Normal
from smcssm.priors.base import Beta, HalfNormal, Independent, LogNormal
from smcssm.readout.posterior import resampled
from test_discrete import OWN
from test_rao_blackwell import DT, MODEL, THETA, Y, exact, first, keys, many, moves, regimes

traced = importlib.import_module("smcssm.readout.traced")
T, N, RUNS = 9, 4, 2


@functools.cache
def engine_of(model, prior, **options):
    """A few particles after a few rows, in several chunks, and no move."""
    options = dict(options)
    y = options.pop("y")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "CHUNK", 4)
        engine = ss.Engine(model, prior, n_particles=N, runs=RUNS, ess_threshold=1e-6, **options)
    engine.update(np.array(y))
    return engine


def mixture(engine, of_theta, w):
    """Mean of ``of_theta`` over all particles."""
    theta = engine.snapshot().theta()
    alive = [at for at in np.ndindex(w.shape) if w[at] > 0]
    return sum(w[at] * of_theta({k: v[(..., *at)] for k, v in theta.items()}) for at in alive)


def by_paths(log_p, horizon):
    """Probabilities [t, k] of two regimes given y_1..horizon(t), from log p(path, y_1:t) of every path."""
    out, each = np.zeros((T, 2)), functools.cache(log_p)
    for t in range(T):
        paths, log_w = each(horizon(t))
        w = np.exp(log_w - logsumexp(log_w))
        out[t] = [w[paths[:, t] == k].sum() for k in range(2)]
    return out


# --- hidden Markov models --------------------------------------------------------------------------------------------

SEEN = np.array([0.3, -1.0, 2.0, np.nan, 1.1, -0.4, 0.0, 0.9, -2.0])
CHAIN_PRIOR = Independent({"mu": HalfNormal(1.5), "stay": Beta(4.0, 2.0)})


def chain():
    return engine_of(OWN, CHAIN_PRIOR, y=tuple(SEEN))


def chain_paths(theta):
    mu, stay = theta["mu"], theta["stay"]
    mean, sd, P = np.array([-mu, mu]), np.array([1.0, 0.7]), np.log([[stay, 1 - stay], [0.2, 0.8]])

    def log_p(stop):
        paths = np.array(list(itertools.product(range(2), repeat=stop)))
        log_w = np.log([0.4, 0.6])[paths[:, 0]] + P[paths[:, :-1], paths[:, 1:]].sum(axis=1)
        log_w += np.nan_to_num(stats.norm.logpdf(SEEN[:stop], mean[paths], sd[paths])).sum(axis=1)
        return paths, log_w

    return log_p


@pytest.mark.parametrize("lag", [None, 0, 2, 5])
def test_a_hidden_markov_model_is_smoothed_exactly(lag):
    engine = chain()
    got = engine.smooth(lag)
    weights = engine.snapshot().weights() / RUNS

    def horizon(t):
        return T if lag is None else min(t + 1 + lag, T)

    p = mixture(engine, lambda theta: by_paths(chain_paths(theta), horizon), weights)
    np.testing.assert_allclose(got["probability"], p, rtol=1e-10)
    np.testing.assert_allclose(got["mean"], p, rtol=1e-10)
    np.testing.assert_allclose(got["sd"], np.sqrt(p * (1 - p)), rtol=1e-9)
    assert got["probability"].dims == ("time", "regime")
    np.testing.assert_allclose(got["probability"][-1], engine.state()["probability"], rtol=1e-12)


def test_paths_of_a_chain_are_drawn_from_their_law():
    engine, draws = chain(), 4000
    path = engine.smooth(draws=draws, seed=3)["trajectory"]
    assert path.dims == ("chain", "draw", "time", "state")
    assert (path.sum("state") == 1).all()
    u, n = path.values.argmax(axis=-1).reshape(-1, T), RUNS * draws
    weights = engine.snapshot().weights() / RUNS

    def law(theta):
        _, log_w = chain_paths(theta)(T)
        return np.exp(log_w - logsumexp(log_w))

    p = mixture(engine, law, weights)
    found = np.bincount(u @ 2 ** np.arange(T)[::-1], minlength=2**T) / n
    error = np.sqrt(p * (1 - p) / n)
    assert (np.abs(found - p) < 5 * error + 1 / n).all()
    assert 0.5 < np.sum((found - p) ** 2) / np.sum(error**2) < 1.5


# --- conditionally linear Gaussian models ----------------------------------------------------------------------------


SWITCHING_PRIOR = Independent({"a": HalfNormal(1.0), "stay": Beta(2.0, 2.0)})
BRANCHES = RaoBlackwell(n_particles=2**T)


def switching_moments(theta, horizon):
    """First and second moments of the two states, and probabilities of the two regimes, given y_1..horizon(t)."""
    out, each = np.zeros((T, 6)), regimes(theta)

    @functools.cache
    def given(stop):
        found = enumeration.paths(np.array(first(theta)), np.array(moves(theta)), each, Y[:stop])
        w = np.exp(np.array([w for _, w, *_ in found]) - enumeration.log_likelihood(found))
        of_path = []
        for path, *_ in found:
            varying = {k: np.stack([each[u][k] for u in path]) for k in ("F", "c", "Q", "H", "d", "R")}
            at = each[path[0]]
            dts = np.r_[0.0, np.ones(stop - 1)]
            means, covs, _ = dense_smoother(at["m0"], at["P0"], ys=Y[:stop], dts=dts, **varying)
            second = means**2 + np.einsum("txtx->tx", covs)
            of_path.append(np.concatenate([means, second, np.eye(2)[list(path)]], axis=1))
        return np.tensordot(w, np.array(of_path), axes=1)

    for t in range(T):
        out[t] = given(horizon(t))[t]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("lag", [None, 2, "blocks"])
def test_what_is_traced_is_exact_while_every_path_has_a_place(lag, monkeypatch):
    """``blocks``: by at least three rows more, three rows told each time."""
    engine = engine_of(MODEL, SWITCHING_PRIOR, y=tuple(map(tuple, Y)), filter=BRANCHES)
    if lag == "blocks":
        monkeypatch.setattr(traced, "LAG", 3)
    got = engine.smooth(None if lag == "blocks" else lag, seed=5)
    weights = engine.snapshot().weights()
    chosen = resampled(weights, traced.DRAWN // RUNS, np.random.default_rng(5))
    w = np.stack([np.bincount(numbers, minlength=N) for numbers in chosen]) / traced.DRAWN

    def horizon(t):
        seen = T if lag is None else 3 * (-(-(t + 1) // 3) + 1) if lag == "blocks" else t + 1 + lag
        return min(seen, T)

    want = mixture(engine, lambda theta: switching_moments(theta, horizon), w)
    np.testing.assert_allclose(got["mean"], want[:, :2], rtol=1e-9)
    np.testing.assert_allclose(got["sd"] ** 2 + got["mean"] ** 2, want[:, 2:4], rtol=1e-9)
    np.testing.assert_allclose(got["probability"], want[:, 4:], rtol=1e-9)
    assert got.attrs["lag"] == {None: T - 1, "blocks": 3}.get(lag, lag)
    np.testing.assert_allclose(got["mean"][-1], (w * engine.snapshot().states()[0]).sum(axis=(1, 2)), rtol=1e-9)
    with pytest.raises(ModelError, match="few ancestors"):
        engine.smooth(draws=3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("resampling", ["optimal", "systematic"])
def test_traced_regimes_have_no_bias_under_the_likelihood(resampling):
    """The estimate of p(u_t-l, y_1:t), whatever the number of branches."""
    inner, (_, data) = RaoBlackwell(MODEL, 8, resampling=resampling, lag=4), block(Y, dt=DT)

    @jax.jit
    def run(theta):
        params = at_each_particle(inner.model.params)(theta)
        start = inner.init(keys(), params, jax.tree.map(lambda a: a[0] * 0, data))

        def step(belief, obs):
            key = jax.vmap(jax.random.fold_in)(keys(), obs.index[:, 0].astype(np.uint32))
            return inner.step(key, params, belief, obs)

        belief, info = jax.lax.scan(step, start, data)
        return rao_blackwell.lagged(belief, 2), info.log_lik.sum(axis=0)

    p, log_lik = map(np.asarray, run(many(THETA, 1, 2000)))
    found = exact(1, 0)
    w = np.exp(np.array([w for _, w, *_ in found]) - enumeration.log_likelihood(found))
    paths = np.array([path for path, *_ in found])[:, ::-1][:, :5]
    truth = np.array([[w[paths[:, lag] == k].sum() for k in range(2)] for lag in range(5)])
    ratio = np.exp(log_lik[0] - enumeration.log_likelihood(found))
    assert_mean(np.moveaxis(ratio * p[:, :, 0], -1, 0), truth, 0.05)


@pytest.mark.slow  # two engines more to compile
def test_hidden_numbers_that_are_no_regimes_leave_the_state_to_be_smoothed():
    """Of a t law that is a Gaussian: every path has the moments of an exact smoother, but for the draws of theta."""
    prior, level = Independent({"sigma_level": HalfNormal(1.0), "sigma_obs": HalfNormal(1.0)}), ss.models.LocalLevel()
    robust = ss.models.StudentT(level, df=1e12)
    got = engine_of(robust, prior, y=tuple(SEEN), filter=RaoBlackwell(n_particles=4)).smooth(2)
    want = engine_of(level, prior, y=tuple(SEEN)).smooth(2)
    assert set(got.data_vars) == {"mean", "sd"}
    for name in ("mean", "sd"):
        np.testing.assert_allclose(got[name], want[name], atol=1 / traced.DRAWN * N)


# --- nonlinear models ------------------------------------------------------------------------------------------------

VOLATILE = np.array([0.5, -0.3, 1.2, np.nan, -3.0, 0.4, 0.1, 2.5, -0.6])
VOLATILITY_PRIOR = Independent(
    {"mu": Normal(-1.0, 0.7), "phi": Normal(0.9, 0.02), "sigma_volatility": LogNormal(0.5, 0.2)}
)


def smoothed_on_a_grid(theta, stop):
    """First two moments of the log volatility given y_1:stop."""
    mu, phi, sigma = (float(theta[k]) for k in ("mu", "phi", "sigma_volatility"))
    stationary = sigma / np.sqrt(1 - phi**2)
    x, y = around(mu, stationary, 800), VOLATILE[:stop]
    log_g = np.nan_to_num(stats.norm.logpdf(y[:, None], 0, np.exp(x / 2)))
    kernel = normal_density(x[None], (mu + phi * (x - mu))[:, None], sigma)
    *_, smoothed = grid_filter(x, normal_density(x, mu, stationary), [kernel] * stop, log_g)
    return np.stack([smoothed @ x, smoothed @ x**2], axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize("lag", [None, 2])
def test_ancestors_of_particles_have_the_smoothed_moments_of_a_grid(lag, monkeypatch):
    """Few outer draws of many inner particles each, so that the bias of order 1 / M is far below the noise."""
    engine = engine_of(
        ss.models.StochasticVolatility(), VOLATILITY_PRIOR, y=tuple(VOLATILE), filter=Particle(n_particles=1000)
    )
    monkeypatch.setattr(traced, "DRAWN", 8)
    monkeypatch.setattr(traced, "_room", lambda snapshot, lag: 3)
    got = [engine.smooth(lag, seed=seed) for seed in range(12)]
    np.testing.assert_array_equal(got[0]["mean"], engine.smooth(lag, seed=0)["mean"])

    def of_theta(theta):
        stops = [T if lag is None else min(t + 1 + lag, T) for t in range(T)]
        each = {stop: smoothed_on_a_grid(theta, stop) for stop in set(stops)}
        return np.array([each[stop][t] for t, stop in enumerate(stops)])

    mean, square = mixture(engine, of_theta, engine.snapshot().weights() / RUNS).T
    means, sds = (np.array([g[name].values[:, 0] for g in got]) for name in ("mean", "sd"))
    for found, want in ((means, mean), (sds**2 + means**2, square)):
        error = np.sqrt(np.mean(found.var(axis=0, ddof=1)) / len(found))
        assert error < 0.05
        assert np.abs(found.mean(axis=0) - want).max() < 4.5 * error
    np.testing.assert_allclose(engine.smooth(0)["mean"][-1], engine.state()["mean"], atol=0.2)
