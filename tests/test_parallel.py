"""Blocks side by side against one row after the other and the dense joint law; smoothing likewise, in any rank."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from statsmodels.tsa.statespace.mlemodel import MLEModel

from oracles import dense_smoother, kalman_filter_numpy, smoother_in_many_digits
from smcssm.core import Observation, System
from smcssm.gaussian import Gaussian
from smcssm.kalman import live, parallel, sequential, smoother, whitened
from test_kalman import population

pytestmark = pytest.mark.usefixtures("x64")

T, S, N, NX, NY = 40, 2, 6, 3, 2
BLOCKS = 8


def system(params, obs):
    """Entries of its own for every particle and time, and F far from symmetric; noise grows with dt."""
    dt = obs.dt
    drift = [[params["F"][i, j] * dt + float(i == j) for j in range(NX)] for i in range(NX)]
    noise = [[params["chol_Q"][i, j] * jnp.sqrt(dt) if j <= i else 0.0 for j in range(NX)] for i in range(NX)]
    return System(drift, params["c"] * dt[None], noise, params["H"], params["d"], params["chol_R"])


def battery():
    """Particle 0 ordinary; then P0 = 0; P0 of rank one, of the second state; Q = 0; Q of rank one; both of rank one."""
    arrays = population(NX, NY, N, s=S)
    arrays["F"] = 0.3 * arrays["F"] - 0.15 * np.eye(NX)[..., None, None]
    arrays["chol_P0"][..., 1] = 0
    arrays["chol_P0"][..., :1, :, :, 2] = arrays["chol_P0"][:, 2:, :, 2] = 0
    arrays["chol_P0"][:, 1:, :, 5] = 0
    arrays["chol_Q"][..., 3] = 0
    arrays["chol_Q"][:, 1:, :, [4, 5]] = 0
    return arrays


def observations(seed=0, t=T):
    """Rows missing whole or in one channel, steps from 0 to 2, and in series 1 a row that it does not report."""
    rng = np.random.default_rng(seed)
    ys = 2 * rng.standard_normal((t, NY, S))
    ys[rng.random(ys.shape) < 0.2] = np.nan
    ys[7:10] = np.nan
    dts = rng.choice([0.0, 0.3, 1.0, 2.0], (t, S))
    dts[0] = 0
    reported = np.ones((t, S), bool)
    reported[12, 1] = False
    return ys, dts, reported


def records(ys, dts, reported, dtype=float):
    mask = ~np.isnan(ys)
    y = np.where(mask, ys, 0).astype(dtype)
    index = np.arange(len(ys))[:, None].repeat(S, 1)
    leaves = (y, mask, dts.astype(dtype), index, reported)
    y, mask, dts, index, reported = (jnp.asarray(leaf)[..., None] for leaf in leaves)
    return live(Observation(y, mask, dts, index, reported=reported), len(ys))


def keep(belief, innovation):
    return belief, innovation.log_lik


@functools.partial(jax.jit, static_argnames="blocks")
def filtered(arrays, rows, blocks):
    start = Gaussian(arrays["m0"], arrays["chol_P0"])
    if blocks == 1:
        return sequential.filter(system, arrays, start, rows, keep)
    return parallel.filter(system, arrays, start, rows, keep, blocks)


@functools.partial(jax.jit, static_argnames=("blocks", "divided"))
def smoothed(arrays, rows, blocks, noise, divided=False):
    """Means and factors given everything, lag-one covariances, and a draw; ``divided``: as Rauch, Tung and Striebel."""
    start = Gaussian(arrays["m0"], arrays["chol_P0"])
    if divided:
        last, (beliefs, _) = filtered(arrays, rows, 1)
        steps = smoother.backward(system, arrays, start, rows, beliefs, blocks)
        law = Gaussian(jnp.zeros_like(last.mean), last.chol)
        roots = jnp.broadcast_to(jnp.eye(NX)[..., None, None], beliefs.chol.shape)
    else:
        last, beliefs, steps = whitened.back(system, arrays, start, rows, blocks)
        law, roots = whitened.end(last), beliefs.chol
    _, laws = smoother.smooth(steps, law, blocks)
    _, draws = smoother.sample(steps, jnp.sum(law.chol * noise[-1][None], axis=1), noise[:-1], blocks)
    P = jnp.einsum("tik...,tjk...->tij...", laws.chol, laws.chol)
    lagged = jnp.einsum("tik...,tkj...->tij...", steps.G[1:], P[1:])
    P = jnp.einsum("tik...,tkl...,tjl...->tij...", roots, P, roots)
    lagged = jnp.einsum("tik...,tkl...,tjl...->tij...", roots[:-1], lagged, roots[1:])
    means, draws = (beliefs.mean + jnp.einsum("tik...,tk...->ti...", roots, a) for a in (laws.mean, draws))
    return means, P, lagged, draws


def one(arrays, ys, dts, reported, s, n):
    """The oracle's arguments for one particle."""
    a = {k: np.asarray(v, float)[..., s, n] for k, v in arrays.items()}
    dts, ys = np.where(reported[:, s], dts[:, s], 0), np.where(reported[:, None, s], ys[..., s], np.nan)
    F = np.eye(NX) + a["F"] * dts[:, None, None]
    chol_Q = np.tril(a["chol_Q"]) * np.sqrt(dts)[:, None, None]
    Q = chol_Q @ np.swapaxes(chol_Q, 1, 2)
    c = a["c"] * dts[:, None]
    return a["m0"], a["chol_P0"] @ a["chol_P0"].T, F, c, Q, a["H"], a["d"], a["chol_R"] @ a["chol_R"].T, ys, dts


def covariance(chol):
    return np.einsum("tik...,tjk...->tij...", chol, chol)


def as_arrays(arrays, dtype=float):
    return {k: jnp.asarray(v, dtype) for k, v in arrays.items()}


@pytest.mark.parametrize("blocks", [1, BLOCKS, 7])
def test_filter_equals_covariance_filter_and_dense_law(blocks):
    arrays, data = battery(), observations()
    last, (beliefs, log_lik) = filtered(as_arrays(arrays), records(*data), blocks)
    cov = covariance(np.asarray(beliefs.chol))
    np.testing.assert_array_equal(last.mean, beliefs.mean[-1])
    for s in range(S):
        for n in range(N):
            args = one(arrays, *data, s, n)
            increments, means, covs = kalman_filter_numpy(*args)
            np.testing.assert_allclose(log_lik[:, s, n], increments, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(beliefs.mean[..., s, n], means, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(cov[..., s, n], covs, atol=1e-10 * np.abs(covs).max())
            np.testing.assert_allclose(log_lik[:, s, n].sum(), dense_smoother(*args)[2], rtol=1e-9)


BOTH = [pytest.param(1, False, marks=pytest.mark.slow), (BLOCKS, False), (1, True)]


@pytest.mark.parametrize(("blocks", "divided"), BOTH)
def test_smoother_equals_dense_law(blocks, divided):
    arrays, data = battery(), observations()
    mean, cov, lagged, _ = smoothed(as_arrays(arrays), records(*data), blocks, jnp.zeros((T + 1, NX, S, N)), divided)
    for s in range(S):
        for n in range(N):
            means, joint, _ = dense_smoother(*one(arrays, *data, s, n))
            scale = np.abs(joint).max()
            t = np.arange(T)
            np.testing.assert_allclose(mean[..., s, n], means, atol=1e-9 * np.abs(means).max())
            np.testing.assert_allclose(cov[..., s, n], joint[t, :, t], atol=1e-9 * scale)
            np.testing.assert_allclose(lagged[..., s, n], joint[t[:-1], :, t[1:]], atol=1e-9 * scale)


@pytest.mark.parametrize("blocks", [pytest.param(1, marks=pytest.mark.slow), BLOCKS])
def test_a_vague_start_costs_no_digits_of_smoothed_states(blocks):
    """sd 1e5 before the first row, 1e-1 after the last one; particle 3 a quadratic trend whose curvature stays."""
    arrays, data = battery(), observations()
    arrays["chol_P0"] = 1e5 * arrays["chol_P0"]
    arrays["F"][..., 3] = np.eye(NX, k=1)[..., None]
    noise = jnp.zeros((T + 1, NX, S, N))
    mean, cov, *_ = (np.asarray(a) for a in smoothed(as_arrays(arrays), records(*data), blocks, noise))
    for s in range(S):
        for n in range(N):
            m0, _, *rest = one(arrays, *data, s, n)
            means, sds = smoother_in_many_digits(m0, arrays["chol_P0"][..., s, n], *rest)
            np.testing.assert_allclose(np.sqrt(np.einsum("tii->ti", cov[..., s, n])), sds, rtol=1e-8, atol=1e-12)
            np.testing.assert_allclose((mean[..., s, n] - means) / np.where(sds > 1e-9, sds, 1), 0, atol=1e-8)


@pytest.mark.parametrize("blocks", [pytest.param(1, marks=pytest.mark.slow), BLOCKS])
def test_draws_have_the_joint_law(blocks):
    """A draw is affine in its noise: the Jacobian times its transpose is the covariance of all states."""
    which, data, size = [0, 2, 5], observations(), (T + 1) * NX
    arrays = {k: np.repeat(v[..., which], size + 1, axis=-1) for k, v in battery().items()}
    noise = np.tile(np.c_[np.zeros(size), np.eye(size)].reshape(T + 1, NX, 1, size + 1), (1, 1, S, len(which)))
    draws = np.asarray(smoothed(as_arrays(arrays), records(*data), blocks, jnp.asarray(noise))[3])
    draws = draws.reshape(T, NX, S, len(which), size + 1)
    for s in range(S):
        for n, particle in enumerate(which):
            mean, joint, _ = dense_smoother(*one(battery(), *data, s, particle))
            here = draws[:, :, s, n]
            np.testing.assert_allclose(here[..., 0], mean, atol=1e-9 * np.abs(mean).max())
            jacobian = (here[..., 1:] - here[..., :1]).reshape(T * NX, size)
            got = (jacobian @ jacobian.T).reshape(joint.shape)
            np.testing.assert_allclose(got, joint, atol=1e-9 * np.abs(joint).max())


def test_exact_observations_are_filtered_row_by_row():
    """Given the state before a block an exact observation has no innovation variance; given the belief it has."""
    arrays, (ys, dts, reported) = battery(), observations()
    arrays["chol_R"][..., 0] = 0
    ys[5:, 0] = np.nan  # two numbers a row of three unknown ones would be one too many
    ys[:5, 1] = np.nan
    dts[1:3] = 0
    ys[1:3] = np.nan
    rows = records(ys, dts, reported)
    one_by_one, blocked = (filtered(as_arrays(arrays), rows, blocks) for blocks in (1, BLOCKS))
    assert np.isfinite(one_by_one[1][1]).all()
    for a, b in zip(jax.tree.leaves(one_by_one), jax.tree.leaves(blocked), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_a_particle_that_is_nan_takes_none_of_the_others_row_by_row():
    """Their numbers stay the same to the last bit, and are those of blocks."""
    rows, arrays = records(*observations()), battery()
    before, one_by_one = (np.asarray(filtered(as_arrays(arrays), rows, blocks)[1][1]) for blocks in (BLOCKS, 1))
    arrays["chol_Q"][..., 0] = np.nan
    after = np.asarray(filtered(as_arrays(arrays), rows, BLOCKS)[1][1])
    assert np.isnan(after[-1, :, 0]).all()
    np.testing.assert_array_equal(after[..., 1:], before[..., 1:])
    assert (before[..., 1:] != one_by_one[..., 1:]).any()


def test_an_explosive_state_without_noise():
    """Given the state before it a block's mean moves with 3^t, beyond all numbers; the filter stays small."""

    def explosive(params, obs):
        del obs
        return System([[params["F"]]], [0.0], [[0.0]], [[1.0]], [0.0], [[1.0]])

    t = 800
    index = jnp.arange(t)[:, None, None]
    rows = Observation(jnp.zeros((t, 1, 1, 1)), jnp.ones((t, 1, 1, 1), bool), (index > 0) * 1.0, index)
    start = Gaussian(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1, 1)))
    params = {"F": jnp.full((1, 1), 3.0)}
    ends = [jax.jit(lambda f=f: f.filter(explosive, params, start, rows, keep)[1][1])() for f in (sequential, parallel)]
    assert np.isfinite(ends[0]).all()
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["F", "chol_Q", "chol_P0", "H", "m0"])
def test_derivatives_equal_finite_differences(name):
    """Along one direction for each matrix; and those of blocks are those of one row after the other."""
    arrays, data = battery(), observations()
    direction = np.random.default_rng(5).standard_normal(arrays[name].shape)
    if name.startswith("chol"):
        direction *= np.tri(NX)[..., None, None]
    tangent = as_arrays({k: direction if k == name else np.zeros_like(v) for k, v in arrays.items()})
    got, other = (derivative(as_arrays(arrays), tangent, records(*data), blocks) for blocks in (BLOCKS, 1))
    np.testing.assert_allclose(got, other, rtol=1e-9, atol=1e-9 * np.abs(other).max())
    h = 1e-6
    for n in range(N):
        moved = ({**arrays, name: arrays[name] + sign * h * direction} for sign in (1, -1))
        up, down = (kalman_filter_numpy(*one(m, *data, 0, n))[0].sum() for m in moved)
        np.testing.assert_allclose(got[0, n], (up - down) / (2 * h), rtol=1e-5, atol=1e-5 + 1e-12 * abs(up) / h)


@functools.partial(jax.jit, static_argnames="blocks")
def derivative(arrays, tangent, rows, blocks):
    """Of the log-likelihood, along a tangent."""
    return jax.jvp(lambda a: jnp.sum(filtered(a, rows, blocks)[1][1], axis=0), (arrays,), (tangent,))[1]


@pytest.mark.slow
def test_reverse_differentiation():
    arrays, rows, tangent = as_arrays(battery()), records(*observations()), as_arrays(battery())
    gradient = jax.jit(jax.grad(lambda a: jnp.sum(filtered(a, rows, BLOCKS)[1][1])))(arrays)
    got = sum(jnp.sum(gradient[k] * tangent[k], axis=tuple(range(tangent[k].ndim - 2))) for k in arrays)
    np.testing.assert_allclose(got, derivative(arrays, tangent, rows, BLOCKS), rtol=1e-9)


def trend(params, obs):
    """Local linear trend."""
    del obs
    sd = params["sd"]
    return System([[1.0, 1.0], [0.0, 1.0]], [0.0, 0.0], [[sd[0], 0.0], [0.0, sd[1]]], [[1.0, 0.0]], [0.0], [[sd[2]]])


def trend_run(t, dtype, blocks, length=None):
    """Filtered likelihoods and smoothed moments of one local linear trend, in one dtype."""
    rng = np.random.default_rng(1)
    sd = np.array([0.3, 0.02, 1.0])
    slope = np.cumsum(sd[1] * rng.standard_normal(t))
    y = np.cumsum(slope + sd[0] * rng.standard_normal(t)) + rng.standard_normal(t)
    y[t // 3 : t // 3 + 5] = np.nan
    seen = ~np.isnan(y)
    index = np.arange(t)
    leaves = (np.where(seen, y, 0).astype(dtype)[:, None], seen[:, None], (index > 0).astype(dtype), index)
    rows = live(Observation(*(jnp.asarray(leaf)[..., None, None] for leaf in leaves)), t if length is None else length)
    params = {"sd": jnp.asarray(sd, dtype)[:, None, None]}
    start = Gaussian(jnp.zeros((2, 1, 1), dtype), 10 * jnp.eye(2, dtype=dtype)[..., None, None])

    @jax.jit
    def everything(params, start, rows):
        last, (beliefs, log_lik) = parallel.filter(trend, params, start, rows, keep, blocks)
        steps = smoother.backward(trend, params, start, rows, beliefs, blocks)
        _, laws = smoother.smooth(steps, Gaussian(jnp.zeros_like(last.mean), last.chol), blocks)
        return log_lik, beliefs.mean + laws.mean, laws.chol

    log_lik, mean, chol = everything(params, start, rows)
    return y, sd, np.asarray(log_lik)[:, 0, 0], np.asarray(mean)[..., 0, 0], covariance(np.asarray(chol))[..., 0, 0]


@pytest.mark.parametrize("blocks", [1, 16])
def test_smoothed_trend_equals_statsmodels(blocks):
    y, sd, log_lik, mean, cov = trend_run(160, np.float64, blocks)
    other = MLEModel(y, k_states=2, k_posdef=2)
    other["design"], other["transition"] = np.array([[1.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 1.0]])
    other["selection"], other["state_cov"] = np.eye(2), np.diag(sd[:2] ** 2)
    other["obs_cov"] = np.array([[sd[2] ** 2]])
    other.ssm.initialize_known(np.zeros(2), 100 * np.eye(2))
    other.ssm.tolerance = 0
    result = other.ssm.smooth()
    np.testing.assert_allclose(log_lik.sum(), result.llf, rtol=1e-10)
    np.testing.assert_allclose(mean, result.smoothed_state.T, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(cov, np.moveaxis(result.smoothed_state_cov, -1, 0), rtol=1e-8)


@pytest.mark.parametrize(
    ("rows", "particles", "here", "elsewhere"),
    [(1000, 1, 32, 64), (1_000_000, 1, 1024, 1 << 15), (10_000, 1024, 128, 32), (4096, 1 << 20, 64, 1), (1, 1, 1, 1)],
)
def test_how_many_blocks(rows, particles, here, elsewhere, monkeypatch):
    """On a CPU as long as they are many; on a GPU as many as it goes through at a time, of 8 rows or more."""
    assert parallel.blocks_for(rows, particles) == here
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert parallel.blocks_for(rows, particles) == elsewhere


def test_rows_past_the_end_are_nothing():
    whole, part = (trend_run(160, np.float64, 16, length) for length in (None, 100))
    np.testing.assert_allclose(part[2][:100], whole[2][:100], rtol=1e-12)
    assert (part[2][100:] == 0).all()
    np.testing.assert_allclose(part[3][100:], part[3][99:100].repeat(60, 0), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [1, 128])
def test_float32_likelihood_of_a_long_trend(blocks):
    """Within 1e-3 nats per 1,000 observations of float64, the increments added up in float64."""
    t = 10_000
    exact = trend_run(t, np.float64, blocks)[2]
    with jax.enable_x64(False):
        rounded = trend_run(t, np.float32, blocks)[2]
    assert rounded.dtype == np.float32
    assert abs(rounded.astype(float).sum() - exact.sum()) < 1e-3 * t / 1000
