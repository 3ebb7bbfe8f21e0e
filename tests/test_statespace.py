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
    block, _, _ = to_block(model, 1, "float64", Clock(), None, frame)
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
    return np.asarray(run(*(c.theta[v.name] for v in free)))


@pytest.mark.parametrize("family", FAMILIES)
def test_log_likelihood_is_that_of_pymc_extras(family):
    c = case(family)
    ours, _ = filtered(c.model, c.theta, c.frame)
    theirs, total = its_own(c), ours.sum(axis=0)
    inside = np.isfinite(total)
    np.testing.assert_allclose(total[inside], theirs[inside], rtol=1e-8, atol=1e-8)
    assert inside.all() if family is not sarimax else inside.sum() > DRAWS / 2
