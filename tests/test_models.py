"""Every model against statsmodels where it has it, else against a NumPy Kalman filter with its matrices written out."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from statsmodels.tsa.statespace.initialization import Initialization
from statsmodels.tsa.statespace.sarimax import SARIMAX
from statsmodels.tsa.statespace.structural import UnobservedComponents

from filtering import BLANK, N, S, block, compare, numpy_filter, run, sds, spread_theta
from smcssm import models as m
from smcssm.core import at_each_particle
from smcssm.errors import ModelError
from smcssm.models.stationary import UniformStationary

pytestmark = pytest.mark.usefixtures("x64")

T = 40
RNG = np.random.default_rng(3)
Y = np.cumsum(RNG.normal(size=T)) + RNG.normal(size=T)
INPUTS = RNG.normal(size=(T, 3))


# ---------------------------------------------------------------- statsmodels

SUMS = {
    "level": (m.Level(1, 2), {"level": "local level"}, [1.0], [2.0]),
    "trend": (
        m.Trend(initial_mean=(1, -0.2), initial_sd=(2, 0.5)),
        {"level": "local linear trend"},
        [1.0, -0.2],
        [2.0, 0.5],
    ),
    "dummy": (
        m.Level(1, 2) + m.Seasonal(4, initial_mean=(0.1, 0.2, 0.3), initial_sd=(1, 2, 3)),
        {"level": "local level", "seasonal": 4},
        [1.0, 0.1, 0.2, 0.3],
        [2.0, 1.0, 2.0, 3.0],
    ),
    "fixed pattern": (
        m.Level(1, 2) + m.Seasonal(3, drifting=False),
        {"level": "local level", "seasonal": 3, "stochastic_seasonal": False},
        [1.0, 0, 0],
        [2.0, 1, 1],
    ),
    "fourier": (
        m.Level(1, 2) + m.Seasonal(7, "fourier", 2, initial_mean=(0.1, 0.2, 0.3, 0.4), initial_sd=(1, 2, 3, 4)),
        {"level": "local level", "freq_seasonal": [{"period": 7, "harmonics": 2}]},
        [1.0, 0.1, 0.2, 0.3, 0.4],
        [2.0, 1, 2, 3, 4],
    ),
    "fourier, all harmonics": (  # statsmodels keeps the last sine, which is never seen
        m.Level(1, 2) + m.Seasonal(4, "fourier", initial_sd=(1, 2, 3)),
        {"level": "local level", "freq_seasonal": [{"period": 4}]},
        [1.0, 0, 0, 0, 0],
        [2.0, 1, 2, 3, 1],
    ),
    "regression": (
        m.Level(1, 2) + m.Regression(2, initial_mean=(0.5, -0.5), initial_sd=(1, 2)),
        {"level": "local level", "exog": INPUTS[:, :2], "mle_regression": False},
        [1.0, 0.5, -0.5],
        [2.0, 1, 2],
    ),
}
RENAME = {"sigma2.irregular": "sigma_obs", "sigma2.level": "sigma_level", "sigma2.trend": "sigma_trend"}


def statsmodels_parameter(name, theta):
    name = RENAME.get(name, "sigma_seasonal")
    return theta[name] ** 2


@pytest.mark.parametrize("case", SUMS)
def test_sum_equals_statsmodels(case):
    parts, options, mean, sd = SUMS[case]
    model = parts + m.Noise()
    theta = sds(*model.names)

    def oracle(theta, y):
        uc = UnobservedComponents(y[:, 0], **options)
        uc.update([statsmodels_parameter(name, theta) for name in uc.param_names])
        uc.ssm.initialize_known(np.array(mean, float), np.diag(np.square(sd)).astype(float))
        uc.ssm.loglikelihood_burn, uc.ssm.tolerance = 0, 0
        return uc.ssm.loglike()

    inputs = INPUTS[:, :2] if model.input_names else None
    compare(model, theta, Y, oracle, inputs=inputs)


PHI = {
    1: np.array([0.7, -0.4, 0.999]),
    2: np.array([[0.5, 0.3], [1.2, -0.5], [-0.3, 0.4]]).T,
    3: np.array([[0.5, 0.3, -0.2], [0.3, -0.4, 0.5], [1.0, -0.5, 0.3]]).T,
}


@pytest.mark.parametrize("order", PHI)
@pytest.mark.parametrize("noisy", [False, True])
def test_ar_equals_sarimax(order, noisy):
    model = m.AR(order) + m.Noise() if noisy else m.Structural((m.AR(order),))
    theta = {"phi": PHI[order]} | sds(*model.names[1:])

    def oracle(theta, y):
        arima = SARIMAX(y[:, 0], order=(order, 0, 0), measurement_error=noisy)
        noise = [theta["sigma_obs"] ** 2] if noisy else []
        arima.ssm.tolerance = 0
        return arima.loglike([*np.atleast_1d(theta["phi"]), *noise, theta["sigma_ar"] ** 2])

    compare(model, theta, Y, oracle)


def test_level_plus_ar_equals_statsmodels():
    model = m.AR(2, name="fast") + m.Noise() + m.Level(1, 2)
    theta = {"fast_phi": PHI[2]} | sds("fast_sigma_ar", "sigma_level", "sigma_obs")

    def oracle(theta, y):
        uc = UnobservedComponents(y[:, 0], level="local level", autoregressive=2)
        assert uc.param_names == ["sigma2.irregular", "sigma2.level", "sigma2.ar", "ar.L1", "ar.L2"]
        scales = [theta[k] ** 2 for k in ("sigma_obs", "sigma_level", "fast_sigma_ar")]
        uc.update([*scales, *theta["fast_phi"]])
        start = Initialization(3)
        start.set((0, 1), "known", constant=[1.0], stationary_cov=[[4.0]])
        start.set((1, 3), "stationary")
        uc.ssm.initialize(start)
        uc.ssm.loglikelihood_burn, uc.ssm.tolerance = 0, 0
        return uc.ssm.loglike()

    compare(model, theta, Y, oracle)


# ---------------------------------------------------------------- NumPy oracles


def test_damped_trend():
    model = m.LocalLinearTrend(damped=True, initial_mean=(1, 0.5), initial_sd=(2, 0.3))
    theta = sds("sigma_level", "sigma_trend", "sigma_obs") | {"phi_trend": np.array([0.9, 0.3, 0.99])}

    def oracle(th, y):
        system = (
            [[1, 1], [0, th["phi_trend"]]],
            [0, 0],
            np.diag([th["sigma_level"] ** 2, th["sigma_trend"] ** 2]),
            [[1, 0]],
            [0],
            [[th["sigma_obs"] ** 2]],
        )
        return numpy_filter(y, [1, 0.5], np.diag([4, 0.09]), lambda t: system)

    compare(model, theta, Y, oracle)


def test_regressions_take_their_inputs_in_order_and_drift_with_the_root_of_time():
    model = (
        m.Regression(names=("b", "c"), drifting=True, initial_sd=(1, 2), name="slow")
        + m.Noise()
        + m.Regression(1, initial_mean=0.7, initial_sd=0)
    )
    assert model.input_names == ("b", "c", "input0") and model.continuous_time
    assert model.state_names == ("slow_beta_b", "slow_beta_c", "beta0")
    assert dict(zip(model.names, model.shapes, strict=True)) == {"slow_sigma_beta": (2,), "sigma_obs": ()}
    theta = sds("sigma_obs") | {"slow_sigma_beta": np.array([[0.3, 0.1, 1.0], [0.2, 0.5, 0.0]])}
    dt = np.r_[0.0, RNG.uniform(0.1, 3, T - 1)]

    def oracle(th, y):
        def system(t):
            Q = np.diag([*th["slow_sigma_beta"] ** 2 * dt[t], 0])
            return np.eye(3), np.zeros(3), Q, INPUTS[t][None], [0], [[th["sigma_obs"] ** 2]]

        return numpy_filter(y, [0, 0, 0.7], np.diag([1, 4, 0]), system)

    compare(model, theta, Y, oracle, dt=dt, inputs=INPUTS)


@pytest.mark.parametrize("given", [False, True])
def test_constant_velocity_with_two_sensors_irregular_and_missing(given):
    model = m.ConstantVelocity(("gps", "radar"), initial_mean=(1, 0, -1, 0.5), initial_sd=(3, 1, 2, 0.5))
    assert model.channel_names == ("gps_x", "gps_y", "radar_x", "radar_y") and model.shapes == ((), (2,))
    y = np.cumsum(RNG.normal(size=(T, 4)), axis=0)
    y[RNG.uniform(size=y.shape) < 0.3] = np.nan
    dt = np.r_[0.0, 10.0 ** RNG.uniform(-4, 1, T - 1)]
    dt[5] = 0.0
    own = RNG.uniform(0.1, 1, (T, 4)) if given else np.zeros((T, 4))
    theta = sds("sigma_acceleration") | {"sigma_obs": np.array([[0.3, 0.1, 1.0], [0.2, 0.5, 0.4]])}

    def oracle(th, y):
        def system(t):
            h, q = dt[t], th["sigma_acceleration"] ** 2
            F = np.kron(np.eye(2), [[1, h], [0, 1]])
            Q = np.kron(np.eye(2), q * np.array([[h**3 / 3, h**2 / 2], [h**2 / 2, h]]))
            H = np.array([[1, 0, 0, 0], [0, 0, 1, 0]] * 2)
            return F, np.zeros(4), Q, H, np.zeros(4), np.diag(np.repeat(th["sigma_obs"] ** 2, 2) + own[t] ** 2)

        return numpy_filter(y, [1, 0, -1, 0.5], np.diag([9, 1, 4, 0.25]), system)

    compare(model, theta, y, oracle, dt=dt, noise_sd=own if given else None)


@pytest.mark.parametrize("dt", [1e-12, 1e-4, 1.0, 1e6])
def test_constant_velocity_noise_is_exact_at_any_step(dt):
    _, blocks = block(np.zeros((1, 2)), dt=[dt])
    obs = jax.tree.map(lambda leaf: leaf[0], blocks)
    chol = m.ConstantVelocity().matrices(spread_theta(sds("sigma_acceleration", "sigma_obs")), obs).chol_Q
    L = np.array([[float(jnp.asarray(chol[i][j]).ravel()[0]) for j in range(2)] for i in range(2)])
    np.testing.assert_allclose(L @ L.T, 0.25 * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]]), rtol=1e-13)
    assert m.ConstantVelocity().shapes == ((), ())


def test_given_noise_adds_in_variance_or_stands_alone():
    given = RNG.uniform(0.2, 2, (T, 1))

    def oracle(th, y):
        def system(t):
            R = [[th.get("sigma_obs", 0.0) ** 2 + given[t, 0] ** 2]]
            return [[1]], [0], [[th["sigma_level"] ** 2]], [[1]], [0], R

        return numpy_filter(y, [0], [[1]], system)

    compare(m.LocalLevel(), sds("sigma_level", "sigma_obs"), Y, oracle, noise_sd=given)
    compare(m.Structural((m.Level(),)), sds("sigma_level"), Y, oracle, noise_sd=given)


# ---------------------------------------------------------------- composition and time


def test_order_and_association_of_a_sum_do_not_matter():
    level, ar, regression, noise = m.Level(1, 2), m.AR(1), m.Regression(2, initial_sd=(1, 3)), m.Noise()
    sums = [level + ar + regression + noise, (noise + regression) + (ar + level), ar + (noise + level) + regression]
    theta = sds("sigma_level", "sigma_ar", "sigma_obs") | {"phi": PHI[1]}
    _, blocks = block(Y, inputs=INPUTS[:, :2])
    got = [np.asarray(run(model, spread_theta(theta), blocks)[0]) for model in sums]
    np.testing.assert_allclose(got[1], got[0], rtol=1e-12)
    np.testing.assert_allclose(got[2], got[0], rtol=1e-12)
    assert sums[0].input_names == ("input0", "input1") and not sums[0].continuous_time
    assert set(sums[0].names) == set(theta) == set(sums[1].names)


@pytest.mark.parametrize(
    "model", [m.LocalLevel(), m.Regression(1, drifting=True) + m.Level() + m.Noise(), m.ConstantVelocity()]
)
def test_two_half_steps_are_one_step(model):
    assert model.continuous_time
    ny, n = len(model.channel_names), 8
    y = RNG.normal(size=(n, ny))
    gaps = np.full((2 * n - 1, ny), np.nan)
    gaps[::2] = y
    inputs = np.ones((2 * n - 1, 1)) if model.input_names else None
    theta = spread_theta(sds(*model.names))
    whole = run(model, theta, block(y, inputs=None if inputs is None else inputs[:n])[1])
    halves = run(model, theta, block(gaps, dt=np.r_[0.0, np.full(2 * n - 2, 0.5)], inputs=inputs)[1])
    np.testing.assert_allclose(halves[0], whole[0], rtol=1e-10)
    np.testing.assert_allclose(halves[1].mean, whole[1].mean, rtol=1e-10)


@pytest.mark.parametrize("model", [m.LocalLinearTrend(), m.Seasonal(3) + m.Noise(), m.AR(1) + m.Level() + m.Noise()])
def test_what_is_defined_step_by_step_says_so(model):
    assert not model.continuous_time


def test_models_compare_and_hash_by_value():
    def build(mean):
        return m.Level(mean, 2) + m.Seasonal(3, initial_mean=np.zeros(2)) + m.Regression(1) + m.Noise()

    assert build(1) == build(np.float32(1.0)) and hash(build(1)) == hash(build(1.0))
    assert build(1) != build(2)
    assert m.ConstantVelocity(["a"]) == m.ConstantVelocity(("a",)) != m.ConstantVelocity(("b",))
    assert m.LinearGaussian(local_level, ["sigma_level", "sigma_obs"]) == USER
    assert hash(m.LinearGaussian(local_level, ["sigma_level", "sigma_obs"])) == hash(USER)


# ---------------------------------------------------------------- stationarity


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_initial_law_of_an_autoregression_is_stationary(order):
    model = m.Structural((m.AR(order),))
    law = UniformStationary(order)
    z = 2.5 * law.sample(jax.random.key(order), N)  # stretched towards the edge
    phi = jax.vmap(law.constrain, in_axes=-1, out_axes=-1)(z)
    theta = spread_theta({"phi": phi, "sigma_ar": jnp.array([0.0, 1.0, 2.0])})
    _, chol = model.initial(at_each_particle(model.params)(theta), BLANK)
    for s in range(S):
        for i in range(N):
            L = np.array([[np.broadcast_to(e, (S, N))[s, i] for e in row] for row in chol])
            F, sigma = np.eye(order, k=-1), float(theta["sigma_ar"][s, i])
            F[0] = theta["phi"][..., s, i]
            Q = np.zeros((order, order))
            Q[0, 0] = sigma**2
            P = scipy.linalg.solve_discrete_lyapunov(F, Q)
            assert np.array_equal(L, np.tril(L))
            np.testing.assert_allclose(L @ L.T, P, rtol=1e-7, atol=1e-7 * P.max())
            np.testing.assert_allclose(L @ L.T, F @ L @ L.T @ F.T + Q, rtol=1e-9, atol=1e-9 * P.max())


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_support_is_where_all_roots_are_inside_the_circle(order):
    model = m.AR(order) + m.Noise()
    phi = RNG.normal(size=(200, order)) * 0.8
    want = [np.abs(np.roots(np.r_[1, -row])).max() < 1 for row in phi]
    values = phi[:, 0] if order == 1 else phi
    ones = jnp.ones(200)
    got = jax.vmap(model.support)({"phi": jnp.asarray(values), "sigma_ar": ones, "sigma_obs": ones})
    assert got.tolist() == want and 0 < sum(want) < 200


def test_edge_of_stationarity_is_outside_and_gradients_stay_finite():
    model = m.AR(2) + m.Noise()
    for phi in ([1.0, 0.0], [0.5, 0.5], [0.0, -1.0], [3.0, 2.0]):
        theta = {"phi": jnp.array(phi), "sigma_ar": jnp.array(1.0), "sigma_obs": jnp.array(1.0)}
        assert not model.support(theta)
        slope = jax.grad(lambda p, th=theta: model.initial(th | {"phi": p}, BLANK)[1][1][0].sum())(theta["phi"])
        assert np.isfinite(slope).all()


@pytest.mark.parametrize(
    "model",
    [
        m.LocalLevel(),
        m.LocalLinearTrend(damped=True),
        m.Level(name="slow")
        + m.AR(1)
        + m.AR(2, name="fast")
        + m.Seasonal(4)
        + m.Regression(2, drifting=True)
        + m.Noise(),
        m.ConstantVelocity(),
        m.ConstantVelocity(sensors=("north", "south")),
        m.IntegratedWiener() + m.OrnsteinUhlenbeck() + m.Cycle(),
        m.ContinuousTrend() + m.OrnsteinUhlenbeck(name="fast"),
    ],
)
def test_no_standard_deviation_is_negative(model):
    prior = model.default_prior(1.0)
    inside = prior.constrain(jnp.zeros(prior.size))
    assert model.support(inside)
    sigmas = [name for name in model.names if "sigma_" in name]
    assert sigmas
    for name in sigmas:
        assert model.support(inside | {name: jnp.zeros_like(inside[name])})
        flat = inside[name].reshape(-1)
        for i in range(flat.size):
            assert not model.support(inside | {name: flat.at[i].set(-0.1).reshape(inside[name].shape)})


# ---------------------------------------------------------------- your own function


def local_level(theta):
    return dict(
        m0=[1.0],
        chol_P0=[[2.0]],
        F=[[1.0]],
        chol_Q=[[theta["sigma_level"]]],
        H=[[1.0]],
        chol_R=[[theta["sigma_obs"]]],
    )


def local_level_in_time(theta, step):
    noise = theta["sigma_obs"] if step.noise_sd is None else jnp.hypot(theta["sigma_obs"], step.noise_sd[0])
    return local_level(theta) | dict(chol_Q=[[theta["sigma_level"] * jnp.sqrt(step.dt)]], chol_R=[[noise]])


NAMES = ("sigma_level", "sigma_obs")
USER = m.LinearGaussian(local_level, NAMES)


@pytest.mark.parametrize("given", [False, True])
def test_user_function_equals_ready_made_local_level(given):
    theta = spread_theta(sds(*NAMES))
    dt = np.r_[0.0, RNG.uniform(0.1, 2, T - 1)]
    _, regular = block(Y)
    _, irregular = block(Y, dt=dt, noise_sd=RNG.uniform(0.1, 1, (T, 1)) if given else None)
    timed = m.LinearGaussian(local_level_in_time, NAMES)
    assert timed.continuous_time and not USER.continuous_time
    ready = m.LocalLevel(1, 2)
    np.testing.assert_allclose(run(USER, theta, regular)[0], run(ready, theta, regular)[0], rtol=1e-12)
    np.testing.assert_allclose(run(timed, theta, irregular)[0], run(ready, theta, irregular)[0], rtol=1e-12)


def test_a_transition_without_derivative_at_the_first_row_does_not_count_there():
    """A square root of what is 0 at dt = 0, as exact discretisations have it."""

    def decaying(theta, step):
        kept = jnp.exp(-theta["rate"] * step.dt)
        return local_level(theta) | dict(F=[[kept]], chol_Q=[[theta["sigma_level"] * jnp.sqrt(1 - kept**2)]])

    model, rows = m.LinearGaussian(decaying, (*NAMES, "rate")), block(Y[:3], dt=[0.0, 0.7, 0.0])[1]
    ready = m.OrnsteinUhlenbeck(initial_sd=2.0, initial_mean=1.0) + m.Noise()
    theta = spread_theta(sds(*NAMES) | {"rate": np.array([0.3, 1.0, 2.0])})
    got = jax.grad(lambda th: jnp.sum(run(model, th, rows)[0]))(theta)

    def same(th):
        return {"sigma_ou": th["sigma_level"], "timescale_ou": 1 / th["rate"], "sigma_obs": th["sigma_obs"]}

    want = jax.grad(lambda th: jnp.sum(run(ready, same(th), rows)[0]))(theta)
    for name, gradient in got.items():
        np.testing.assert_allclose(gradient, want[name], rtol=1e-9)


def test_user_function_with_inputs_vectors_and_full_matrices():
    def function(theta, step):
        phi = theta["phi"]
        F = jnp.stack([phi, jnp.array([1.0, 0.0])])
        R = jnp.array([[1.0, 0.3], [0.0, 0.5]]) * theta["sigma"]  # upper triangular, a legal square root
        return dict(
            F=F,
            c=[step.inputs @ jnp.array([1.0, -0.5]), 0.1 * step.t],
            chol_Q=np.array([[0.7], [0.2]]),
            H=[[1, 0], [0.5, step.inputs[0]]],
            d=(0.0, 0.3),
            chol_R=R,
            chol_P0=[[1.0, theta["sigma"]], [0.0, 2.0]],
        )

    model = m.LinearGaussian(function, ("phi", "sigma"), shapes={"phi": 2}, n_inputs=2, channels=("a", "b"))
    assert model.shapes == ((2,), ()) and model.channel_names == ("a", "b") and not model.continuous_time
    assert model.state_names == ("x0", "x1") and model.input_names == ("input0", "input1")
    y = np.stack([Y, RNG.normal(size=T)], axis=1)
    y[::7, 0] = np.nan
    inputs = INPUTS[:, :2]

    def oracle(th, y):
        root = np.array([[1.0, th["sigma"]], [0.0, 2.0]])
        R = np.array([[1.0, 0.3], [0.0, 0.5]]) * th["sigma"]

        def system(t):
            v, q = inputs[t], np.array([[0.7], [0.2]])
            c = [v @ [1, -0.5], 0.1 * t]
            return [th["phi"], [1, 0]], c, q @ q.T, [[1, 0], [0.5, v[0]]], [0, 0.3], R @ R.T

        return numpy_filter(y, [0, 0], root @ root.T, system)

    compare(model, {"phi": PHI[2]} | sds("sigma"), y, oracle, inputs=inputs)


def test_constants_of_a_user_function_are_known_when_compiling():
    def function(theta, step):
        return dict(
            F=jnp.array([[1.0, 0.1], [0, 1]]), H=np.eye(2), chol_Q=[[0, 0], [0, theta["a"] * step.dt]], d=[2, 0]
        )

    model = m.LinearGaussian(function, ("a",))
    _, blocks = block(RNG.normal(size=(2, 2)))
    obs = jax.tree.map(lambda leaf: leaf[1], blocks)
    seen = []

    def traced(theta):
        seen.append(model.matrices(at_each_particle(model.params)(theta), obs))
        return theta["a"]

    jax.jit(traced)(spread_theta({"a": np.ones(N)}))
    system = seen[0]
    assert system.F == [[1.0, 0.1], [0.0, 1.0]] and system.H == [[1.0, 0.0], [0.0, 1.0]]  # 0.1 in float64
    assert system.d == [2.0, 0.0] and system.c == [0.0, 0.0] and system.chol_R == [[0.0, 0.0], [0.0, 0.0]]
    assert system.chol_Q[0] == [0.0, 0.0] and system.chol_Q[1][0] == 0.0 and system.chol_Q[1][1].shape == (S, N)
    with jax.enable_x64(False):
        built_in_float32 = m.LinearGaussian(function, ("a",))
    assert built_in_float32.function.examine()[0]["F"] == system.F


def test_a_function_of_theta_is_computed_once_per_particle():
    params = at_each_particle(USER.params)(spread_theta(sds(*NAMES)))
    assert [leaf.shape for leaf in params] == [(S, N), (S, N)]


# ---------------------------------------------------------------- default priors

MODELS = {
    "local level": m.LocalLevel(),
    "damped": m.LocalLinearTrend(damped=True),
    "many": m.Level() + m.Seasonal(12, name="year") + m.AR(3) + m.Regression(2, drifting=True) + m.Noise(),
    "fourier": m.Seasonal(365.25, "fourier", 3) + m.Noise(),
    "tracking": m.ConstantVelocity(("a", "b")),
    "in time": m.IntegratedWiener(3)
    + m.OrnsteinUhlenbeck()
    + m.Cycle()
    + m.Cycle(7, damped=False, name="week")
    + m.Noise(),
    "trend in time": m.ContinuousTrend() + m.Noise(),
    "sarima": m.SARIMA((2, 1, 1), (1, 1, 2, 4)) + m.ARMA(1, 1, name="fast"),
}


@pytest.mark.parametrize("case", MODELS)
def test_default_prior_fits_its_model(case):
    model = MODELS[case]
    prior = model.default_prior(10.0)
    assert dict(zip(prior.names, prior.shapes, strict=True)) == dict(zip(model.names, model.shapes, strict=True))
    z, log_weight = prior.sample(jax.random.key(1), 500)
    assert z.shape == (prior.size, 500) and np.isfinite(z).all() and not log_weight.any()
    z = jnp.asarray(z)
    assert np.isfinite(jax.vmap(prior.log_prob, in_axes=-1)(z)).all()
    theta = jax.vmap(prior.constrain, in_axes=-1, out_axes=-1)(z)
    assert {k: v.shape for k, v in theta.items()} == {
        k: (*shape, 500) for k, shape in zip(model.names, model.shapes, strict=True)
    }
    assert jax.vmap(model.support, in_axes=-1)(theta).all()
    back = jax.vmap(prior.unconstrain, in_axes=-1, out_axes=-1)(theta)
    np.testing.assert_allclose(back, z, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- errors


def returning(**changes):
    def function(theta):
        out = dict(F=[[1.0, 0.0], [0.0, 1.0]], H=[[theta["a"], 0.0]]) | changes
        return {k: v for k, v in out.items() if v is not None}

    return lambda: m.LinearGaussian(function, ("a",))


BAD = {
    "AR(order): expected a whole number >= 1, got 0": lambda: m.AR(0),
    "Seasonal(period): expected a whole number >= 2, got 1": lambda: m.Seasonal(1),
    "Seasonal(period): expected a whole number >= 2, got 2.5": lambda: m.Seasonal(2.5),
    "7 steps have at most 3 harmonics": lambda: m.Seasonal(7, "fourier", 4),
    'Seasonal(harmonics=2) needs kind="fourier"': lambda: m.Seasonal(7, harmonics=2),
    'expected "dummy" or "fourier", got \'sine\'': lambda: m.Seasonal(7, "sine"),
    "Level(initial_sd): expected standard deviations": lambda: m.Level(0, -1),
    "Level(initial_mean): expected finite": lambda: m.LocalLevel(np.nan),
    "Trend(initial_mean): expected two numbers": lambda: m.Trend(initial_mean=3.0),
    "Seasonal(initial_sd): expected a number or 3 of them": lambda: m.Seasonal(4, initial_sd=(1, 2)),
    "Regression(n): expected a whole number >= 1, got 0": lambda: m.Regression(0),
    "the number of inputs or their names": lambda: m.Regression(),
    "write ('ab',)": lambda: m.Regression(names="ab"),
    "share the state level": lambda: m.Level() + m.Trend(),
    "share the input a": lambda: m.Regression(names=("a",)) + m.Regression(names=("a",), name="b"),
    "room for one Noise()": lambda: m.Noise() + m.Level() + m.Noise(),
    "one Noise": lambda: m.Noise() + m.Noise(),
    "needs a component": lambda: m.Structural((), m.Noise()),
    "at least one sensor": lambda: m.ConstantVelocity(()),
    "bad_list: expected dict(F=..., H=..., ...), got list": lambda: m.LinearGaussian(bad_list, ("a",)),
    "unknown key 'Q'": returning(Q=[[1.0]]),
    "missing H": returning(H=None),
    "H: got shape (1, 3), expected (1, 2)": returning(H=[[1.0, 0, 0]]),
    "F: got shape (2,), expected (2, 2)": returning(F=[1.0, 1.0]),
    "F: its rows have different lengths": returning(F=[[1.0], [1.0, 2.0]]),
    "chol_Q: got shape (2, 3), expected at most 2 columns": returning(chol_Q=np.zeros((2, 3))),
    "m0: got shape (), expected (2,)": returning(m0=0.0),
    "chol_R: got shape (2, 2), expected (1, 1)": returning(chol_R=np.eye(2)),
    "c: expected numbers, arrays and nested lists of them, got str": returning(c=["one", 0]),
    "KeyError: 'sigma'": lambda: m.LinearGaussian(lambda theta: dict(F=[[theta["sigma"]]], H=[[1]]), ("a",)),
    "TracerArrayConversionError": lambda: m.LinearGaussian(
        lambda theta: dict(F=[[np.sqrt(theta["a"])]], H=[[1]]), ("a",)
    ),
    "no attribute 'input'": lambda: m.LinearGaussian(lambda theta, step: dict(F=[[step.input]], H=[[1]]), ("a",)),
    "got one of (theta, step, more)": lambda: m.LinearGaussian(lambda theta, step, more: None, ("a",)),
    "does not read step.inputs": lambda: m.LinearGaussian(local_level, NAMES, n_inputs=1),
    "got 2 names, but local_level returns 1 channels": lambda: m.LinearGaussian(
        local_level, NAMES, channels=("a", "b")
    ),
    "b is not among the names a": lambda: m.LinearGaussian(local_level, ("a",), shapes={"b": 2}),
    "no default prior": lambda: USER.default_prior(1.0),
}


def bad_list(theta):
    return [[theta["a"]]]


@pytest.mark.parametrize("message", BAD)
def test_mistakes_are_named_at_construction(message):
    with pytest.raises(ModelError, match=re.escape(message)):
        BAD[message]()


def test_observations_that_the_model_cannot_use_are_refused():
    theta = spread_theta(sds(*NAMES))
    with pytest.raises(ModelError, match=r"does not read step\.noise_sd"):
        run(USER, theta, block(Y, noise_sd=np.ones((T, 1)))[1])
    needs = m.LinearGaussian(lambda th, step: local_level(th) | dict(chol_R=[[step.noise_sd[0]]]), NAMES)
    with pytest.raises(ModelError, match=r"step\.noise_sd is None where none is given, and for the initial law"):
        run(needs, theta, block(Y)[1])
    with pytest.raises(ModelError, match="reads the inputs input0"):
        run(m.Regression(1) + m.Noise(), {"sigma_obs": theta["sigma_obs"]}, block(Y)[1])
    with pytest.raises(TypeError, match="unsupported operand"):
        m.Level() + m.ConstantVelocity()
