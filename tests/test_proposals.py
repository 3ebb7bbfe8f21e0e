"""Proposals: normalised densities, draws that follow them, two modes found where there are two, and wide fits.

And, through an engine, a posterior with two modes whose masses and evidence a quadrature knows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

import smcssm as ss
from smcssm.priors import FromFunctions
from smcssm.smc2.proposals import Mixture, RandomWalk, RandomWalkWithinModes
from smcssm.smc2.proposals.mixture import within_modes
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


@pytest.mark.slow
def test_densities_integrate_to_one():
    x = np.sinh(np.linspace(-10, 10, 4001))
    density = np.exp(density_at(fit(one_mode(1, 300)), x[None]))
    assert np.trapezoid(density, x) == pytest.approx(1.0, abs=1e-4)
    side = np.sinh(np.linspace(-7, 7, 401))  # heavy tails: a grid that is fine at 0 and goes far
    grid = np.stack([a.ravel() for a in np.meshgrid(side, side, indexing="ij")])
    density = np.exp(density_at(fit(two_modes(500)), grid)).reshape(401, 401)
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


def test_draws_have_the_mean_and_covariance_of_the_components():
    proposal = Mixture(defence=1e-9)  # the wide one's fourth moments are infinite
    z = jnp.asarray(two_modes(400))
    tuning = proposal.fit(z, jnp.zeros(400), jnp.zeros(2), jnp.ones(2))
    draws = np.asarray(proposal.propose(jax.random.key(2), tuning, jnp.zeros((2, 20_000))))
    share, mean, chol = np.exp(tuning.log_share[:2]), np.asarray(tuning.mean[:2]), np.asarray(tuning.chol[:2])
    centre = share @ mean
    each = 5 / 3 * chol @ chol.transpose(0, 2, 1) + (mean - centre)[:, :, None] * (mean - centre)[:, None]
    away = draws - centre[:, None]
    products = away[:, None] * away
    for got, expected in ((away, 0.0), (products, np.tensordot(share, each, 1))):
        standard_error = got.std(axis=-1) / 20_000**0.5
        assert np.all(np.abs(got.mean(axis=-1) - expected) <= 4 * standard_error)


@pytest.mark.parametrize("d", [1, 2, pytest.param(10, marks=pytest.mark.slow), 20])
def test_draws_are_importance_samples_with_the_right_constant(d):
    z = one_mode(d, 1000)
    tuning, narrow = fit(z), stats.multivariate_normal(z.mean(axis=1), 0.5 * np.atleast_2d(np.cov(z)))
    draws = PROPOSAL.propose(jax.random.key(3), tuning, jnp.zeros((d, 20_000)))
    ratio = np.exp(narrow.logpdf(draws.T) - density_at(tuning, draws))
    assert abs(ratio.mean() - 1) <= 4 * ratio.std() / 20_000**0.5


@pytest.mark.parametrize("d", [1, 2, 10, 20])
def test_one_mode_needs_one_component_and_is_covered(d):
    z = one_mode(d, 1000)
    tuning = fit(z)
    assert np.exp(tuning.log_share[1]) < 1e-6
    covariance = np.asarray(tuning.chol[0] @ tuning.chol[0].T)
    assert np.linalg.eigvals(np.linalg.solve(np.atleast_2d(np.cov(z)), covariance)).real.min() > 0.4
    assert np.isfinite(density_at(tuning, z)).all()


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


@pytest.mark.slow
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


def test_covariance_within_modes():
    rng = np.random.default_rng(6)
    inside = np.array([[0.02, 0.0], [0.05, 0.3]]) @ rng.normal(size=(2, 1000))
    apart = inside + np.where(rng.uniform(size=1000) < 0.2, [[-2.0], [0.5]], [[2.0], [0.0]])
    for z, accuracy in ((inside, 1e-6), (apart, 0.02)):
        points = jnp.asarray(z), jnp.zeros(1000), jnp.zeros(2), jnp.ones(2)
        chol = within_modes(*points)
        np.testing.assert_allclose(RandomWalkWithinModes(1.0).fit(*points) * 2**0.5, chol)
        standard = np.linalg.solve(chol, inside - inside.mean(axis=1, keepdims=True))
        np.testing.assert_allclose(np.cov(standard, bias=True), np.eye(2), atol=accuracy)


@pytest.mark.parametrize("share", [0.07, 0.93])
def test_a_small_mode_is_found_along_a_diagonal(share):
    rng = np.random.default_rng(3)
    upper = rng.uniform(size=1000) < share
    tuning = fit(rng.normal(size=(2, 1000)) + np.where(upper, 6.0, 0.0))
    small = np.min(np.exp(np.asarray(tuning.log_share[:2])))
    assert small == pytest.approx(0.95 * min(np.mean(upper), 1 - np.mean(upper)), abs=0.02)


def test_a_component_never_collapses():
    rng = np.random.default_rng(4)
    z = rng.normal(size=(2, 1000))
    z[:, :300] = [[5.0], [5.0]] + 1e-9 * rng.normal(size=(2, 300))
    tuning = fit(z)
    least = np.linalg.eigvalsh(np.asarray(tuning.chol[:2] @ jnp.swapaxes(tuning.chol[:2], 1, 2))).min()
    assert least >= 0.9e-3 * np.linalg.eigvalsh(np.cov(z)).min()


def test_few_distinct_particles_leave_it_at_one_component():
    z = np.repeat(two_modes(30), 30, axis=1)  # 900 particles, but fewer distinct ones than 20 for each dimension
    assert np.isneginf(fit(z).log_share[1])


def test_a_vague_prior_does_not_drown_what_particles_tell():
    z = one_mode(2, 300)
    for a, b in zip(fit(z, scale=1e8), fit(z), strict=True):
        np.testing.assert_allclose(a[:2], b[:2], rtol=1e-9)


def test_one_surviving_particle_leaves_the_scale_of_the_prior():
    tuning = fit(np.ones((2, 300)), scale=2.0)
    assert np.all(np.diag(np.asarray(tuning.chol[0])) >= 2.0)


def test_it_is_deterministic():
    z = two_modes(300)
    for x, y in zip(fit(z), fit(z), strict=True):
        np.testing.assert_array_equal(x, y)


def mean_is_a_square(theta):
    return dict(m0=[theta["root"] ** 2], chol_P0=[[0.0]], F=[[1.0]], H=[[1.0]], chol_R=[[1.0]])


def test_a_posterior_with_two_modes_has_their_masses_and_the_evidence():
    prior = FromFunctions(
        ("root",),
        lambda key, n: {"root": 0.3 + jax.random.normal(key, (n,))},
        lambda theta: jax.scipy.stats.norm.logpdf(theta["root"], 0.3, 1.0),
    )
    y = 1.4 + np.random.default_rng(8).normal(size=60)
    root = np.linspace(-6, 6, 60_001)
    log_joint = stats.norm.logpdf(root, 0.3, 1.0) + stats.norm.logpdf(y[:, None], root**2, 1.0).sum(axis=0)
    log_evidence = logsumexp(log_joint) + np.log(root[1] - root[0])
    w = np.exp(log_joint - logsumexp(log_joint))
    engine = ss.Engine(ss.models.LinearGaussian(mean_is_a_square, ("root",)), prior, n_particles=1000, runs=8, seed=2)
    infos = engine.update(y)
    snapshot = engine.snapshot()
    mass = np.sum(snapshot.weights() * (snapshot.theta()["root"] > 0), axis=-1)
    for estimates, truth in ((mass, w[root > 0].sum()), (snapshot.log_evidence(), log_evidence)):
        assert abs(np.mean(estimates) - truth) <= 4 * np.std(estimates, ddof=1) / 8**0.5
    assert infos.acceptance[infos.moved][-1] > 0.6
