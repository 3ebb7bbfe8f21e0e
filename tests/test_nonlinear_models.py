"""Ready-made nonlinear models: tracking and theta-logistic growth against quadrature; all of them in an engine."""

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytest
from scipy import stats

import smcssm as ss
from grids import around, grid_filter, normal_density
from many_runs import assert_mean, rows, run, runs
from smcssm.core import Observation
from smcssm.errors import ModelError
from smcssm.filters import Particle
from smcssm.models.tracking import wrapped

pytestmark = pytest.mark.usefixtures("x64")

# --- theta-logistic growth -------------------------------------------------------------------------------------------

GROWTH = {"growth": 0.8, "capacity": 20.0, "shape": 1.5, "sigma_process": 0.3, "sigma_obs": 0.2}
METHODS = ["guided", *(pytest.param(method, marks=pytest.mark.slow) for method in ("bootstrap", "auxiliary"))]


@pytest.mark.parametrize("method", METHODS)
def test_theta_logistic_against_a_grid(method):
    r, capacity, shape, q, sd = GROWTH.values()
    y = np.log(np.r_[5, 8, 14, 22, np.nan, 18, 25, 9, 12, 19.0])
    x = around(2.0, 0.5)
    expected = x + r * (1 - (np.exp(x) / capacity) ** shape)
    kernels = [normal_density(x[None], expected[:, None], q)] * len(y)
    log_g = np.nan_to_num(stats.norm.logpdf(y[:, None], x, sd))
    log_lik, predicted, filtered, _ = grid_filter(x, normal_density(x, 1.5, 0.5), kernels, log_g)
    filter = Particle(ss.models.ThetaLogistic(1.5, 0.5), n_particles=64, method=method)
    info, mean, *_ = runs(filter, GROWTH, y)
    ratio = np.exp(np.cumsum(np.asarray(info.log_lik)[:, 0], axis=0) - np.cumsum(log_lik)[:, None])
    assert_mean(ratio.T, 1.0, 0.03)
    assert_mean((ratio * np.asarray(mean)[:, 0, 0]).T, filtered @ x)
    before = np.vstack([np.ones(ratio.shape[1]), ratio[:-1]])
    m, s, pit = (np.asarray(a)[:, 0, 0] for a in (info.mean, info.sd, info.pit))
    assert_mean((before * (m**2 + s**2)).T, predicted @ (x**2 + sd**2))
    seen = ~np.isnan(y)
    cdf = np.array([p @ stats.norm.cdf(v, x, sd) for p, v in zip(predicted, y, strict=True)])
    assert_mean((before * pit)[seen].T, cdf[seen])


# --- tracking --------------------------------------------------------------------------------------------------------

MEAN, SD = (3.0, 0.5, -0.2, 0.3), (0.5, 0.0, 0.4, 0.0)  # the velocity is known
SENSORS = {"origin": (0.0, 0.0), "east": (6.0, 0.5)}
MODELS = {
    "bearings": ss.models.BearingsOnly(SENSORS, initial_mean=MEAN, initial_sd=SD),
    "radar": ss.models.RangeBearing(SENSORS, initial_mean=MEAN, initial_sd=SD),
}
SIGMAS = {"sigma_acceleration": 0.0, "sigma_bearing": 0.3, "sigma_range": 0.4}


def _wrapped_normal(angle, sd):
    return sum(stats.norm.pdf(angle + 2 * np.pi * k, 0, sd) for k in range(-6, 7))


def _likelihood(model, y, dt):
    """Over the place at the first row, by a grid: without acceleration the rest is known."""
    a, b = (np.linspace(m - 8 * s, m + 8 * s, 401) for m, s in ((MEAN[0], SD[0]), (MEAN[2], SD[2])))
    w = normal_density(a[:, None], MEAN[0], SD[0]) * normal_density(b[None], MEAN[2], SD[2])
    w = w / w.sum()
    for t, row in zip(np.cumsum(dt), y, strict=True):
        i = 0
        for place in SENSORS.values():
            east, north = a[:, None] + MEAN[1] * t - place[0], b[None] + MEAN[3] * t - place[1]
            for measure in model.measures:
                if not np.isnan(row[i]) and measure == "bearing":
                    w = w * _wrapped_normal(row[i] - np.arctan2(north, east), SIGMAS["sigma_bearing"])
                elif not np.isnan(row[i]):
                    w = w * stats.norm.pdf(row[i], np.hypot(east, north), SIGMAS["sigma_range"])
                i += 1
    return np.log(w.sum())


@pytest.mark.parametrize("case", MODELS)
def test_tracking_against_quadrature(case):
    """Any dt, missing channels, and a sensor for which the bearing is near pi and the noise crosses the cut."""
    model, dt = MODELS[case], np.array([0.0, 1.0, 0.5, 0.0])
    bearings = np.array([[-0.1, 3.1], [0.05, -3.0 + 2 * np.pi], [np.nan, 2.9], [0.2, np.nan]])
    ranges = np.array([[3.0, 3.3], [3.2, np.nan], [3.9, 2.0], [np.nan, np.nan]])
    y = bearings if case == "bearings" else np.stack([ranges, bearings], axis=-1).reshape(4, 4)
    theta = {name: SIGMAS[name] for name in model.names}
    info, *_ = runs(Particle(model, n_particles=128), theta, y, dt=dt)
    estimate = np.asarray(info.log_lik)[:, 0].sum(axis=0)
    assert_mean(np.exp(estimate - _likelihood(model, y, dt)), 1.0, 0.03)
    pit = np.asarray(info.pit)[..., 0, 0]
    assert (np.isnan(pit) == np.isnan(y)).all() and np.nanmin(pit) >= 0 and np.nanmax(pit) <= 1


def test_targets_move_like_those_of_constant_velocity():
    model = ss.models.RangeBearing(SENSORS, initial_mean=MEAN, initial_sd=(0.5, 0.2, 0.4, 0.1))
    n, q, dt = 20_000, 0.7, 1.5
    theta = {name: jnp.full((1, n), q) for name in model.names}
    filter, obs = Particle(model, n_particles=2), jax.tree.map(lambda leaf: leaf[0], rows(np.zeros((1, 4)), dt=[dt]))
    key = jax.random.split(jax.random.key(0), 2)
    state, *_ = filter.simulate(key[:1], theta, filter.init(key[1:], theta, obs).x[:, 0], obs)
    F = np.array([[1.0, dt], [0.0, 1.0]])
    Q = q**2 * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
    for axis, sds in ((slice(0, 2), (0.5, 0.2)), (slice(2, 4), (0.4, 0.1))):
        x = np.asarray(state[axis, 0]).T
        centred = x - F @ np.array(MEAN[axis])
        assert_mean(centred, 0.0)
        assert_mean(centred[:, :, None] * centred[:, None], F @ np.diag(sds) ** 2 @ F.T + Q)


def test_an_observer_that_moves_is_an_input():
    model = ss.models.BearingsOnly(initial_mean=MEAN, initial_sd=SD)
    assert model.input_names == ("observer_x", "observer_y") and model.channel_names == ("bearing",)
    theta = {"sigma_acceleration": jnp.zeros((1, 500)), "sigma_bearing": jnp.full((1, 500), 0.3)}
    data, place = rows([2.9]), jnp.asarray([6.0, 0.5])[None, :, None, None]
    data = Observation(data.y, data.mask, data.dt, data.index, place)
    key = jax.random.split(jax.random.key(0), 1)
    info, *_ = run(Particle(model, n_particles=128), theta, data, key)
    truth = _likelihood(MODELS["bearings"], np.array([[np.nan, 2.9]]), [0.0])
    assert_mean(np.exp(np.asarray(info.log_lik)[0, 0] - truth), 1.0, 0.1)


def test_bearings_are_drawn_between_minus_pi_and_pi():
    model = ss.models.BearingsOnly({"a": (0, 0)})
    x = jnp.broadcast_to(jnp.array([-1.0, 0.0, 0.0, 0.0])[:, None, None, None], (4, 1, 1, 4000))
    theta = {"sigma_bearing": jnp.full((1, 1, 1), 0.5)}
    obs = jax.tree.map(lambda leaf: leaf[0][..., None, :, :], rows([0.0]))
    y = np.asarray(model.sample_observation(jax.random.split(jax.random.key(0), 1), theta, x, obs)).ravel()
    error = np.asarray(wrapped(jnp.asarray(y - np.pi)))
    assert np.abs(y).max() <= np.pi and stats.kstest(error, stats.norm(0, 0.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("sensors", [{}, [(0, 0)], {"a": (0, 0, 0)}, {"a": "x"}])
def test_sensors_have_names_and_places(sensors):
    with pytest.raises(ModelError, match="sensors"):
        ss.models.RangeBearing(sensors)


@pytest.mark.parametrize(
    ("signal", "message"),
    [(ss.models.LocalLevel(), "counts have no Noise"), ("AR", "expected a component or a sum of them")],
)
def test_signals_of_counts_are_components(signal, message):
    with pytest.raises(ModelError, match=message):
        ss.models.PoissonCounts(signal)


# --- engines ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # an engine more to compile; what it does is held to the posterior in test_smc2
def test_an_engine_with_particles_streams_and_moves():
    """The filter is given without a model; the default one is a particle filter too."""
    rng, h = np.random.default_rng(1), -1.0
    y = np.empty(60)
    for t in range(60):
        h = -1 + 0.9 * (h + 1) + 0.4 * rng.normal()
        y[t] = np.exp(h / 2) * rng.normal()
    y[20:23] = np.nan
    with pm.Model() as prior:
        pm.Normal("mu", -1, 1)
        pm.Uniform("phi", 0, 1)
        pm.HalfNormal("sigma_volatility", 0.5)
    model = ss.models.StochasticVolatility()
    engine = ss.Engine(model, prior, filter=ss.filters.Particle(n_particles=64), n_particles=128)
    info = engine.update(y)
    assert info.moved.sum() >= 2 and (info.acceptance[info.moved] > 0.1).all()
    assert np.isfinite(engine.log_evidence) and np.isfinite(engine.summary()).all(axis=None)
    assert -4 < engine.state()["mean"].item() < 2
    default = ss.Engine(model, n_particles=16)._runtime.smc.filter
    assert isinstance(default, Particle) and default.model == model


@pytest.mark.parametrize(
    "model",
    [
        ss.models.StochasticVolatility(leverage=True),
        ss.models.PoissonCounts(),
        ss.models.PoissonCounts(ss.models.Level(), mean=False),
        ss.models.ThetaLogistic(),
        ss.models.RangeBearing({"a": (0, 0)}),
    ],
)
def test_default_priors_name_what_the_model_reads(model):
    prior = model.default_prior(2.0)
    assert prior.names == model.names and prior.shapes == model.shapes
    z, _ = prior.sample(jax.random.key(0), 100)
    theta = jax.vmap(prior.constrain, -1)(jnp.asarray(z))
    assert jax.vmap(model.support)(theta).all()
