"""Averages over exposures: against double integrals of the kernel, in all at once and online."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.polynomial.legendre import leggauss

from smcssm import gp
from smcssm.errors import InputError
from smcssm.gp.exposure import averaged
from test_gp import KERNELS, entries, matern, sho, total

NODES, WEIGHTS = leggauss(80)
MIXED = gp.SHO(1.7, 0.7, 1.3) + gp.Matern32(2.0, 0.5) + gp.Constant(0.4)
MIXED_K = total(sho(1.7, 0.7, 1.3), matern(1, 2.0, 0.5), lambda lag: 0.16 + 0 * lag)


def once(k, lag):
    """int_0^lag k."""
    lag = np.asarray(lag, float)[..., None]
    return np.sum(0.5 * lag * WEIGHTS * k(0.5 * lag * (1 + NODES)), axis=-1)


def twice(k, lag):
    """G with G'' = k, G(0) = G'(0) = 0: int_0^|lag| (|lag| - u) k(u) du."""
    lag = np.abs(np.asarray(lag, float))[..., None]
    return np.sum(0.5 * lag * WEIGHTS * k(0.5 * lag * (1 + NODES)) * 0.5 * lag * (1 - NODES), axis=-1)


def covariance(k, ends, exposure, at, others):
    """Between averages over (end - exposure, end], an exposure of 0 being the value itself."""
    b, d, c, e = ends[:, None], exposure[:, None], at[None], others[None]
    long, longs = np.where(d > 0, d, 1), np.where(e > 0, e, 1)
    both = (twice(k, b - c + e) - twice(k, b - c) - twice(k, b - d - c + e) + twice(k, b - d - c)) / (long * longs)
    left, right = (once(k, b - c) - once(k, b - d - c)) / long, (once(k, c - b) - once(k, c - e - b)) / longs
    return np.where(d > 0, np.where(e > 0, both, left), np.where(e > 0, right, k(b - c)))


def dense(k, t, y, sd, exposure, at):
    """Log-likelihood, mean and variance of the process at ``at``."""
    seen = ~np.isnan(y)
    t, y, sd, exposure = t[seen], y[seen], np.broadcast_to(sd, seen.shape)[seen], exposure[seen]
    L = np.linalg.cholesky(covariance(k, t, exposure, t, exposure) + np.diag(sd**2))
    z = scipy.linalg.solve_triangular(L, y, lower=True)
    B = scipy.linalg.solve_triangular(L, covariance(k, t, exposure, at, 0 * at), lower=True)
    log_lik = -0.5 * z @ z - np.log(np.diag(L)).sum() - 0.5 * len(t) * np.log(2 * np.pi)
    return log_lik, B.T @ z, k(0.0) - np.sum(B * B, axis=0)


def data():
    """Out of order; up to three exposures at once, some back to back, some of length zero, also the first and last."""
    rng = np.random.default_rng(5)
    t = np.cumsum(rng.exponential(0.4, 30))
    exposure = rng.choice([0.0, 0.3, 1.1], 30)
    exposure[[0, 29]] = 0.0
    t[8] = t[7] + 0.3
    exposure[8] = 0.3  # starts where another ends
    t[12] = t[11]
    y = np.sin(t) + rng.standard_normal(30)
    y[[4, 20]] = np.nan
    order = rng.permutation(30)
    return t[order], y[order], np.r_[0.3, 0.05][rng.integers(0, 2, 30)], exposure[order]


AT = np.r_[-2.0, 0.0, 0.9, 2.2, 2.21, 5.0, 9.3, 14.0]


@pytest.mark.parametrize("solver", ["sequential", "parallel"])
def test_averages_of_a_sum_equal_the_dense_process(solver):
    t, y, sd, exposure = data()
    at = np.r_[AT, t.min(), t.max(), t[3], t[3] - 0.5 * exposure[3]]
    got = gp.condition(MIXED, t, y, sd, exposure=exposure, solver=solver)
    log_lik, mean, variance = dense(MIXED_K, t, y, sd, exposure, np.r_[at, t])
    predicted = got.predict(at)
    assert len(got.events.slots.T) == 4 * 4
    np.testing.assert_allclose(got.log_probability, log_lik, rtol=1e-10)
    np.testing.assert_allclose(np.r_[predicted.mean, got.mean], mean, atol=1e-9)
    np.testing.assert_allclose(np.r_[predicted.variance, got.variance], variance, atol=1e-9)
