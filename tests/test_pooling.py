"""The prior that series have in common, found again from their posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smcssm as ss
from smcssm.fleets.pooling import Pooled, most_probable


def test_the_law_of_normal_means_is_that_of_maximum_likelihood():
    """z_s ~ N(m, C), y_s ~ N(z_s, 0.3^2 I): most probable are the mean of y and its covariance less 0.09 I."""
    rng, n_series, n, sd0, noise = np.random.default_rng(0), 300, 400, 3.0, 0.3
    chol = np.asarray([[0.5, 0.0], [0.3, 0.4]])
    truth = np.asarray([1.0, -2.0])[:, None] + chol @ rng.normal(size=(2, n_series))
    y = truth + noise * rng.normal(size=truth.shape)
    shrink = sd0**2 / (sd0**2 + noise**2)
    z = shrink * y[..., None] + np.sqrt(shrink) * noise * rng.normal(size=(2, n_series, n))
    density = -0.5 * np.sum(z**2, axis=0) / sd0**2
    log_weight = np.where(np.arange(n) % 9 == 4, -np.inf, 0.0) + np.zeros((n_series, 1))
    z[:, log_weight == -np.inf] = 50.0
    mean, cov = most_probable(z, log_weight, density)
    np.testing.assert_allclose(mean, y.mean(axis=1), atol=0.01)
    np.testing.assert_allclose(cov, np.cov(y, bias=True) - noise**2 * np.eye(2), atol=0.01)


def test_a_pooled_prior_is_a_prior():
    base = ss.models.LocalLevel().default_prior(1.0)
    prior = Pooled(base, (0.5, -1.0), ((0.7, 0.0), (0.2, 0.3)))
    assert hash(prior) == hash(Pooled(base, (0.5, -1.0), ((0.7, 0.0), (0.2, 0.3))))
    with jax.enable_x64(True):
        z, log_weight = prior.sample(jax.random.key(0), 20_000)
        np.testing.assert_allclose(np.cov(z), [[0.49, 0.14], [0.14, 0.13]], atol=0.02)
        assert not log_weight.any()
        off = np.asarray([0.1, 0.4]) - np.asarray(prior.mean)
        cov = np.asarray([[0.49, 0.14], [0.14, 0.13]])
        exact = -0.5 * off @ np.linalg.solve(cov, off) - 0.5 * np.log(np.linalg.det(2 * np.pi * cov))
        assert float(prior.log_prob(jnp.asarray([0.1, 0.4]))) == pytest.approx(exact, rel=1e-12)
        theta = prior.constrain(jnp.asarray([0.1, 0.4]))
        np.testing.assert_allclose(prior.unconstrain(theta), [0.1, 0.4])
