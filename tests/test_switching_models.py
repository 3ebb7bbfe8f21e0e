"""Ready-made models with regimes or random scales: known laws, and regimes called otherwise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import t as student

import smcssm as ss
from filtering import block
from smcssm.filters import Discrete, RaoBlackwell
from smcssm.models import log_volatility
from smcssm.models.regimes import in_order, permuted
from test_discrete import both_series
from test_rao_blackwell import both, keys, run

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("df", [None, pytest.param(4.0, marks=pytest.mark.slow)])
def test_noise_of_a_t_law(df):
    """A level that is known exactly leaves independent t observations: the estimate has no bias, least with a guide."""
    y, n = np.array([0.3, -1.0, 4.0, np.nan, 0.5]), 1000
    theta = {"sigma_level": np.zeros(n), "sigma_obs": np.full(n, 0.8)} | ({} if df else {"df": np.full(n, 4.0)})
    want, spread = student.logpdf(y[~np.isnan(y)], 4, 0, 0.8).sum(), {}
    for guided in (True, False):
        model = ss.models.StudentT(ss.models.LocalLevel(initial_sd=0.0), df, guided=guided)
        _, info = run(RaoBlackwell(model, 64), keys(), both(theta), block(y)[1])
        ratio = np.exp(np.asarray(info.log_lik.sum(axis=0))[0] - want)
        spread[guided] = ratio.std()
        assert 0 < ratio.std() < 1
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(n)
    assert spread[True] < 0.5 * spread[False]


@pytest.mark.slow
def test_a_guide_finds_outliers_of_a_level_that_is_not_known():
    """Against integrals over the level on a grid; from dynamics alone the logarithm varies a hundred times as much."""
    rng, T, n, df, step, noise = np.random.default_rng(0), 12, 2000, 4.0, 0.3, 0.5
    y = np.cumsum(step * rng.normal(size=T)) + noise * rng.standard_t(df, size=T)
    y[6] += 8.0
    x = np.linspace(-15, 25, 4000)
    normal, width = np.exp(-0.5 * (x / 3.0) ** 2), x[1] - x[0]
    p, total = normal / normal.sum(), 0.0
    kernel = np.exp(-0.5 * (np.arange(-300, 301) * width / step) ** 2)
    for t, value in enumerate(y):
        p = np.convolve(p, kernel / kernel.sum(), "same") if t else p
        p = p * student.pdf(value, df, x, noise)
        total, p = total + np.log(p.sum()), p / p.sum()
    theta, logs = {"sigma_level": np.full(n, step), "sigma_obs": np.full(n, noise)}, {}
    for guided in (True, False):
        model = ss.models.StudentT(ss.models.LocalLevel(initial_sd=3.0), df, guided=guided)
        _, info = run(RaoBlackwell(model, 16), keys(), both(theta), block(y)[1])
        logs[guided] = np.asarray(info.log_lik.sum(axis=0))[0]
    ratio = np.exp(logs[True] - total)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(n)
    assert logs[True].var() < 0.02 * logs[False].var()


def test_the_mixture_is_the_law_of_a_log_squared_normal():
    """The law of y - h by its ten components, against the density of log chi-square with one degree of freedom."""
    x = np.linspace(-12, 4, 400)
    p, m, v = (np.array(a) for a in (log_volatility._P, log_volatility._MEAN, log_volatility._VARIANCE))
    got = (p * np.exp(-0.5 * (x[:, None] - m) ** 2 / v) / np.sqrt(2 * np.pi * v)).sum(axis=1)
    want = np.exp(0.5 * (x - np.exp(x))) / np.sqrt(2 * np.pi)
    assert abs(p.sum() - 1) < 1e-9
    assert abs(p @ m + 1.2704) < 1e-3
    assert np.abs(got - want).max() < 1e-3


def test_log_volatility_is_close_to_a_grid_filter():
    """Estimates at fixed parameters against a grid of 1,000 values of h with the mixture as the law of y."""
    rng = np.random.default_rng(1)
    mu, phi, sigma, T, n = -0.5, 0.95, 0.3, 30, 400
    h = mu + np.zeros(T)
    for t in range(1, T):
        h[t] = mu + phi * (h[t - 1] - mu) + sigma * rng.normal()
    y = h + np.log(rng.normal(size=T) ** 2)
    y[7] = np.nan
    grid = np.linspace(mu - 6, mu + 6, 1000)
    p, m, v = (np.array(a) for a in (log_volatility._P, log_volatility._MEAN, log_volatility._VARIANCE))
    move = np.exp(-0.5 * ((grid[:, None] - mu - phi * (grid[None] - mu)) / sigma) ** 2)
    move /= move.sum(axis=0)
    w = np.exp(-0.5 * (grid - mu) ** 2 * (1 - phi**2) / sigma**2)
    w, total = w / w.sum(), 0.0
    for t, value in enumerate(y):
        w = move @ w if t else w
        if not np.isnan(value):
            at = value - grid[:, None] - m
            joint = w * (p * np.exp(-0.5 * at**2 / v) / np.sqrt(2 * np.pi * v)).sum(axis=1)
            total, w = total + np.log(joint.sum()), joint / joint.sum()
    theta = {"mu": np.full(n, mu), "phi": np.full(n, phi), "sigma_volatility": np.full(n, sigma)}
    inner = RaoBlackwell(ss.models.LogVolatility(), 20)
    belief, info = run(inner, keys(), both(theta), block(y)[1])
    ratio = np.exp(np.asarray(info.log_lik.sum(axis=0))[0] - total)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(n)
    mean = np.asarray(inner.moments(belief)[0])[0, 0]
    assert abs(np.average(mean, weights=ratio) - w @ grid) < 5 * mean.std() / np.sqrt(n)


@pytest.mark.slow
def test_leverage_in_the_mixture_is_that_of_a_grid_filter():
    """Components' joint law of a return's size and the next change of h, summed out on a grid; a return is missing."""
    rng = np.random.default_rng(2)
    mu, phi, sigma, rho, T, n = -0.5, 0.9, 0.4, -0.6, 15, 1000
    h, r = mu + np.zeros(T), np.zeros(T)
    for t in range(T):
        e, z = rng.normal(size=2)
        r[t] = np.exp(h[t] / 2) * e
        if t + 1 < T:
            h[t + 1] = mu + phi * (h[t] - mu) + sigma * (rho * e + np.sqrt(1 - rho**2) * z)
    y, before = np.log(r**2), np.r_[0, np.sign(r[:-1])]
    y[7], before[8] = np.nan, 0
    grid = np.linspace(mu - 7, mu + 6, 500)
    P, m, v = (np.array(a) for a in (log_volatility._P, log_volatility._MEAN, log_volatility._VARIANCE))
    stationary = sigma / np.sqrt(1 - phi**2)
    w, total = np.exp(-0.5 * ((grid - mu) / stationary) ** 2)[:, None] * P, 0.0  # [h, component of the return before]
    w, gap = w / w.sum(), np.zeros((len(grid), len(P)))
    for t, value in enumerate(y):
        if t:
            sign = before[t]
            size = np.exp(m / 2 + v / 8) * (1 + gap / 2)
            mean = mu + phi * (grid[:, None] - mu) + sigma * rho * sign * size
            sd = sigma * np.sqrt(1 - rho**2 * abs(sign))
            law = np.exp(-0.5 * ((grid - mean[..., None]) / sd) ** 2)
            p = np.einsum("hk,hkg->g", w / law.sum(axis=-1), law)
            w = p[:, None] * P
        if not np.isnan(value):
            gap = value - grid[:, None] - m
            w = w * np.exp(-0.5 * gap**2 / v) / np.sqrt(2 * np.pi * v)
            total, w = total + np.log(w.sum()), w / w.sum()
    theta = {"mu": mu, "phi": phi, "sigma_volatility": sigma, "rho": rho}
    theta = {k: np.full(n, value) for k, value in theta.items()}
    inner, rows = RaoBlackwell(ss.models.LogVolatility(leverage=True), 20), block(y, inputs=before[:, None])[1]
    belief, info = run(inner, keys(), both(theta), rows)
    ratio = np.exp(np.asarray(info.log_lik.sum(axis=0))[0] - total)
    assert ratio.std() < 0.5
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(n)
    mean = np.asarray(inner.moments(belief)[0])[0, 0]
    assert abs(np.average(mean, weights=ratio) - w.sum(axis=1) @ grid) < 5 * mean.std() / np.sqrt(n)


def test_regimes_called_otherwise_have_the_same_likelihood():
    model = ss.models.SwitchingLevel(("sigma_level", "sigma_obs"))
    theta = {"sigma_level": np.array([0.1, 0.8]), "sigma_obs": np.array([1.0, 0.3]), "stay": np.array([0.9, 0.6])}
    other = permuted(model, theta, jnp.array([1, 0]))
    np.testing.assert_array_equal(other["stay"], [0.6, 0.9])
    pair = {k: jnp.stack([theta[k], other[k]], axis=-1) for k in theta}
    pair = {k: jnp.stack([v, v], axis=-2) for k, v in pair.items()}
    inner = RaoBlackwell(model, 256)
    belief, info = run(inner, keys(), pair, block(np.array([0.1, 2.0, -1.0, np.nan, 0.4, 1.0]))[1])
    total = np.asarray(info.log_lik.sum(axis=0))
    np.testing.assert_allclose(total[:, 0], total[:, 1], rtol=1e-12)
    swapped = inner.relabel(belief, jnp.broadcast_to(jnp.array([1, 0])[:, None, None], (2, 2, 2)))
    np.testing.assert_allclose(inner.regimes(swapped)[..., 0], inner.regimes(belief)[..., 1], rtol=1e-9)
    ordered = in_order(model, theta, "sigma_obs")
    np.testing.assert_array_equal(ordered["sigma_obs"], [0.3, 1.0])
    np.testing.assert_array_equal(ordered["sigma_level"], [0.8, 0.1])


def test_three_regimes_permute_rows_and_columns():
    model = ss.models.GaussianRegimes(3)
    P = np.arange(9.0).reshape(3, 3)
    theta = {"mean": np.arange(3.0), "sigma": np.ones(3), "transition": P}
    got = permuted(model, theta, jnp.array([2, 0, 1]))
    np.testing.assert_array_equal(got["mean"], [2, 0, 1])
    np.testing.assert_array_equal(got["transition"], P[np.ix_([2, 0, 1], [2, 0, 1])])


@pytest.mark.slow  # an engine more to compile; another one streams in test_relabel
def test_an_engine_with_regimes_streams_and_moves():
    model = ss.models.SwitchingLevel(initial_sd=3.0)
    rng = np.random.default_rng(0)
    y = np.cumsum(0.3 * rng.normal(size=50)) + rng.normal(size=50) * np.where(rng.random(50) < 0.2, 4.0, 0.5)
    engine = ss.Engine(model, model.default_prior(1.0), n_particles=256, filter=RaoBlackwell(model, 16))
    info = engine.update(y)
    assert info.moved.any()
    assert np.isfinite(engine.log_evidence)
    assert (info.status <= ss.Status.SLOW_MIXING).all()
    with jax.enable_x64(True):
        assert engine.summary()["sd"].gt(0).all()


@pytest.mark.parametrize(
    ("model", "same"),
    [
        pytest.param(ss.models.SwitchingLevel(("sigma_level", "sigma_obs"), 3), True, id="SwitchingLevel"),
        pytest.param(ss.models.StudentT(ss.models.LocalLevel()), False, id="StudentT"),  # draws differ by precision
        pytest.param(ss.models.LogVolatility(), True, id="LogVolatility", marks=pytest.mark.slow),
        pytest.param(ss.models.GaussianRegimes(), True, id="GaussianRegimes"),
    ],
)
def test_beliefs_keep_the_precision_of_the_data(model, same):
    """In float32 nothing is promoted, and the likelihood is that of float64."""
    prior = model.default_prior(1.0)
    z = jnp.asarray(prior.sample(jax.random.key(0), 3)[0])
    theta = both_series(jax.vmap(prior.constrain, in_axes=-1, out_axes=-1)(z))
    inner = Discrete(model) if type(model) is ss.models.GaussianRegimes else RaoBlackwell(model, 16)
    rows = block(np.array([0.1, 2.0, np.nan]))[1]
    told = []
    for dtype in (jnp.float64, jnp.float32):

        def cast(a, dtype=dtype):
            return a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

        told.append((keys(), jax.tree.map(cast, theta), jax.tree.map(cast, rows)))
        belief, _ = jax.eval_shape(functools.partial(run, inner), *told[-1])
        assert all(a.dtype in (dtype, jnp.int32) for a in jax.tree.leaves(belief))
    if same:
        total = [np.asarray(run(inner, *args)[1].log_lik.sum(axis=0)) for args in told]
        np.testing.assert_allclose(total[1], total[0], rtol=2e-2)
