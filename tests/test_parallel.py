"""Blocks side by side against one row after the other and the dense joint law; smoothing likewise, in any rank."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from statsmodels.tsa.statespace.mlemodel import MLEModel

from oracles import dense_smoother, kalman_filter_numpy
from smcssm.core import Observation, System
from smcssm.gaussian import Gaussian
from smcssm.kalman import live, parallel, sequential, smoother
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
    """Particle 0 ordinary; P0 = 0; P0 of rank one, its first state known; Q = 0; Q of rank one; both of rank one."""
    arrays = population(NX, NY, N, s=S)
    arrays["F"] *= 0.3
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


@functools.partial(jax.jit, static_argnames="blocks")
def smoothed(arrays, rows, blocks, noise):
    """Means and factors given everything, lag-one covariances, and a draw."""
    start = Gaussian(arrays["m0"], arrays["chol_P0"])
    last, (beliefs, _) = filtered(arrays, rows, 1)
    steps = smoother.backward(system, arrays, start, rows, beliefs, blocks)
    _, laws = smoother.smooth(steps, Gaussian(jnp.zeros_like(last.mean), last.chol), blocks)
    end = jnp.sum(last.chol * noise[-1][None], axis=1)
    _, draws = smoother.sample(steps, end, noise[:-1], blocks)
    P = jnp.einsum("tik...,tjk...->tij...", laws.chol, laws.chol)
    lagged = jnp.einsum("tik...,tkj...->tij...", steps.G[1:], P[1:])
    return beliefs.mean + laws.mean, P, lagged, beliefs.mean + draws


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


@pytest.mark.parametrize("blocks", [1, BLOCKS])
def test_smoother_equals_dense_law(blocks):
    arrays, data = battery(), observations()
    mean, cov, lagged, _ = smoothed(as_arrays(arrays), records(*data), blocks, jnp.zeros((T + 1, NX, S, N)))
    for s in range(S):
        for n in range(N):
            means, joint, _ = dense_smoother(*one(arrays, *data, s, n))
            scale = np.abs(joint).max()
            t = np.arange(T)
            np.testing.assert_allclose(mean[..., s, n], means, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(cov[..., s, n], joint[t, :, t], atol=1e-9 * scale)
            np.testing.assert_allclose(lagged[..., s, n], joint[t[:-1], :, t[1:]], atol=1e-9 * scale)
