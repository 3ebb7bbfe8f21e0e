"""Particle filters: without bias in the likelihood itself, and in all that is weighted by it; against grid filters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from scipy import stats

import smcssm as ss
from grids import around, grid_filter, normal_density
from many_runs import assert_mean, rows, run, runs
from oracles import kalman_filter_numpy
from smcssm.core import Observation, Status
from smcssm.errors import ModelError
from smcssm.filters import Particle
from smcssm.filters.inner import stratified, systematic
from smcssm.filters.particle import lagged
from smcssm.priors.base import HalfNormal, Independent
from smcssm.resampling import crps_of_draws

pytestmark = pytest.mark.usefixtures("x64")

M, N = 64, 2000  # inner particles, and independent runs of the filter

# --- the oracles -----------------------------------------------------------------------------------------------------

SV = {"mu": -1.0, "phi": 0.9, "sigma_volatility": 0.5}
LEVERAGE = SV | {"rho": -0.7}
POISSON = {"log_mean": 0.7, "phi": 0.8, "sigma_ar": 0.5}
LINEAR = {"phi": 0.8, "sigma": 0.7, "noise": 0.5}
T = 20
SEEN = np.arange(T) % 7 != 4
DT = np.where(np.arange(T) % 9 == 5, 0.0, 1.0) * (np.arange(T) > 0)  # here and there two rows at once


@functools.cache
def sv_oracle(rho=0.0):
    mu, phi, sigma = SV.values()
    y = np.exp(-0.5) * np.random.default_rng(3).normal(size=T)
    y[9], y[~SEEN] = 3.0, np.nan
    stationary = sigma / np.sqrt(1 - phi**2)
    x = around(mu, stationary)
    e = np.nan_to_num(y)[:, None] * np.exp(-x / 2)
    log_g = np.where(SEEN[:, None], stats.norm.logpdf(np.nan_to_num(y)[:, None], 0, np.exp(x / 2)), 0)
    kernels = [None]
    for t in range(1, T):
        known = SEEN[t - 1]
        mean = mu + phi * (x - mu) + sigma * rho * (e[t - 1] if known else 0)
        kernels.append(normal_density(x[None], mean[:, None], sigma * (np.sqrt(1 - rho**2) if known else 1)))
    return y, x, *grid_filter(x, normal_density(x, mu, stationary), kernels, log_g)


@functools.cache
def poisson_oracle():
    mean, phi, sigma = POISSON.values()
    stationary = sigma / np.sqrt(1 - phi**2)
    x = around(mean, stationary)
    y = np.random.default_rng(4).poisson(2.5, size=T).astype(float)
    y[9], y[~SEEN] = 9, np.nan
    kernel = normal_density(x[None], (mean + phi * (x - mean))[:, None], sigma)
    log_g = np.where(SEEN[:, None], stats.poisson.logpmf(np.nan_to_num(y)[:, None], np.exp(x)), 0)
    kernels = [kernel if dt else None for dt in np.r_[0, np.ones(T - 1)]]
    return y, x, *grid_filter(x, normal_density(x, mean, stationary), kernels, log_g)


def linear(**options):
    """An autoregression in noise, by functions of one particle; q is the best proposal, and it looks ahead exactly."""

    def proposal(key, theta, x, y, step):
        mean, q, r = theta["phi"] * x, theta["sigma"] ** 2, theta["noise"] ** 2
        gain = q / (q + r)
        centre, sd = mean + gain * (y - mean), jnp.sqrt(gain * r)
        new = centre + sd * jax.random.normal(key)
        return new, norm.logpdf(new, mean, theta["sigma"]) - norm.logpdf(new, centre, sd)

    def look_ahead(theta, x, y, step):
        return norm.logpdf(y, theta["phi"] * x, jnp.sqrt(theta["sigma"] ** 2 + theta["noise"] ** 2))

    return ss.models.Nonlinear(
        lambda key, theta: 0.5 + jax.random.normal(key),
        lambda key, theta, x, step: theta["phi"] * x + theta["sigma"] * jax.random.normal(key),
        lambda theta, x, y, step: norm.logpdf(y, x, theta["noise"]),
        ("phi", "sigma", "noise"),
        sample_observation=lambda key, theta, x, step: x + theta["noise"] * jax.random.normal(key),
        proposal=proposal,
        look_ahead=look_ahead,
        **options,
    )


LINEAR_MODEL = linear()


@functools.cache
def linear_oracle():
    y = np.random.default_rng(5).normal(size=T)
    y[~SEEN], y[3] = np.nan, 3.0
    F, Q, R = [[LINEAR["phi"]]], [[LINEAR["sigma"] ** 2]], [[LINEAR["noise"] ** 2]]
    return y, *kalman_filter_numpy([0.5], [[1.0]], F, [0.0], Q, [[1.0]], [0.0], R, y, DT)


# --- without bias ----------------------------------------------------------------------------------------------------

FILTERS = {
    "systematic": {},
    "stratified": {"resampling": "stratified"},
    "sorted": {"resampling": "sorted"},
    "always": {"ess_threshold": 1.0},
    "seldom": {"ess_threshold": 0.1},
}


def check_against_grid(filter, theta, oracle, sharp):
    """The likelihood, and all that is weighted by it, without bias at every row: filtered, predicted and smoothed."""
    y, x, log_lik, predicted, filtered, smoothed = oracle
    info, mean, sd, belief = runs(filter, theta, y)
    estimate = np.cumsum(np.asarray(info.log_lik)[:, 0], axis=0) - np.cumsum(log_lik)[:, None]
    ratio = np.exp(estimate)
    assert_mean(ratio.T, 1.0, sharp)
    before = np.vstack([np.ones(N), ratio[:-1]])
    m, s = np.asarray(mean)[:, 0, 0], np.asarray(sd)[:, 0, 0]
    assert_mean((ratio * m).T, filtered @ x)
    assert_mean((ratio * (m**2 + s**2)).T, filtered @ x**2)
    assert (np.asarray(info.status) == Status.OK).all()
    return info, before, predicted, belief, ratio, smoothed


QUICK = ("systematic", "sorted")


@pytest.mark.parametrize("scheme", [pytest.param(s, marks=() if s in QUICK else pytest.mark.slow) for s in FILTERS])
def test_stochastic_volatility(scheme):
    filter = Particle(ss.models.StochasticVolatility(), n_particles=M, **FILTERS[scheme])
    y, x, *_ = sv_oracle()
    info, before, predicted, *_ = check_against_grid(filter, SV, sv_oracle(), 0.02)
    assert_mean((before * np.asarray(info.sd)[:, 0, 0] ** 2).T, predicted @ np.exp(x))
    assert np.all(np.asarray(info.mean) == 0)
    cdf = np.array([p @ stats.norm.cdf(v, 0, np.exp(x / 2)) for p, v in zip(predicted, y, strict=True)])
    pit = np.asarray(info.pit)[:, 0, 0]
    assert np.isnan(pit[~SEEN]).all()
    below = np.asarray(info.draw)[:, 0, 0] < y[:, None]
    assert_mean((before * below)[SEEN].T, cdf[SEEN])
    for t in (3, 9):  # the second one is an outlier
        kept = predicted[t] > 1e-9
        p, variance, folded = predicted[t][kept], np.exp(x[kept]), stats.norm.cdf(y[t], 0, np.exp(x[kept] / 2))
        density = stats.norm.pdf(y[t], 0, np.sqrt(variance))
        crps = p @ (y[t] * (2 * folded - 1) + 2 * variance * density)
        crps -= p @ np.sqrt((variance[:, None] + variance) / (2 * np.pi)) @ p
        w, draw = before[t] / before[t].sum(), np.asarray(info.draw)[t]
        got = crps_of_draws(jnp.asarray(y[t : t + 1, None]), jnp.asarray(draw), jnp.asarray(w[None, None]))
        assert abs(float(got[0, 0]) - crps) < 4 * np.abs(draw - y[t]).std() * np.sqrt(np.sum(w**2))
    assert_mean((before * pit)[SEEN].T, cdf[SEEN])


def test_stochastic_volatility_with_leverage():
    filter = Particle(ss.models.StochasticVolatility(leverage=True), n_particles=M)
    *_, belief, _, _ = check_against_grid(filter, LEVERAGE, sv_oracle(LEVERAGE["rho"]), 0.02)
    y = sv_oracle()[0]
    np.testing.assert_allclose(belief.x[1], y[-1] * np.exp(-0.5 * np.asarray(belief.x[0])), rtol=1e-12)


def test_poisson_counts():
    filter = Particle(ss.models.PoissonCounts(), n_particles=M)
    y, x, *_ = poisson_oracle()
    info, before, predicted, *_ = check_against_grid(filter, POISSON, poisson_oracle(), 0.02)
    centre = predicted @ np.exp(x)
    assert_mean((before * np.asarray(info.mean)[:, 0, 0]).T, centre)
    second = np.asarray(info.mean)[:, 0, 0] ** 2 + np.asarray(info.sd)[:, 0, 0] ** 2
    assert_mean((before * second).T, predicted @ (np.exp(x) + np.exp(2 * x)))
    pit = np.asarray(info.pit)[:, 0, 0].mean(axis=-1)
    for t in np.flatnonzero(SEEN):
        low, high = (predicted[t] @ stats.poisson.cdf(v, np.exp(x)) for v in (y[t] - 1, y[t]))
        assert low - 0.03 < pit[t] < high + 0.03


@pytest.mark.parametrize("method", ["bootstrap", "guided", "auxiliary"])
@pytest.mark.parametrize("scheme", ["systematic", pytest.param("always", marks=pytest.mark.slow)])
def test_linear_gaussian_against_kalman(method, scheme):
    """With a proposal and a look-ahead, rows at the same time and missing ones."""
    filter = Particle(LINEAR_MODEL, n_particles=M, method=method, **FILTERS[scheme])
    y, log_lik, means, covs = linear_oracle()
    info, mean, sd, _ = runs(filter, LINEAR, y, dt=DT)
    estimate = np.cumsum(np.asarray(info.log_lik)[:, 0], axis=0)
    ratio = np.exp(estimate - np.cumsum(log_lik)[:, None])
    assert_mean(ratio.T, 1.0, 0.06 if method == "bootstrap" else 0.02)  # an outlier at t = 3
    m, s = np.asarray(mean)[:, 0, 0], np.asarray(sd)[:, 0, 0]
    assert_mean((ratio * m).T, means[:, 0])
    assert_mean((ratio * (m**2 + s**2)).T, covs[:, 0, 0] + means[:, 0] ** 2)
    assert np.all(np.asarray(info.log_lik)[~SEEN] == 0)


def test_guides_reduce_the_noise():
    y = linear_oracle()[0]
    spread = {
        method: np.asarray(runs(Particle(LINEAR_MODEL, n_particles=M, method=method), LINEAR, y, dt=DT)[0].log_lik)
        .sum(axis=0)
        .std()
        for method in ("bootstrap", "guided", "auxiliary")
    }
    assert spread["guided"] < 0.7 * spread["bootstrap"] and spread["auxiliary"] < spread["guided"]


@pytest.mark.parametrize("method", ["bootstrap", "guided"])
def test_one_step_predictives_are_those_of_the_kalman_filter(method):
    """Also where the particles that are weighted have been drawn with y in sight."""
    y, log_lik, means, covs = linear_oracle()
    info, *_ = runs(Particle(LINEAR_MODEL, n_particles=M, method=method), LINEAR, y, dt=DT)
    phi, sigma, noise = LINEAR.values()
    before = np.exp(np.cumsum(np.asarray(info.log_lik)[:, 0], axis=0) - np.cumsum(log_lik)[:, None])
    before = np.vstack([np.ones(N), before[:-1]])
    m, P = np.r_[0.5, means[:-1, 0]], np.r_[1.0, covs[:-1, 0, 0]]
    m, P = np.where(DT > 0, phi * m, m), np.where(DT > 0, phi**2 * P + sigma**2, P)
    mean, sd = np.asarray(info.mean)[:, 0, 0], np.asarray(info.sd)[:, 0, 0]
    assert_mean((before * mean).T, m)
    assert_mean((before * (mean**2 + sd**2)).T, m**2 + P + noise**2)
    pit = (before * np.asarray(info.pit)[:, 0, 0])[SEEN]
    assert_mean(pit.T, stats.norm.cdf(y, m, np.sqrt(P + noise**2))[SEEN])


def test_smoothing_with_a_fixed_lag():
    """Ancestors of today's particles have the law of the past given all of y."""
    filter = Particle(ss.models.StochasticVolatility(), n_particles=M, lag=3)
    _, x, *_ = sv_oracle()
    *_, belief, ratio, smoothed = check_against_grid(filter, SV, sv_oracle(), 0.02)
    mean, sd = (np.asarray(a)[:, 0, 0] for a in lagged(belief))
    truth = smoothed[::-1][:4]
    assert_mean((ratio[-1] * mean).T, truth @ x)
    assert_mean((ratio[-1] * (mean**2 + sd**2)).T, truth @ x**2)
    with pytest.raises(ModelError, match="give it lag="):
        lagged(runs(Particle(LINEAR_MODEL, n_particles=M), LINEAR, np.zeros(2), n=3)[-1])


# --- pieces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [systematic, stratified])
def test_resampling_takes_each_by_its_weight(scheme):
    """As many times as it should on average; systematically the floor or the ceiling of it."""
    m, s, n = 7, 2, 4000
    w = np.random.default_rng(0).dirichlet(np.full(m, 0.5), size=s)
    weight = jnp.broadcast_to(jnp.asarray(w.T)[..., None], (m, s, n))
    ancestors = np.asarray(scheme(jax.random.split(jax.random.key(1), s), weight))
    assert (np.diff(ancestors, axis=0) >= 0).all()
    counts = (ancestors[None] == np.arange(m)[:, None, None, None]).sum(axis=1)
    assert (counts.sum(axis=0) == m).all()
    for i in range(s):
        assert_mean(counts[:, i].T, m * w[i])
    slack = 1 if scheme is systematic else 2
    assert (np.abs(counts - m * w.T[..., None]) < slack).all()


def test_resampling_when_one_has_all_the_weight():
    weight = jnp.zeros((5, 1, 8)).at[2].set(1.0)
    for scheme in (systematic, stratified):
        assert (scheme(jax.random.split(jax.random.key(1), 1), weight) == 2).all()


def test_draws_follow_the_belief():
    filter = Particle(LINEAR_MODEL, n_particles=M)
    *_, mean, sd, belief = runs(filter, LINEAR, linear_oracle()[0])
    draws = np.asarray(filter.draw(jax.random.split(jax.random.key(7), 1), belief))[0, 0]
    m, s = np.asarray(mean)[-1, 0, 0], np.asarray(sd)[-1, 0, 0]
    assert_mean(draws - m, 0.0)
    assert_mean((draws - m) ** 2 - s**2, 0.0)


def test_simulated_paths_have_leverage():
    """The return of today and the change of h tomorrow have the correlation rho."""
    model = ss.models.StochasticVolatility(leverage=True)
    filter, n = Particle(model, n_particles=2), 4000
    theta = {k: jnp.full((1, n), v) for k, v in LEVERAGE.items()}
    obs = jax.tree.map(lambda leaf: leaf[0], rows([0.0], dt=[1.0]))
    key = jax.random.split(jax.random.key(0), 3)
    state = filter.draw(key[:1], filter.init(key[:1], theta, obs))
    state, before, y = filter.simulate(key[1:2], theta, state, obs)
    _, after, _ = filter.simulate(key[2:], theta, state, obs)
    mu, phi, sigma, rho = LEVERAGE.values()
    standard = np.asarray(y[0, 0] / jnp.exp(before[0, 0] / 2))
    change = np.asarray(after[0, 0] - mu - phi * (before[0, 0] - mu)) / sigma
    assert stats.kstest(standard, "norm").pvalue > 1e-3 and stats.kstest(change, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(standard, change)[0, 1] - rho) < 4 * (1 - rho**2) / n**0.5
    same, _, _ = filter.simulate(key[2:], theta, state, jax.tree.map(jnp.zeros_like, obs))
    assert (same == state).all()


def test_inputs_of_a_row_count_in_it():
    """In the first row too, before which there were none, and over dt = 0."""
    signal = ss.models.Regression(1, drifting=True, initial_mean=1.0, initial_sd=0.1)
    model, n, y = ss.models.PoissonCounts(signal), 200, np.array([9.0, 3.0])
    d = rows(y)
    d = Observation(d.y, d.mask, 0 * d.dt, d.index, jnp.array([[2.0], [1.0]])[..., None, None])
    theta = {"log_mean": jnp.full((1, n), 0.5), "sigma_beta": jnp.full((1, n), 0.1)}
    info, *_ = run(Particle(model, n_particles=M), theta, d, jax.random.split(jax.random.key(0), 1))
    b = 1.0 + 0.1 * np.linspace(-8, 8, 2001)
    w = stats.norm.pdf(b, 1.0, 0.1)
    g = [stats.poisson.pmf(v, np.exp(0.5 + x * b)) for v, x in zip(y, (2.0, 1.0), strict=True)]
    want = w @ g[0] / w.sum(), w @ (g[0] * g[1]) / w.sum()
    got = np.exp(np.cumsum(np.asarray(info.log_lik)[:, 0], axis=0))
    for truth, found in zip(want, got, strict=True):
        assert abs(found.mean() - truth) < 4 * found.std() / n**0.5


def test_poisson_probabilities():
    """Added up for small counts, by the incomplete gamma function for large ones; what is no count has none."""
    model, rate = ss.models.PoissonCounts(), np.array([0.01, 3.0, 80.0])
    x = jnp.log(jnp.asarray(rate)).reshape(1, 3, 1, 1)
    for y in (0.0, 4.0, 75.0):
        obs = jax.tree.map(lambda leaf: leaf[0][..., None, :, :], rows([y]))
        mean, sd, below, upto = model.predictive(jax.random.split(jax.random.key(0), 1), {}, x, obs)
        np.testing.assert_allclose(below.ravel(), stats.poisson.cdf(y - 1, rate), rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(upto.ravel(), stats.poisson.cdf(y, rate), rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(model.log_observation({}, x, obs).ravel(), stats.poisson.logpmf(y, rate), rtol=1e-9)
        np.testing.assert_allclose(np.r_[mean.ravel(), sd.ravel() ** 2], np.r_[rate, rate], rtol=1e-12)
    for y in (-1.0, 2.5):
        obs = jax.tree.map(lambda leaf: leaf[0][..., None, :, :], rows([y]))
        assert (model.log_observation({}, x, obs) == -jnp.inf).all()


def test_single_precision_stays_single():
    filter = Particle(ss.models.StochasticVolatility(), n_particles=M)
    y, _, log_lik, *_ = sv_oracle()
    theta = {k: jnp.full((1, N), v, jnp.float32) for k, v in SV.items()}
    data = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == float else a, rows(y))
    info, _, _, belief = run(filter, theta, data, jax.random.split(jax.random.key(0), 1))
    assert {a.dtype for a in jax.tree.leaves(belief)} == {jnp.dtype(jnp.float32)}
    assert_mean(np.exp(np.asarray(info.log_lik, float)[:, 0].sum(axis=0) - log_lik.sum()), 1.0, 0.02)


# --- a vector state, several channels, inputs ------------------------------------------------------------------------


def _of_two(log_observation):
    return ss.models.Nonlinear(
        lambda key, theta: jax.random.normal(key, (2,)),
        lambda key, theta, x, step: jnp.array([0.9 * x[0] + 0.1 * x[1], 0.5 * x[1] + step.inputs[0]])
        + theta["sigma"] * jax.random.normal(key, (2,)),
        log_observation,
        ("sigma",),
        shapes={"sigma": 2},
        channels=("a", "b"),
        n_inputs=1,
    )


APART = _of_two(lambda theta, x, y, step: norm.logpdf(y, x, 0.5))
TOGETHER = _of_two(lambda theta, x, y, step: jnp.sum(norm.logpdf(y, x, 0.5)))


def test_channels_count_one_by_one_or_together():
    """Where the function returns one number, a row with a missing value tells nothing."""
    rng = np.random.default_rng(1)
    y, inputs = rng.normal(size=(8, 2)), rng.normal(size=8)
    y[2, 0] = y[5, 1] = np.nan
    F, Q, R = np.array([[0.9, 0.1], [0.0, 0.5]]), np.diag([0.49, 0.09]), np.diag([0.25, 0.25])
    c = np.stack([np.zeros(8), inputs], axis=1)
    theta = {"sigma": jnp.broadcast_to(jnp.array([0.7, 0.3])[:, None, None], (2, 1, N))}
    for model, seen in ((APART, y), (TOGETHER, np.where(np.isnan(y).any(axis=1, keepdims=True), np.nan, y))):
        log_lik, *_ = kalman_filter_numpy(np.zeros(2), np.eye(2), F, c, Q, np.eye(2), np.zeros(2), R, seen)
        data = rows(y)
        data = Observation(data.y, data.mask, data.dt, data.index, jnp.asarray(inputs)[:, None, None, None])
        info, *_ = run(Particle(model, n_particles=M), theta, data, jax.random.split(jax.random.key(0), 1))
        assert_mean(np.exp(np.asarray(info.log_lik)[:, 0].sum(axis=0) - log_lik.sum()), 1.0, 0.03)
        assert np.isnan(info.mean).all() and np.isnan(info.pit).all()  # nothing draws observations


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_particles_that_are_not_finite_have_a_status_of_their_own():
    model = ss.models.Nonlinear(
        lambda key, theta: jax.random.normal(key),
        lambda key, theta, x, step: x,
        lambda theta, x, y, step: jnp.where(theta["a"] > 1, jnp.nan, -0.5 * (y - x) ** 2),
        ("a",),
    )
    theta = {"a": jnp.array([[0.5, 2.0]])}
    key = jax.random.split(jax.random.key(0), 1)
    info, _, _, belief = run(Particle(model, n_particles=M), theta, rows([0.0, 1.0]), key)
    assert np.isfinite(info.log_lik[:, 0, 0]).all() and np.isnan(info.log_lik[:, 0, 1]).all()
    assert np.isfinite(belief.log_weight).all()


def moved(key, theta, x, step):
    return jnp.where(step.inputs[0] == 2, jnp.sqrt(-1.5 - x * x), 0.9 * x + 0.1 * jax.random.normal(key))


def density(theta, x, y, step):
    return norm.logpdf(jnp.log(3 * y + 2), x, theta["a"])


def drift(key, theta, x, y, step):
    return 0.9 * x, jnp.sqrt(2.5 - step.inputs[0])


@pytest.fixture(scope="module")
def careless():
    """An engine that takes what is impossible as missing, after two rows."""
    model = ss.models.Nonlinear(
        lambda key, theta: jax.random.normal(key), moved, density, ("a",), proposal=drift, input_names=("v",)
    )
    engine = ss.Engine(
        model,
        Independent({"a": HalfNormal(1.0)}),
        n_particles=16,
        filter=Particle(n_particles=8),
        schedule=ss.Immediate(tempering=False),
        ess_threshold=1e-6,
        impossible="missing",
    )
    engine.update([0.1, 0.4], inputs=np.zeros((2, 1)))
    return engine


@pytest.mark.parametrize(
    ("y", "v", "told"),
    [
        ([0.2, -3.0], [0, 0], r"observation 4 \(row 1\) with value -3 .*log_observation \(density\) returned NaN for"),
        ([0.2], [3], r"for 16 of 16 .* proposal \(drift\) returned NaN for x=.* At a=.*, step.t=2, step.dt=1\. The"),
        ([np.nan, 0.2], [2, 0], r"sample_transition \(moved\) returned NaN at an earlier time\. At a="),
    ],
)
def test_a_function_that_returns_nan_is_named_and_nothing_taken(careless, y, v, told):
    evidence = careless.log_evidence
    with pytest.raises(ModelError, match=told):
        careless.update(y, inputs=np.array(v, float)[:, None])
    assert (careless.t, careless.log_evidence) == (2, evidence)


def test_a_look_ahead_from_a_dead_state_may_be_anything():
    """It used to make all weights equal, so that nothing was resampled any more."""
    model = ss.models.Nonlinear(
        lambda key, theta: jax.random.normal(key),
        lambda key, theta, x, step: 0.5 * jnp.sqrt(x + 1.5) + theta["a"] * jax.random.normal(key),
        lambda theta, x, y, step: jnp.where(x > -1.5, -2.0 * (y - x) ** 2, -jnp.inf),
        ("a",),
        look_ahead=lambda theta, x, y, step: -0.5 * (y - 0.5 * jnp.sqrt(x + 1.5)) ** 2,
    )
    key, y = jax.random.split(jax.random.key(0), 1), 0.6 + np.sin(np.arange(T))
    info, *_, belief = run(Particle(model, n_particles=M), {"a": jnp.full((1, 20), 0.7)}, rows(y), key)
    plain, *_ = run(Particle(model, n_particles=M, method="bootstrap"), {"a": jnp.full((1, 20), 0.7)}, rows(y), key)
    assert np.isnan(info.log_lik).sum() == 0
    assert (1 / np.exp(2 * np.asarray(belief.log_weight)).sum(axis=0)).min() > 5
    total, other = (np.asarray(i.log_lik)[:, 0].sum(axis=0) for i in (info, plain))
    assert abs(total.mean() - other.mean()) < 5 * np.hypot(total.std(), other.std()) / 20**0.5


def test_a_state_of_weight_zero_may_become_anything():
    """Few die, so that none is resampled; what moves on from a state outside the domain is no number."""
    model = ss.models.Nonlinear(
        lambda key, theta: jax.random.normal(key),
        lambda key, theta, x, step: jnp.sqrt(1.5 - x),
        lambda theta, x, y, step: jnp.where(x < 1.5, -theta["a"] * x, -jnp.inf),
        ("a",),
        sample_observation=lambda key, theta, x, step: x,
    )
    key = jax.random.split(jax.random.key(0), 1)
    filter, theta = Particle(model, n_particles=M), {"a": jnp.full((1, 2), 1e-3)}
    info, mean, sd, belief = run(filter, theta, rows([0.0, 1.0, 1.0]), key)
    gone = np.isneginf(belief.log_weight)
    assert 0 < gone.sum() < gone.size / 2 and np.isnan(belief.x[0][gone]).all()
    for told in (info.log_lik, info.mean, info.sd, info.pit, mean, sd):
        assert np.isfinite(told).all()


GOOD = {
    "sample_initial": lambda key, theta: jax.random.normal(key),
    "sample_transition": lambda key, theta, x, step: theta["a"] * x,
    "log_observation": lambda theta, x, y, step: -((y - x) ** 2),
    "sample_observation": lambda key, theta, x, step: x,
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sample_initial": lambda theta: 0.0}, r"sample_initial raised TypeError.*called as \(key, theta\)"),
        ({"sample_initial": lambda key, theta: jnp.zeros((2, 2))}, r"sample_initial returned shape \(2, 2\)"),
        ({"sample_transition": lambda key, theta, x, step: jnp.zeros(2)}, r"returned shape \(2,\), expected \(\)"),
        ({"sample_transition": lambda key, theta, x, step: x * theta["b"]}, "KeyError: 'b'"),
        ({"log_observation": lambda theta, x, y, step: jnp.zeros(3)}, r"shape \(3,\), expected \(\) or \(1,\)"),
        ({"log_observation": lambda theta, x, y, step: jnp.log(-theta["a"])}, r"log_observation returned NaN at a=0.5"),
        ({"sample_transition": lambda key, theta, x, step: x / 0 * 0}, r"sample_transition returned NaN at .*step.t=1"),
        ({"proposal": lambda key, theta, x, y, step: x}, r"proposal raised .*-> \(x', log_ratio\)"),
        ({"look_ahead": lambda theta, x, y, step: jnp.zeros(2)}, r"look_ahead returned shape \(2,\)"),
        ({"shapes": {"b": 2}}, "b is not among the names a"),
        ({"example": {"b": 2}}, "b is not among the names a"),
        ({"example": {"a": [1.0, 2.0]}}, r"a has shape \(2,\), expected \(\)"),
        ({"states": ("p", "q")}, "got 2 names, but sample_initial returns 1"),
    ],
)
def test_functions_that_are_wrong_are_named(wrong, message):
    with pytest.raises(ModelError, match=message):
        ss.models.Nonlinear(**(GOOD | {"names": ("a",)} | wrong))


def test_an_example_tells_which_hyperparameters_make_sense():
    functions = GOOD | {"sample_transition": lambda key, theta, x, step: jnp.sqrt(theta["a"] - 1) * x}
    with pytest.raises(ModelError, match="example="):
        ss.models.Nonlinear(**functions, names=("a",))
    assert ss.models.Nonlinear(**functions, names=("a",), example={"a": 2.0}).state_names == ("x",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_particles": 1}, r"Particle\(n_particles\).*>= 2, got 1"),
        ({"n_particles": 100, "max_inner": 50}, r"Particle\(max_inner\).*>= 100, got 50"),
        ({"lag": -1}, r"Particle\(lag\).*got -1"),
        ({"resampling": "multinomial"}, "expected one of 'systematic'"),
        ({"method": "optimal"}, "expected one of 'auto'"),
        ({"ess_threshold": 2.0}, "expected a share"),
        ({"method": "guided"}, "has no proposal"),
        ({"method": "auxiliary"}, "has no look_ahead"),
        ({"model": ss.models.LocalLevel()}, "expected a nonlinear model"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ModelError, match=message):
        Particle(**({"model": ss.models.StochasticVolatility()} | options))


def test_forecasts_need_draws_of_observations():
    filter = Particle(ss.models.Nonlinear(**{k: v for k, v in GOOD.items() if k != "sample_observation"}, names=("a",)))
    obs = jax.tree.map(lambda leaf: leaf[0], rows([0.0]))
    with pytest.raises(ModelError, match="sample_observation="):
        filter.simulate(jax.random.split(jax.random.key(0), 1), {"a": jnp.ones((1, 2))}, jnp.zeros((1, 1, 2)), obs)
