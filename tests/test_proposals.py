"""Proposals: normalised densities, draws that follow them, two modes found where there are two, and wide fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from smcssm.smc2.proposals import Mixture, RandomWalk
from smcssm.smc2.proposals.points import clean

pytestmark = pytest.mark.usefixtures("x64")
PROPOSAL = Mixture()


def fit(z, log_weight=None, scale=3.0):
    z = jnp.asarray(z)
    log_weight = jnp.zeros(z.shape[1]) if log_weight is None else jnp.asarray(log_weight)
    return PROPOSAL.fit(z, log_weight, jnp.zeros(len(z)), jnp.full(len(z), scale))


def one_mode(d, n, seed=0):
    rng = np.random.default_rng(seed)
    A = np.tril(rng.normal(size=(d, d)), -1) * 0.3 + np.eye(d)
    return A @ rng.normal(size=(d, n))


def two_modes(n, share=0.3, seed=0):
    rng = np.random.default_rng(seed)
    left = rng.uniform(size=n) < share
    return np.stack([np.where(left, -4.0, 3.0) + 0.5 * rng.normal(size=n), rng.normal(size=n)])


def density_at(tuning, z):
    return np.asarray(PROPOSAL.log_density(tuning, jnp.asarray(z), jnp.asarray(z)))


def test_densities_integrate_to_one():
    x = np.linspace(-400, 400, 400_001)
    density = np.exp(density_at(fit(one_mode(1, 300)), x[None]))
    assert np.trapezoid(density, x) == pytest.approx(1.0, abs=1e-4)
    side = np.sinh(np.linspace(-7, 7, 801))  # heavy tails: a grid that is fine at 0 and goes far
    grid = np.stack([a.ravel() for a in np.meshgrid(side, side, indexing="ij")])
    density = np.exp(density_at(fit(two_modes(500)), grid)).reshape(801, 801)
    assert np.trapezoid(np.trapezoid(density, side), side) == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize("z", [one_mode(2, 400), two_modes(400)], ids=["one", "two"])
def test_draws_follow_the_density(z):
    tuning = fit(z)
    draws = PROPOSAL.propose(jax.random.key(1), tuning, jnp.zeros((2, 20_000)))
    x = np.sinh(np.linspace(-8, 8, 4001))
    marginal = sum(
        np.exp(share) * stats.t(nu, mean[0], np.sqrt((chol @ chol.T)[0, 0])).cdf(x)
        for share, mean, chol, nu in zip(*map(np.asarray, tuning), (5, 5, 3), strict=True)
    )
    assert stats.kstest(draws[0], lambda v: np.interp(v, x, marginal)).pvalue > 1e-3


@pytest.mark.parametrize("d", [1, 2, 10, 20])
def test_one_mode_needs_one_component_and_is_covered(d):
    z = one_mode(d, 1000)
    tuning = fit(z)
    assert np.exp(tuning.log_share[1]) < 1e-6
    covariance = np.asarray(tuning.chol[0] @ tuning.chol[0].T)
    assert np.linalg.eigvals(np.linalg.solve(np.atleast_2d(np.cov(z)), covariance)).real.min() > 0.4
    assert np.isfinite(PROPOSAL.log_density(tuning, jnp.asarray(z), jnp.asarray(z))).all()


def test_two_modes_have_their_shares():
    tuning = fit(two_modes(1000))
    order = np.argsort(tuning.mean[:2, 0])
    np.testing.assert_allclose(np.asarray(tuning.mean)[order, 0], [-4.0, 3.0], atol=0.15)
    np.testing.assert_allclose(np.exp(np.asarray(tuning.log_share)[order]), [0.95 * 0.3, 0.95 * 0.7], atol=0.04)


def test_copies_tell_nothing_new():
    few = one_mode(2, 8)
    points = clean(jnp.asarray(np.repeat(few, 50, axis=1)), jnp.zeros(400), jnp.zeros(2), jnp.full(2, 3.0))
    assert points.effective == pytest.approx(8.0)
    wide = fit(np.repeat(few, 50, axis=1))
    narrow = fit(np.repeat(few, 50, axis=1) + 1e-9 * np.random.default_rng(0).normal(size=(2, 400)))
    assert np.linalg.det(np.asarray(wide.chol[0])) > 1.3 * np.linalg.det(np.asarray(narrow.chol[0]))


def test_weights_on_a_few_particles_are_flattened_and_dead_ones_left_out():
    z = one_mode(2, 1000)
    log_weight = -0.5 * ((z - 3.0) ** 2).sum(axis=0) * 40  # nearly all on one particle
    points = clean(jnp.asarray(z), jnp.asarray(log_weight), jnp.zeros(2), jnp.full(2, 3.0))
    assert 1 / np.sum(np.asarray(points.weight) ** 2) >= 19.9
    poisoned, dead = z.copy(), np.zeros(1000)
    poisoned[:, :200], dead[:200] = np.nan, -np.inf
    a, b = fit(poisoned, dead), fit(z[:, 200:])
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [np.inf, np.nan, 0.0])
def test_odd_priors_do_no_harm(scale):
    tuning = fit(one_mode(2, 300), scale=scale)
    assert all(np.isfinite(leaf).all() for leaf in tuning[1:])


def test_mapped_over_series_it_is_the_same():
    both = jnp.stack([jnp.asarray(one_mode(2, 300)), jnp.asarray(two_modes(300))])
    zero, one = jnp.zeros((2, 2)), jnp.ones((2, 2))
    mapped = jax.vmap(PROPOSAL.fit)(both, jnp.zeros((2, 300)), zero, one)
    for i in range(2):
        alone = PROPOSAL.fit(both[i], jnp.zeros(300), zero[i], one[i])
        for x, y in zip(alone, mapped, strict=True):
            np.testing.assert_allclose(x, y[i], rtol=1e-8, atol=1e-10)


def test_a_random_walk_has_the_shape_of_the_population():
    z = jnp.asarray(one_mode(3, 2000))
    chol = RandomWalk().fit(z, jnp.zeros(2000), jnp.zeros(3), jnp.ones(3))
    np.testing.assert_allclose(chol @ chol.T, 2.38**2 / 3 * np.cov(z, bias=True), rtol=1e-6)
