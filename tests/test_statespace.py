"""Models of pymc-extras, streamed: likelihoods against its own filter, folding against Bayes' theorem, streams."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from scipy import stats

import smcssm as ss
from smcssm.bridges.statespace_model import is_stable, semidefinite_root
from smcssm.core import at_each_particle
from smcssm.errors import ModelError
from smcssm.filters import Kalman
from smcssm.ingest import Clock, to_block
from smcssm.priors.graphs import JaxProgram
from smcssm.priors.pymc import as_prior
from smcssm.smc2.population import at_particles

pmss = pytest.importorskip("pymc_extras.statespace")
st = pmss.structural

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.usefixtures("x64"),
]
T, DRAWS = 30, 20


def series(k=1, seed=0):
    rng = np.random.default_rng(seed)
    y = 0.3 * np.cumsum(rng.normal(size=(T, k)), axis=0) + rng.normal(size=(T, k))
    y[5:8, 0] = np.nan
    y[12] = np.nan
    return y


def rows(k, seed=1):
    return np.random.default_rng(seed).normal(size=(T, k))


def components():
    sum_of = (
        st.LevelTrend(order=2, innovations_order=[1, 1])
        + st.TimeSeasonality(season_length=4, innovations=True, name="season")
        + st.FrequencySeasonality(season_length=6, n=1, name="waves")
        + st.Cycle(cycle_length=9.0, innovations=True, dampen=True, name="cycle")
        + st.Autoregressive(order=1, name="ar")
        + st.Regression(state_names=["price", "rain"], name="exog")
        + st.MeasurementError("obs")
    )
    model = sum_of.build(name="y", verbose=False, cov_jitter=0.0)
    with pm.Model(coords=model.coords) as prior:
        sd = pm.HalfNormal("sd0", 1.0, dims="state")
        pm.Deterministic("P0", pt.diag(sd**2), dims=("state", "state_aux"))
        pm.Normal("initial_level_trend", 0.3, [1.0, 0.2], dims="state_level_trend")
        pm.HalfNormal("sigma_level_trend", 0.3, dims="shock_level_trend")
        pm.Normal("params_season", 0.0, 1.0, dims="state_season")
        pm.HalfNormal("sigma_season", 0.3)
        pm.Normal("params_waves", 0.0, 1.0, dims="state_waves")
        pm.HalfNormal("sigma_waves", 0.3)
        pm.MvNormal("params_cycle", [0.1, -0.2], [[1.0, 0.3], [0.3, 0.5]], dims="state_cycle")
        pm.Beta("dampening_factor_cycle", 8.0, 2.0)
        pm.HalfNormal("sigma_cycle", 0.3)
        pm.Beta("params_ar", 5.0, 2.0, dims="lag_ar")
        pm.HalfNormal("sigma_ar", 0.3)
        pm.Normal("beta_exog", 0.0, 1.0, dims="state_exog")
        pm.HalfNormal("sigma_obs", 1.0)
        pm.Data("data_exog", rows(2))
        model.build_statespace_graph(series())
    return model, prior


def sarimax():
    model = pmss.BayesianSARIMAX(
        order=(2, 0, 1),
        stationary_initialization=True,
        measurement_error=True,
        exog_state_names=["price", "rain"],
        trend="ct",
        verbose=False,
        cov_jitter=0.0,
    )
    with pm.Model(coords=model.coords) as prior:
        pm.Normal("ar_params", 0.0, 0.5, dims="lag_ar")
        pm.Normal("ma_params", 0.0, 0.3, dims="lag_ma")
        pm.Normal("beta_exog", 0.0, 1.0, dims="exogenous")
        pm.Normal("trend_params", 0.0, [0.5, 0.05])
        pm.HalfNormal("sigma_state", 1.0)
        pm.HalfNormal("sigma_obs", 1.0)
        pm.Data("exogenous_data", rows(2))
        model.build_statespace_graph(series())
    return model, prior


def seasonal_arima():
    model = pmss.BayesianSARIMAX(
        order=(1, 1, 1), seasonal_order=(1, 0, 0, 4), stationary_initialization=False, verbose=False, cov_jitter=0.0
    )
    with pm.Model(coords=model.coords) as prior:
        pm.Normal("x0", 0.0, 1.0, dims="state")
        pm.Deterministic("P0", 2.0 * pt.eye(model.k_states))
        pm.Normal("ar_params", 0.0, 0.3, dims="lag_ar")
        pm.Normal("ma_params", 0.0, 0.3, dims="lag_ma")
        pm.Normal("seasonal_ar_params", 0.0, 0.3, dims="seasonal_lag_ar")
        pm.HalfNormal("sigma_state", 1.0)
        model.build_statespace_graph(series())
    return model, prior


def varmax():
    model = pmss.BayesianVARMAX(
        endog_names=["north", "south"],
        order=(1, 1),
        exog_state_names=["rain"],
        stationary_initialization=False,
        measurement_error=True,
        verbose=False,
        cov_jitter=0.0,
    )
    with pm.Model(coords=model.coords) as prior:
        pm.Normal("x0", 0.0, 1.0, dims="state")
        pm.Deterministic("P0", pt.eye(model.k_states))
        pm.Normal("ar_params", 0.0, 0.3, dims=model.param_dims["ar_params"])
        pm.Normal("ma_params", 0.0, 0.3, dims=model.param_dims["ma_params"])
        pm.Normal("beta_exog", 0.0, 1.0, dims=model.param_dims["beta_exog"])
        chol, *_ = pm.LKJCholeskyCov("root", n=2, eta=2.0, sd_dist=pm.Exponential.dist(1.0))
        pm.Deterministic("state_cov", chol @ chol.T)
        pm.HalfNormal("sigma_obs", 0.5, dims=model.param_dims["sigma_obs"])
        pm.Data("exogenous_data", rows(1))
        model.build_statespace_graph(series(2))
    return model, prior


def exponential_smoothing():
    model = pmss.BayesianETS(
        endog_names=["y"], order=("A", "Ad", "A"), seasonal_periods=4, measurement_error=True, verbose=False,
        stationary_initialization=True, cov_jitter=0.0,
    )  # fmt: skip
    with pm.Model(coords=model.coords) as prior:
        pm.Normal("initial_level", 0.0, 1.0)
        pm.Normal("initial_trend", 0.0, 0.3)
        pm.Normal("initial_seasonal", 0.0, 0.5, dims="seasonal_lag")
        for name in ("alpha", "beta", "gamma", "phi"):
            pm.Beta(name, 2.0, 3.0)
        pm.HalfNormal("sigma_state", 1.0)
        pm.HalfNormal("sigma_obs", 1.0)
        model.build_statespace_graph(series())
    return model, prior


FAMILIES = [components, sarimax, seasonal_arima, varmax, exponential_smoothing]
FOLDED = {
    "components": {"initial_level_trend", "params_season", "params_waves", "params_cycle", "beta_exog"},
    "sarimax": {"beta_exog", "trend_params"},
    "seasonal_arima": {"x0"},
    "varmax": {"x0", "beta_exog"},
    "exponential_smoothing": {"initial_level", "initial_trend", "initial_seasonal"},
}


class Case(NamedTuple):
    """A family with its parts, draws z of the whole prior, and theta at them."""

    statespace: Any
    pymc_model: Any
    model: Any
    prior: Any
    frame: Any
    theta: dict


@functools.cache
def case(family):
    statespace, pymc_model = family()
    model, prior, frame = ss.from_statespace(statespace, pymc_model, fold=False)
    whole = as_prior(prior)
    z, _ = whole.sample(jax.random.key(3), DRAWS)
    theta = jax.vmap(whole.constrain, in_axes=1, out_axes=-1)(jnp.asarray(z))
    return Case(statespace, pymc_model, model, prior, frame, {n: np.asarray(v) for n, v in theta.items()})


def filtered(model, theta, frame):
    """Log-likelihoods [t, n] and the last belief, at theta [..., n]."""
    block, *_ = to_block(model, 1, "float64", Clock(), None, frame)
    theta = {k: jnp.asarray(v)[..., None, :] for k, v in theta.items()}
    inside = at_each_particle(model.support)(theta)[0]
    params = at_each_particle(model.params)(theta)
    kalman = Kalman(model)
    keys = jax.random.split(jax.random.key(0), 1)

    @jax.jit
    def run(params, block):
        start = kalman.init(keys, params, at_particles(jax.tree.map(lambda a: a[0], block)))

        def step(belief, obs):
            belief, info = kalman.step(keys, params, belief, at_particles(obs))
            return belief, info.log_lik[0]

        return jax.lax.scan(step, start, block)

    belief, log_lik = run(params, block)
    return np.where(inside, log_lik, -np.inf), belief


def its_own(c):
    """pymc-extras' log-likelihood at the same draws."""
    free, model = c.pymc_model.free_RVs, c.pymc_model
    observed = model.observed_RVs[0]
    with model:
        graph = pm.logp(observed, model.rvs_to_values[observed])
    from pytensor.graph.replace import graph_replace

    plain = [v.type(name=v.name) for v in free]
    graph = graph_replace([graph], dict(zip(free, plain, strict=True)), strict=False)
    shapes = [c.theta[v.name].shape[:-1] for v in free]
    program = JaxProgram(plain, graph, shapes)
    run = jax.jit(jax.vmap(lambda *a: jnp.sum(program(*a)[0]), in_axes=-1))
    return np.asarray(run(*(jnp.asarray(c.theta[v.name]) for v in free)))


@pytest.mark.parametrize("family", FAMILIES)
def test_log_likelihood_is_that_of_pymc_extras(family):
    c = case(family)
    ours, _ = filtered(c.model, c.theta, c.frame)
    theirs, total = its_own(c), ours.sum(axis=0)
    inside = np.isfinite(total)
    np.testing.assert_allclose(total[inside], theirs[inside], rtol=1e-8, atol=1e-8)
    assert inside.all() if family is not sarimax else inside.sum() > DRAWS / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_folding_is_exact(family):
    """Bayes' theorem at any f: p(y | theta) = p(y | theta, f) p(f) / p(f | y, theta), every part from another run."""
    c = case(family)
    model, prior, frame = ss.from_statespace(c.statespace, c.pymc_model)
    assert {f.name for f in model.folded} == FOLDED[family.__name__]
    assert not FOLDED[family.__name__] & set(model.names) and not FOLDED[family.__name__] & set(as_prior(prior).names)
    marginal, belief = filtered(model, c.theta, frame)
    given_f, _ = filtered(c.model, c.theta, c.frame)
    f = np.concatenate([c.theta[v.name].reshape(-1, DRAWS) for v in model.folded])
    k = len(f)
    before = sum(
        np.asarray(pm.logp(c.pymc_model[v.name], c.theta[v.name][..., i]).eval(mode="FAST_COMPILE")).sum()
        * np.eye(DRAWS)[i]
        for v in model.folded
        for i in range(DRAWS)
    )
    mean, chol = np.asarray(belief.mean)[:k, 0], np.asarray(belief.chol)[:k, :k, 0]
    marginal, given_f = marginal.sum(axis=0), given_f.sum(axis=0)
    inside = np.isfinite(marginal)
    assert inside.sum() > DRAWS / 2
    for i in np.flatnonzero(inside):
        after = stats.multivariate_normal(mean[:, i], chol[..., i] @ chol[..., i].T).logpdf(f[:, i])
        np.testing.assert_allclose(marginal[i], given_f[i] + before[i] - after, rtol=1e-8, atol=1e-8)


def test_an_explosive_draw_has_no_finite_likelihood():
    """Stationary laws exist in the triangle of an AR(2); outside, a Lyapunov solver returns wrong finite numbers."""
    c = case(sarimax)
    rng = np.random.default_rng(0)
    phi = rng.uniform([-2.5, -1.5], [2.5, 1.5], size=(200, 2)).T
    theta = {n: np.repeat(v[..., :1], 200, axis=-1) for n, v in c.theta.items()} | {"ar_params": phi}
    inside = jax.vmap(c.model.support, in_axes=-1)({n: jnp.asarray(v) for n, v in theta.items()})
    triangle = (phi[1] + np.abs(phi[0]) < 1) & (phi[1] > -1)
    np.testing.assert_array_equal(inside, triangle)
    assert 20 < triangle.sum() < 180


def test_roots_of_singular_covariances_and_what_is_none():
    rng = np.random.default_rng(0)
    B = rng.normal(size=(5, 3))
    L, valid = semidefinite_root(jnp.asarray(B @ B.T))
    assert valid
    np.testing.assert_allclose(L @ L.T, B @ B.T, atol=1e-12)
    assert not semidefinite_root(jnp.asarray([[1.0, 2.0], [2.0, 1.0]]))[1]
    assert not semidefinite_root(jnp.asarray([[0.0, 1.0], [1.0, 0.0]]))[1]
    assert is_stable(jnp.asarray([[0.9, 5.0], [0.0, 1 - 1e-9]])) and not is_stable(
        jnp.asarray([[0.5, 5.0], [0.0, 1.0]])
    )


def test_what_cannot_be_streamed_is_refused_with_the_reason():
    held = (st.TimeSeasonality(season_length=3, duration=2, name="s") + st.MeasurementError("obs")).build(verbose=False)
    with pm.Model(coords=held.coords) as prior:
        pm.Deterministic("P0", pt.eye(held.k_states))
        pm.Normal("params_s", 0.0, 1.0, dims="state_s")
        pm.HalfNormal("sigma_obs", 1.0)
    with pytest.raises(ModelError, match="sigma_s"):
        ss.from_statespace(held, prior)
    with prior:
        pm.HalfNormal("sigma_s", 1.0)
    with pytest.raises(ModelError, match="use_time_varying"):
        ss.from_statespace(held, prior)
    with pytest.raises(ModelError, match="second, got NoneType"):
        ss.from_statespace(held, None)
    with pytest.raises(ModelError, match=r"call .build\(\)"):
        ss.from_statespace(st.LevelTrend(order=1), prior)
    statespace, prior = seasonal_arima()
    with pytest.raises(ModelError, match="sigma_state cannot be folded"):
        ss.from_statespace(statespace, prior, fold=("x0", "sigma_state"))


def small_arima(t=60):
    rng = np.random.default_rng(4)
    rain = rng.normal(size=(t, 1))
    x = np.zeros(t)
    for i in range(1, t):
        x[i] = 0.6 * x[i - 1] + 0.8 * rng.normal()
    y = x[:, None] + 0.7 * rain + 0.4 * rng.normal(size=(t, 1))
    y[20:24] = np.nan
    model = pmss.BayesianSARIMAX(
        order=(1, 0, 0),
        stationary_initialization=True,
        measurement_error=True,
        exog_state_names=["rain"],
        verbose=False,
    )
    with pm.Model(coords=model.coords) as prior:
        pm.Normal("ar_params", 0.0, 0.5, dims="lag_ar")
        pm.Normal("beta_exog", 0.0, 1.0, dims="exogenous")
        pm.HalfNormal("sigma_state", 1.0)
        pm.HalfNormal("sigma_obs", 1.0)
        pm.Data("exogenous_data", rain)
        model.build_statespace_graph(y)
    return model, prior


def small_structural(t=60):
    rng = np.random.default_rng(5)
    rain = rng.normal(size=(t, 1))
    y = np.cumsum(0.3 * rng.normal(size=t)) + np.tile([1.0, -0.5, -0.5], t // 3) + 0.5 * rng.normal(size=t)
    y += 0.6 * rain[:, 0]
    y[30:33] = np.nan
    sum_of = (
        st.LevelTrend(order=1, innovations_order=1)
        + st.TimeSeasonality(season_length=3, innovations=False, name="season")
        + st.Regression(state_names=["rain"], name="exog")
        + st.MeasurementError("obs")
    )
    model = sum_of.build(name="y", verbose=False)
    with pm.Model(coords=model.coords) as prior:
        pm.Deterministic("P0", 0.1 * pt.eye(4), dims=("state", "state_aux"))
        pm.Normal("initial_level_trend", 0.0, 2.0, dims="state_level_trend")
        pm.HalfNormal("sigma_level_trend", 0.5, dims="shock_level_trend")
        pm.Normal("params_season", 0.0, 1.0, dims="state_season")
        pm.Normal("beta_exog", 0.0, 1.0, dims="state_exog")
        pm.HalfNormal("sigma_obs", 1.0)
        pm.Data("data_exog", rain)
        model.build_statespace_graph(y[:, None])
    return model, prior


def small_varmax(t=60):
    rng = np.random.default_rng(6)
    A, x = np.array([[0.5, 0.3], [-0.2, 0.4]]), np.zeros((t, 2))
    for i in range(1, t):
        x[i] = A @ x[i - 1] + [0.8, 0.5] * rng.normal(size=2)
    x[20:22, 0] = np.nan
    x[40] = np.nan
    model = pmss.BayesianVARMAX(
        endog_names=["north", "south"], order=(1, 0), stationary_initialization=False, verbose=False
    )
    with pm.Model(coords=model.coords) as prior:
        pm.Normal("x0", 0.0, 1.0, dims="state")
        pm.Deterministic("P0", pt.eye(model.k_states))
        pm.Normal("ar_params", 0.0, 0.5, dims=model.param_dims["ar_params"])
        sd = pm.HalfNormal("sd", 1.0, shape=2)
        pm.Deterministic("state_cov", pt.diag(sd**2))
        model.build_statespace_graph(x)
    return model, prior


def small_ets(t=60):
    rng = np.random.default_rng(7)
    y, level = np.zeros((t, 1)), 1.0
    for i in range(t):
        e = 0.7 * rng.normal()
        y[i], level = level + e, level + 0.1 + 0.4 * e
    y[15:18] = np.nan
    model = pmss.BayesianETS(endog_names=["y"], order=("A", "A", "N"), verbose=False, stationary_initialization=False)
    with pm.Model(coords=model.coords) as prior:
        pm.Normal("initial_level", 0.0, 2.0)
        pm.Normal("initial_trend", 0.0, 0.3)
        pm.Deterministic("P0", 0.1 * pt.eye(model.k_states))
        pm.Beta("alpha", 2.0, 2.0)
        pm.Beta("beta", 2.0, 4.0)
        pm.HalfNormal("sigma_state", 1.0)
        model.build_statespace_graph(y)
    return model, prior


def nuts(model, chains=4, draws=1000):
    """Draws by name [draw, ...] of the batch posterior: pymc-extras' own density, sampled by blackjax."""
    import blackjax

    with model:
        graph = model.logp()
    free, values = model.free_RVs, [model.rvs_to_values[v] for v in model.free_RVs]
    start = model.initial_point()
    shapes = [np.shape(start[v.name]) for v in values]
    density = JaxProgram(values, [graph], shapes)
    constrain = JaxProgram(values, model.replace_rvs_by_values(list(free)), shapes)
    cuts = np.cumsum([int(np.prod(s)) for s in shapes])[:-1]

    def split(z):
        return [p.reshape(s) for p, s in zip(jnp.split(z, cuts), shapes, strict=True)]

    def log_density(z):
        value = density(*split(z))[0]
        return jnp.where(jnp.isfinite(value), value, -jnp.inf)

    def chain(key):
        warm, go = jax.random.split(key)
        z0 = jnp.concatenate([jnp.ravel(jnp.asarray(start[v.name], float)) for v in values])
        (state, tuned), _ = blackjax.window_adaptation(blackjax.nuts, log_density).run(warm, z0, num_steps=500)
        kernel = blackjax.nuts(log_density, **tuned)

        def one(state, key):
            state, _ = kernel.step(key, state)
            return state, state.position

        return jax.lax.scan(one, state, jax.random.split(go, draws))[1]

    z = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(1), chains))
    out = jax.vmap(jax.vmap(lambda z: constrain(*split(z))))(z)
    return {v.name: np.asarray(d) for v, d in zip(free, out, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "fold"),
    [(small_structural, True), (small_arima, True), (small_varmax, True), (small_ets, True), (small_arima, False)],
)
def test_stream_ends_at_the_batch_posterior(family, fold):
    model, prior = family()
    engine = ss.Engine.from_statespace(model, prior, fold=fold, n_particles=1000, runs=3, seed=2)
    assert bool(engine.model.folded) is fold
    batch, table = nuts(prior), engine.summary()
    posterior = engine.posterior(1000)
    for name, draws in batch.items():
        ours = posterior[name].values.reshape(3, 1000, -1)
        theirs = draws.reshape(len(draws), draws.shape[1], -1)
        for j in range(theirs.shape[-1]):
            label = next(row for row in table.index if row == name or row.startswith(f"{name}[")) if j == 0 else None
            sd = theirs[..., j].std()
            by_chain, by_run = theirs[..., j].mean(axis=1), ours[..., j].mean(axis=1)
            error = np.hypot(by_chain.std(ddof=1) / 2, by_run.std(ddof=1) / 3**0.5) + 0.02 * sd
            assert abs(by_run.mean() - by_chain.mean()) < 4 * error, name
            assert abs(ours[..., j].std() / sd - 1) < 0.15, name
            if label is not None:
                assert abs(table["mean"][label] - by_chain.mean()) < 4 * error, name
                assert abs(table["sd"][label] / sd - 1) < 0.15, name


@pytest.mark.slow
@pytest.mark.parametrize("family", [small_arima, small_structural])
def test_folding_leaves_the_evidence_as_it_is(family):
    model, prior = family()
    engines = [ss.Engine.from_statespace(model, prior, fold=f, n_particles=1000, runs=4, seed=3) for f in (True, False)]
    a, b = (e.log_evidence for e in engines)
    assert abs(a - b) < 4 * np.hypot(*(e.log_evidence_sd for e in engines)) + 0.02
