"""ARMA and seasonal ARIMA against statsmodels: log-likelihood, filtered and forecast moments, initial laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from statsmodels.tsa.statespace.initialization import Initialization
from statsmodels.tsa.statespace.sarimax import SARIMAX

from filtering import BLANK, N, S, block, run, sds, spread_theta
from smcssm import models as m
from smcssm.errors import ModelError
from smcssm.filters import Kalman
from smcssm.kalman import smoother, whitened
from smcssm.linalg.dense import triangularise_dense
from smcssm.models.stationary import UniformInvertible

pytestmark = pytest.mark.usefixtures("x64")

T = 40
RNG = np.random.default_rng(11)
Y = np.cumsum(RNG.normal(size=T)) + 5.0
Y[[3, 4, 17, 30]] = np.nan
X = RNG.normal(size=(T, 2))
VALUES = {  # for N particles; of each vector the first elements
    "phi": np.array([[0.5, -0.6, 0.95], [0.3, 0.2, -0.1]]),
    "theta": np.array([[0.4, -0.7, 0.1], [-0.2, 0.1, 0.3]]),
    "seasonal_phi": np.array([[0.6, -0.3, 0.9], [-0.3, 0.4, 0.05]]),
    "seasonal_theta": np.array([[-0.5, 0.8, 0.2], [0.2, 0.1, -0.4]]),
}
NONE = (0, 0, 0, 0)
CASES = {  # order, seasonal order, with measurement error, with inputs
    "ARMA(2, 1)": ((2, 0, 1), NONE, False, False),
    "MA(2)": ((0, 0, 2), NONE, False, False),
    "ARIMA(1, 1, 1)": ((1, 1, 1), NONE, False, False),
    "ARIMA(0, 2, 2)": ((0, 2, 2), NONE, True, False),
    "regression with ARIMA(1, 1, 0) errors": ((1, 1, 0), NONE, False, True),
    "SAR": ((1, 0, 1), (1, 0, 1, 4), False, False),
    "(1, 0, 0)(0, 1, 1)_4": ((1, 0, 0), (0, 1, 1, 4), False, True),
    "(1, 1, 1)(1, 1, 0)_4": ((1, 1, 1), (1, 1, 0, 4), True, False),
    "(0, 1, 1)(0, 2, 0)_3": ((0, 1, 1), (0, 2, 0, 3), False, False),
    "airline": ((0, 1, 1), (0, 1, 1, 12), False, False),
}


def parts(case):
    order, seasonal, noisy, regression = CASES[case]
    n = order[1] + seasonal[1] * seasonal[3]
    start = {"initial_mean": 0.3 * np.arange(n), "initial_sd": 1.7 + 0.1 * np.arange(n)} if n else {}
    model = m.Structural((m.SARIMA(order, seasonal, **start),))
    theta = {"sigma_arma": np.array([0.8, 1.5, 0.3])}
    for name, given in VALUES.items():
        if name in model.names:
            shape = dict(zip(model.names, model.shapes, strict=True))[name]
            theta[name] = given[: shape[0]] if shape else given[0]
    if regression:
        model, theta = model + m.Regression(2, initial_mean=(1.0, -0.5), initial_sd=0.0), theta
    if noisy:
        model, theta = model + m.Noise(), theta | sds("sigma_obs")
    return model, theta, start, n


def statsmodels(case, th, start, n, y):
    order, seasonal, noisy, regression = CASES[case]
    oracle = SARIMAX(
        y,
        X if regression else None,
        order=order,
        seasonal_order=seasonal,
        measurement_error=noisy,
        concentrate_scale=False,
    )
    coefficients = [
        v for name in ("phi", "theta", "seasonal_phi", "seasonal_theta") for v in np.ravel(th.get(name, []))
    ]
    beta, noise = ([1.0, -0.5] if regression else []), ([th["sigma_obs"] ** 2] if noisy else [])
    oracle.update([*beta, *coefficients, *noise, th["sigma_arma"] ** 2])
    law = Initialization(oracle.k_states)
    if n:
        cov = np.diag(np.square(start["initial_sd"]))
        law.set((0, n), "known", constant=np.array(start["initial_mean"]), stationary_cov=cov)
    law.set((n, oracle.k_states), "stationary")
    oracle.ssm.initialize(law)
    oracle.ssm.loglikelihood_burn, oracle.ssm.tolerance = 0, 0
    return oracle.ssm, oracle.ssm.filter()


def outputs(H, F, steps):
    """How the means of the next observations depend on the state."""
    return np.stack([H @ np.linalg.matrix_power(F, h) for h in range(steps)])


def numbers(matrix, s, i):
    return np.array([[float(np.broadcast_to(e, (S, N))[s, i]) for e in row] for row in matrix])


def filtered(case):
    model, theta, *_ = parts(case)
    both, blocks = block(Y, inputs=X if CASES[case][3] else None)
    return both, *run(model, spread_theta(theta), blocks)


@pytest.mark.parametrize("case", CASES)
def test_likelihood_filtered_and_forecast_moments_equal_statsmodels(case):
    model, theta, start, n = parts(case)
    theta = spread_theta(theta)
    both, log_lik, belief = filtered(case)
    obs = jax.tree.map(lambda leaf: leaf[1], block(Y, inputs=X if CASES[case][3] else None)[1])
    system = model.matrices(theta, obs)
    r = len(model.components[0].states)
    for s, i in [(0, 0), (0, 1), (1, 2)]:
        oracle, want = statsmodels(
            case, {k: np.asarray(v)[..., s, i] for k, v in theta.items()}, start, n, both[:, 0, s]
        )
        np.testing.assert_allclose(log_lik[s, i], want.llf, rtol=1e-10)
        H, F = numbers(system.H, s, i)[0, :r], numbers(system.F, s, i)[:r, :r]
        ours = outputs(H, F, r)
        theirs = outputs(
            oracle["design"][..., 0][0] if oracle["design"].ndim == 3 else oracle["design"][0], oracle["transition"], r
        )
        mean, L = np.asarray(belief.mean)[:r, s, i], np.asarray(belief.chol)[:r, :r, s, i]
        P, scale = L @ L.T, np.abs(want.predicted_state_cov[..., -1]).max()
        np.testing.assert_allclose(ours @ mean, theirs @ want.filtered_state[:, -1], rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(
            ours @ P @ ours.T, theirs @ want.filtered_state_cov[..., -1] @ theirs.T, rtol=1e-8, atol=1e-10 * scale
        )


@functools.partial(jax.jit, static_argnums=0)
def smoothed(model, theta, data):
    """Means and covariances of all states given all data."""
    kalman, params = Kalman(model), model.params(theta)
    blank = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), data)
    start = kalman.init(jax.random.split(jax.random.key(0), S), params, blank)
    last, beliefs, steps = kalman.back(params, start, data, len(data.dt))
    laws = whitened.of_states(beliefs, smoother.smooth(steps, whitened.end(last))[1])
    return laws.mean, jnp.einsum("tij...,tkj...->tik...", laws.chol, laws.chol)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_smoothed_states_equal_statsmodels(case):
    model, theta, start, n = parts(case)
    theta, given = spread_theta(theta), {"inputs": X} if CASES[case][3] else {}
    both, data = block(Y, inputs=given.get("inputs"))
    m, P = map(np.asarray, smoothed(model, theta, data))
    system = model.matrices(theta, jax.tree.map(lambda leaf: leaf[1], data))
    k = len(model.components[0].states)
    for s, i in [(0, 0), (0, 1), (1, 2)]:
        oracle, _ = statsmodels(case, {k: np.asarray(v)[..., s, i] for k, v in theta.items()}, start, n, both[:, 0, s])
        want = oracle.smooth()
        ours = outputs(numbers(system.H, s, i)[0, :k], numbers(system.F, s, i)[:k, :k], k)
        theirs = outputs(np.atleast_3d(oracle["design"])[0, :, 0], oracle["transition"], k)
        mean, cov = m[..., s, i], ours @ P[:, :k, :k, s, i] @ ours.T
        want_mean = theirs @ want.smoothed_state
        want_cov = theirs @ np.moveaxis(want.smoothed_state_cov, -1, 0) @ theirs.T
        np.testing.assert_allclose((mean[:, :k] @ ours.T).T, want_mean, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(cov, want_cov, rtol=1e-8, atol=1e-10 * np.abs(want.predicted_state_cov).max())


@pytest.mark.parametrize("case", ["ARMA(2, 1)", "MA(2)", "SAR"])
def test_stationary_start_is_kept(case):
    model, theta, *_ = parts(case)
    theta = spread_theta(theta)
    _, chol = model.initial(theta, BLANK)
    system = model.matrices(theta, BLANK)
    for i in range(N):
        L, F, Q = (numbers(M, 1, i) for M in (chol, system.F, system.chol_Q))
        assert np.array_equal(L, np.tril(L))
        np.testing.assert_allclose(F @ L @ L.T @ F.T + Q @ Q.T, L @ L.T, rtol=1e-10, atol=1e-12 * (L @ L.T).max())


def test_known_zeros_and_the_number_of_states():
    airline = m.SARIMA((0, 1, 1), (0, 1, 1, 12))
    assert len(airline.states) == 14 and airline.states[:2] == ("arma", "arma_2")
    F, chol_Q = airline.transition(
        spread_theta({k: VALUES[k][0] for k in ("theta", "seasonal_theta")} | sds("sigma_arma")), BLANK
    )
    assert all(isinstance(e, float) for row in F for e in row)
    assert [F[i][0] for i in (0, 11, 12)] == [1.0, 1.0, -1.0] and [
        i for i, (e,) in enumerate(chol_Q) if not isinstance(e, float)
    ] == [0, 1, 12, 13]


def test_ar_and_arma_and_sarima_are_one():
    assert m.ARMA(2, 1) == m.SARIMA((2, 0, 1))
    theta = spread_theta({"phi": VALUES["phi"], "sigma_arma": np.ones(N)})
    _, rows = block(Y)
    ar = run(m.Structural((m.AR(2),)), {"phi": theta["phi"], "sigma_ar": theta["sigma_arma"]}, rows)
    np.testing.assert_allclose(run(m.Structural((m.ARMA(2, 0),)), theta, rows)[0], ar[0], rtol=1e-11)


def test_everything_in_one_sum():
    model = (
        m.Level()
        + m.SARIMA((1, 0, 1), (0, 0, 1, 4))
        + m.ARMA(1, 0, name="fast")
        + m.Cycle()
        + m.Regression(2)
        + m.Noise()
    )
    assert {"phi", "theta", "seasonal_theta", "sigma_arma", "fast_phi", "fast_sigma_arma", "rho_cycle"} < set(
        model.names
    )
    prior = model.default_prior(1.0)
    z, _ = prior.sample(jax.random.key(0), N)
    theta = jax.vmap(prior.constrain, in_axes=-1, out_axes=-1)(jnp.asarray(z, float))
    _, rows = block(Y, inputs=X)
    log_lik, belief = run(model, spread_theta(theta), rows)
    assert np.isfinite(log_lik).all() and belief.mean.shape[0] == len(model.state_names) == 1 + 6 + 1 + 2 + 2


@pytest.mark.parametrize("name", VALUES)
def test_what_is_not_stationary_or_not_invertible_is_outside(name):
    model = m.SARIMA((2, 1, 2), (2, 1, 2, 4))
    inside = {k: jnp.asarray(v[:, 0]) for k, v in VALUES.items()} | {"sigma_arma": jnp.asarray(1.0)}
    assert model.support(inside)
    sign = -1.0 if "theta" in name else 1.0
    coefficients = RNG.normal(size=(60, 2))
    want = [np.abs(np.roots(np.r_[1, -sign * v])).max() < 1 for v in coefficients]
    assert [bool(model.support(inside | {name: jnp.asarray(v)})) for v in coefficients] == want and 0 < sum(want) < 60


def test_invertible_coefficients_go_there_and_back():
    for order in (1, 3):
        law = UniformInvertible(order)
        z = law.sample(jax.random.key(order), 1)[:, 0]
        np.testing.assert_allclose(law.unconstrain(law.constrain(z)), z, rtol=1e-9)
        assert np.abs(np.roots(np.r_[1, np.ravel(law.constrain(z))])).max() < 1


def test_dense_triangularisation_of_any_rank():
    A = jnp.asarray(RNG.normal(size=(4, 6, S)))
    for given in (A, A.at[2].set(A[0]), 0 * A):
        L = np.asarray(triangularise_dense(given))
        np.testing.assert_allclose(np.einsum("iks,jks->ijs", L, L), np.einsum("iks,jks->ijs", given, given), atol=1e-13)
        assert np.array_equal(L, np.tril(L.transpose(2, 0, 1)).transpose(1, 2, 0))
        assert np.isfinite(jax.grad(lambda M: triangularise_dense(M).sum())(given)).all()


@pytest.mark.parametrize(
    ("message", "build"),
    [
        (r"SARIMA\(order\): expected \(p, d, q\), got \(1, 2\)", lambda: m.SARIMA((1, 2))),
        (r"SARIMA\(order\): q: expected a whole number >= 0, got -1", lambda: m.SARIMA((1, 0, -1))),
        ("steps in a season: expected a whole number >= 2, got 0", lambda: m.SARIMA((1, 0, 0), (1, 0, 0, 0))),
        ("the process starts stationary", lambda: m.ARMA(1, 1) + m.SARIMA((1, 0, 0), initial_mean=3.0)),
        (
            r"SARIMA\(initial_sd\): expected a number or 13 of them",
            lambda: m.SARIMA((0, 1, 1), (0, 1, 1, 12), initial_sd=(1, 2)),
        ),
    ],
)
def test_mistakes_are_named(message, build):
    with pytest.raises(ModelError, match=message):
        build()


def test_smoothing_where_states_become_known_without_end():
    """A moving average without noise, against the dense Gaussian: what is hardly uncertain must not be divided by."""
    T, sigma = 150, 0.8
    rng = np.random.default_rng(0)
    y = np.where(rng.random(T) < 0.1, np.nan, rng.normal(size=T))
    seen = ~np.isnan(y)
    values = np.array([[0.4, 0.2, 0.1], [-0.2, 0.3, 0.05]])
    model = m.Structural((m.ARMA(0, 2),))
    theta = {"theta": np.broadcast_to(values[:, None], (2, S, N)), "sigma_arma": np.full((S, N), sigma)}
    data = block(y)[1]
    mean, P = (np.asarray(a)[..., 0, :] for a in smoothed(model, {k: jnp.asarray(a) for k, a in theta.items()}, data))
    for i in range(N):
        ma = np.r_[1, values[:, i]]
        lags = np.r_[[ma[: 3 - k] @ ma[k:] for k in range(3)], np.zeros(T)][:T] * sigma**2
        cov = lags[np.abs(np.subtract.outer(np.arange(T), np.arange(T)))]
        gain = cov[:, seen] @ np.linalg.inv(cov[np.ix_(seen, seen)])
        np.testing.assert_allclose(mean[:, 0, i], gain @ y[seen], atol=1e-13)
        np.testing.assert_allclose(P[:, 0, 0, i], np.diag(cov - gain @ cov[seen]), atol=1e-13)
