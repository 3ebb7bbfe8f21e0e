"""Components that are exact for any dt: against quadrature, dense covariance functions, statsmodels and themselves."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy.stats import multivariate_normal
from statsmodels.tsa.statespace.initialization import Initialization
from statsmodels.tsa.statespace.structural import UnobservedComponents

from filtering import N, S, block, compare, run, sds, spread_theta
from smcssm import models as m
from smcssm.core import at_each_particle
from smcssm.errors import ModelError

pytestmark = pytest.mark.usefixtures("x64")

T = 24
RNG = np.random.default_rng(5)
Y = np.cumsum(RNG.normal(size=T)) + RNG.normal(size=T)
Y[[4, 5, 11]] = np.nan
DT = np.r_[0.0, 10.0 ** RNG.uniform(-3, 1, T - 1)]
DT[8] = 0.0
TIMES = np.cumsum(DT)
TIMESCALE, PERIOD, RHO = np.array([3.0, 0.02, 400.0]), np.array([2.7, 11.0, 0.4]), np.array([0.9, 0.3, 0.9999])


def start(n):
    """Asymmetric initial laws."""
    return {"initial_mean": (0.7, -0.2, 0.1)[:n], "initial_sd": (2.0, 0.5, 1.5)[:n]}


# The stochastic differential equation d x = A x dt + B dW of each, as functions of one particle's hyperparameters.


def wiener(n):
    return lambda th: (np.eye(n, k=1), th["sigma_wiener"] * np.eye(n)[:, -1:])


def ornstein_uhlenbeck(th):
    return np.array([[-1 / th["timescale_ou"]]]), np.array([[th["sigma_ou"] * math.sqrt(2 / th["timescale_ou"])]])


def trend(th):
    return np.eye(2, k=1), np.diag([th["sigma_level"], th["sigma_trend"]])


def cycle(th):
    rho, turn = th.get("rho_cycle", 1.0), 2 * math.pi / th.get("period_cycle", 7.0)
    intensity = 1.0 if rho == 1 else -2 * math.log(rho) / (1 - rho * rho)
    A = np.array([[math.log(rho), turn], [-turn, math.log(rho)]])
    return A, th.get("sigma_cycle", 0.0) * math.sqrt(intensity) * np.eye(2)


CASES = {
    "Brownian": (m.IntegratedWiener(1, **start(1)), wiener(1), sds("sigma_wiener")),
    "integrated": (m.IntegratedWiener(2, **start(2)), wiener(2), sds("sigma_wiener")),
    "integrated twice": (m.IntegratedWiener(3, **start(3)), wiener(3), sds("sigma_wiener")),
    "Ornstein-Uhlenbeck": (m.OrnsteinUhlenbeck(), ornstein_uhlenbeck, sds("sigma_ou") | {"timescale_ou": TIMESCALE}),
    "Ornstein-Uhlenbeck, given start": (
        m.OrnsteinUhlenbeck(initial_mean=0.7, initial_sd=2.0),
        ornstein_uhlenbeck,
        sds("sigma_ou") | {"timescale_ou": TIMESCALE},
    ),
    "trend": (m.ContinuousTrend(**start(2)), trend, sds("sigma_level", "sigma_trend")),
    "trend, singular": (
        m.ContinuousTrend(**start(2)),
        trend,
        {"sigma_level": np.array([0.0, 0.5, 0.0]), "sigma_trend": np.array([0.3, 0.0, 0.0])},
    ),
    "cycle": (m.Cycle(), cycle, sds("sigma_cycle") | {"period_cycle": PERIOD, "rho_cycle": RHO}),
    "cycle of known period": (m.Cycle(7, **start(2)), cycle, sds("sigma_cycle") | {"rho_cycle": RHO}),
    "cycle, undamped": (
        m.Cycle(damped=False, **start(2)),
        cycle,
        sds("sigma_cycle") | {"period_cycle": PERIOD},
    ),
    "cycle, deterministic": (
        m.Cycle(stochastic=False, **start(2)),
        cycle,
        {"period_cycle": PERIOD, "rho_cycle": RHO},
    ),
}
CASES_BY_MODEL = {model: (equation, theta) for model, equation, theta in CASES.values()}
NOISE = {"sigma_obs": np.array([0.3, 1.0, 2.0])}


def initial_law(model, th):
    A, B = CASES_BY_MODEL[model][0](th)
    if getattr(model, "initial_sd", None) is not None:
        return np.array(model.initial_mean), np.diag(np.square(model.initial_sd))
    return np.zeros(len(A)), scipy.linalg.solve_continuous_lyapunov(A, -B @ B.T)


def flow(A, h):
    """exp(A h) for an array of h, exactly for nilpotent A."""
    h = np.asarray(h)[..., None, None]
    if not np.tril(A).any():
        return sum(np.linalg.matrix_power(A, k) * h**k / math.factorial(k) for k in range(len(A)))
    return scipy.linalg.expm(A * h)


def moved(A, B, h):
    """F and Q over h: Gauss-Legendre quadrature of exp(A s) B B' exp(A s)' over a short step, doubled."""
    doublings = max(0, math.ceil(math.log2(max(h, 1e-300) * np.abs(np.linalg.eigvals(A)).max() + 1e-300) + 1))
    short = h / 2**doublings
    nodes, weights = np.polynomial.legendre.leggauss(12)
    E = flow(A, short * (nodes + 1) / 2) @ B
    Q = short / 2 * np.einsum("k,kij,klj->il", weights, E, E)
    for F in flow(A, short * 2.0 ** np.arange(doublings)):
        Q = F @ Q @ F.T + Q
    return flow(A, h), Q


def dense(model, th, times):
    """Mean and covariance of the observed state at all times, from the covariance function."""
    A, B = CASES_BY_MODEL[model][0](th)
    m0, P0 = initial_law(model, th)
    F, Q = zip(*(moved(A, B, t - times[0]) for t in times), strict=True)
    mean, cov = np.array([f[0] @ m0 for f in F]), np.zeros((len(times), len(times)))
    for i in range(len(times)):
        P = F[i] @ P0 @ F[i].T + Q[i]
        cov[i, i:] = cov[i:, i] = (flow(A, times[i:] - times[i]) @ P)[:, 0, 0]
    return mean, cov


@pytest.mark.parametrize("case", CASES)
def test_irregular_and_missing_observations_equal_the_dense_gaussian(case):
    model, _, theta = CASES[case]
    seen = ~np.isnan(Y)

    def oracle(th, y):
        mean, cov = dense(model, th, TIMES[seen])
        S = cov + th["sigma_obs"] ** 2 * np.eye(seen.sum())
        return multivariate_normal(mean, S).logpdf(y[seen, 0])

    compare(model + m.Noise(), theta | NOISE, Y, oracle, rtol=1e-8, dt=DT)


def entries(matrix, s, i):
    return np.array([[float(np.broadcast_to(e, (S, N))[s, i]) for e in row] for row in matrix])


@pytest.mark.parametrize("dt", [1e-12, 1e-4, 0.3, 1.0, 20.0, 1e6])
@pytest.mark.parametrize("case", CASES)
def test_one_step_equals_quadrature_at_any_dt(case, dt):
    model, equation, theta = CASES[case]
    if case.startswith("cycle") and dt == 1e6:
        theta = theta | ({"rho_cycle": np.array([0.9, 0.3, 0.99])} if "rho_cycle" in theta else {})
    th = spread_theta(theta)
    obs = jax.tree.map(lambda leaf: leaf[0], block(np.zeros(1), dt=[dt])[1])
    F, chol_Q = model.transition(th, obs)
    assert len(chol_Q[0]) <= len(F)
    for i in range(N):
        A, B = equation({k: float(v[i]) for k, v in theta.items()})
        want_F, want_Q = moved(A, B, dt)
        rounding = 1e-13 * max(1, dt * np.abs(np.linalg.eigvals(A)).max())  # of expm
        np.testing.assert_allclose(entries(F, 0, i), want_F, rtol=1e-10, atol=rounding)
        L = entries(chol_Q, 0, i) if chol_Q[0] else np.zeros((len(F), 1))
        off_diagonal = 1e-13 * np.sqrt(np.outer(want_Q.diagonal(), want_Q.diagonal()))
        assert (np.abs(L @ L.T - want_Q) <= max(1e-10, rounding) * np.abs(want_Q) + off_diagonal).all()


def test_a_cycle_knows_its_phase_after_a_million_turns():
    obs = jax.tree.map(lambda leaf: leaf[0], block(np.zeros(1), dt=[1e6])[1])
    F, _ = m.Cycle(damped=False).transition(spread_theta({"period_cycle": PERIOD} | sds("sigma_cycle")), obs)
    for i, period in enumerate(PERIOD):
        angle = 2 * math.pi * float(Fraction(1e6) / Fraction(period) % 1)
        want = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        np.testing.assert_allclose(entries(F, 0, i), want, atol=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_two_steps_with_a_missing_row_between(case):
    part, _, theta = CASES[case]
    model = part + m.Noise()
    assert model.continuous_time
    y = np.full(T, np.nan)
    y[::2] = RNG.normal(size=T // 2)
    whole = 10.0 ** RNG.uniform(-1, 1, T // 2 - 1)
    first = RNG.uniform(0, 1, T // 2 - 1) * whole
    theta = spread_theta(theta | NOISE)

    def after(*parts):  # time that passes before the missing row, and from there to the next observation
        return run(model, theta, block(y, dt=np.r_[0.0, np.stack(parts, axis=1).ravel(), 0.0])[1])

    one, two = after(0 * whole, whole), after(first, whole - first)
    np.testing.assert_allclose(two[0], one[0], rtol=1e-10)
    np.testing.assert_allclose(two[1].mean, one[1].mean, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(two[1].chol, one[1].chol, rtol=1e-9, atol=1e-11 * np.abs(one[1].chol).max())


@pytest.mark.parametrize(("damped", "stochastic"), [(True, True), (False, True), (True, False), (False, False)])
def test_cycle_equals_statsmodels(damped, stochastic):
    model = m.Level(1, 2) + m.Cycle(damped=damped, stochastic=stochastic, **start(2)) + m.Noise()
    theta = {"period_cycle": PERIOD + 2, "rho_cycle": RHO} | sds("sigma_level", "sigma_obs", "sigma_cycle")
    theta = {name: theta[name] for name in model.names}

    def oracle(th, y):
        uc = UnobservedComponents(y[:, 0], "local level", cycle=True, damped_cycle=damped, stochastic_cycle=stochastic)
        values = {
            "sigma2.irregular": th["sigma_obs"] ** 2,
            "sigma2.level": th["sigma_level"] ** 2,
            "sigma2.cycle": th.get("sigma_cycle", 0.0) ** 2,
            "frequency.cycle": 2 * np.pi / th["period_cycle"],
            "damping.cycle": th.get("rho_cycle"),
        }
        uc.update([values[name] for name in uc.param_names])
        uc.ssm.initialize_known(np.array([1, 0.7, -0.2]), np.diag([4, 4, 0.25]))
        uc.ssm.loglikelihood_burn, uc.ssm.tolerance = 0, 0
        return uc.ssm.loglike()

    compare(model, theta, Y, oracle)


def test_stationary_cycle_equals_statsmodels():
    model = m.Structural((m.Cycle(),), m.Noise())
    theta = {"period_cycle": PERIOD + 2, "rho_cycle": RHO} | sds("sigma_cycle", "sigma_obs")

    def oracle(th, y):
        uc = UnobservedComponents(y[:, 0], cycle=True, damped_cycle=True, stochastic_cycle=True, irregular=True)
        assert uc.param_names == ["sigma2.irregular", "sigma2.cycle", "frequency.cycle", "damping.cycle"]
        uc.update([th["sigma_obs"] ** 2, th["sigma_cycle"] ** 2, 2 * np.pi / th["period_cycle"], th["rho_cycle"]])
        stationary = Initialization(2)
        stationary.set((0, 2), "stationary")
        uc.ssm.initialize(stationary)
        uc.ssm.loglikelihood_burn, uc.ssm.tolerance = 0, 0
        return uc.ssm.loglike()

    compare(model, theta, Y, oracle)


def test_what_is_the_same_under_two_names():
    _, rows = block(Y, dt=DT)
    levels = {"sigma_wiener": np.array([0.5, 1.1, 0.2])} | sds("sigma_obs")
    trends = levels | {"sigma_level": np.zeros(N), "sigma_trend": levels["sigma_wiener"]}
    for one, other in [
        (m.IntegratedWiener(1, **start(1)), m.Level(0.7, 2.0)),
        (m.IntegratedWiener(2, **start(2)), m.ContinuousTrend(**start(2))),
    ]:
        theta = levels | {"sigma_level": levels["sigma_wiener"]} if isinstance(other, m.Level) else trends
        got, want = (
            run(part + m.Noise(), spread_theta({k: theta[k] for k in (part + m.Noise()).names}), rows)[0]
            for part in (one, other)
        )
        np.testing.assert_allclose(got, want, rtol=1e-12)
    _, regular = block(Y)
    phi = np.exp(-1 / TIMESCALE)
    sampled = {"phi": phi, "sigma_ar": 0.7 * np.sqrt(1 - phi**2)}
    ou = run(
        m.OrnsteinUhlenbeck() + m.Noise(),
        spread_theta({"sigma_ou": np.full(N, 0.7), "timescale_ou": TIMESCALE} | sds("sigma_obs")),
        regular,
    )
    ar = run(m.AR(1) + m.Noise(), spread_theta(sampled | sds("sigma_obs")), regular)
    np.testing.assert_allclose(ou[0], ar[0], rtol=1e-10)


@pytest.mark.parametrize("dt", [0.0, 0.4])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_finite_at_any_step_and_at_singular_noise(case, dt):
    model, _, theta = CASES[case]
    obs = jax.tree.map(lambda leaf: leaf[0], block(np.zeros(1), dt=[dt])[1])

    def total(th):
        return sum(jnp.sum(e) for M in (*model.transition(th, obs), model.initial(th)[1]) for row in M for e in row)

    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.grad(total)(spread_theta(theta))))


@pytest.mark.parametrize(
    ("model", "outside"),
    [
        (m.OrnsteinUhlenbeck(), {"timescale_ou": 0.0}),
        (m.OrnsteinUhlenbeck(), {"timescale_ou": -1.0}),
        (m.Cycle(), {"period_cycle": 0.0}),
        (m.Cycle(), {"rho_cycle": 1.0}),
        (m.Cycle(), {"rho_cycle": 0.0}),
        (m.Cycle(), {"rho_cycle": -0.5}),
        (m.Cycle(7), {"rho_cycle": 1.1}),
        (m.Cycle(damped=False), {"period_cycle": -2.0}),
    ],
)
def test_support(model, outside):
    model = model + m.Noise()
    prior = model.default_prior(1.0)
    inside = prior.constrain(jnp.zeros(prior.size))
    assert model.support(inside)
    assert not model.support(inside | {k: jnp.asarray(v) for k, v in outside.items()})


@pytest.mark.parametrize(
    ("message", "build"),
    [
        ("IntegratedWiener.order.: expected a whole number >= 1, got 0", lambda: m.IntegratedWiener(0)),
        ("IntegratedWiener.initial_sd.: expected a number or 3", lambda: m.IntegratedWiener(3, initial_sd=(1, 2))),
        ("OrnsteinUhlenbeck.initial_mean=2.0. needs initial_sd", lambda: m.OrnsteinUhlenbeck(initial_mean=2.0)),
        ("ContinuousTrend.initial_sd.: expected two numbers", lambda: m.ContinuousTrend(initial_sd=1.0)),
        ("Cycle.period.: expected the time of a full turn, a positive number, got -3", lambda: m.Cycle(-3)),
        ("Cycle.initial_mean=1. needs initial_sd", lambda: m.Cycle(initial_mean=1)),
        ("share the state cycle", lambda: m.Cycle() + m.Cycle()),
    ],
)
def test_mistakes_are_named(message, build):
    with pytest.raises(ModelError, match=message):
        build()


def test_stationary_start_is_kept_over_any_step():
    for model in (m.OrnsteinUhlenbeck(), m.Cycle()):
        _, theta = CASES_BY_MODEL[model]
        th = spread_theta(theta)
        for dt in (1e-6, 0.7, 1e3):
            obs = jax.tree.map(lambda leaf: leaf[0], block(np.zeros(1), dt=[dt])[1])
            _, chol = model.initial(th)
            F, chol_Q = model.transition(th, obs)
            for i in range(N):
                L, A, Q = (entries(M, 1, i) for M in (chol, F, chol_Q))
                P = L @ L.T
                np.testing.assert_allclose(A @ P @ A.T + Q @ Q.T, P, rtol=1e-11, atol=1e-12 * P.max())


def test_parameters_are_computed_once_per_particle():
    params = at_each_particle((m.Cycle() + m.Noise()).params)(
        spread_theta({"period_cycle": PERIOD, "rho_cycle": RHO} | sds("sigma_cycle", "sigma_obs"))
    )
    assert {leaf.shape for leaf in jax.tree.leaves(params)} == {(S, N)}
