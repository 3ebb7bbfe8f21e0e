"""Gaussian processes in time: against closed-form kernels, dense Gaussians, quadrature and finite differences."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy.special import gammaln

from filtering import N, compare
from smcssm import gp
from smcssm import models as m
from smcssm.errors import InputError, ModelError
from smcssm.gp import differences, grid, state
from smcssm.gp.events import events
from smcssm.gp.periodic import harmonics

EXAMPLE = np.loadtxt(Path(__file__).parent / "data" / "smolgp_example.csv", delimiter=",", skiprows=1).T
SDS = np.r_[0.3, 0.02, 1.5]


def matern(p, scale, sigma):
    """Rasmussen & Williams (2006), equation 4.16."""

    def k(lag):
        x = math.sqrt(2 * p + 1) * np.abs(lag) / scale
        terms = (
            np.exp(gammaln(p + i + 1) - gammaln(i + 1) - gammaln(p - i + 1)) * (2 * x) ** (p - i) for i in range(p + 1)
        )
        return sigma**2 * np.exp(-x) * math.factorial(p) / math.factorial(2 * p) * sum(terms)

    return k


def sho(omega, quality, sigma):
    def k(lag):
        x, a, root = omega * np.abs(lag), 0.5 / quality, np.emath.sqrt(1 - 0.25 / quality**2)
        if root == 0:
            return sigma**2 * np.exp(-x) * (1 + x)
        up, down = np.exp((-a + 1j * root) * x), np.exp((-a - 1j * root) * x)
        return sigma**2 * np.real((up + down) / 2 + a * (up - down) / (2j * root))

    return k


def cosine(scale, sigma):
    return lambda lag: sigma**2 * np.cos(2 * np.pi * lag / scale)


def periodic(period, gamma, sigma):
    return lambda lag: sigma**2 * np.exp(-gamma * np.sin(np.pi * lag / period) ** 2)


def celerite(a, b, c, d):
    return lambda lag: np.exp(-c * np.abs(lag)) * (a * np.cos(d * lag) + b * np.sin(d * np.abs(lag)))


def rotation(period, quality, delta, mix, sigma):
    q1, q2 = 0.5 + quality + delta, 0.5 + quality
    w1, w2 = 4 * np.pi * q1 / (period * np.sqrt(4 * q1**2 - 1)), 8 * np.pi * q2 / (period * np.sqrt(4 * q2**2 - 1))
    one, two = sho(w1, q1, sigma / np.sqrt(1 + mix)), sho(w2, q2, sigma * np.sqrt(mix / (1 + mix)))
    return lambda lag: one(lag) + two(lag)


def total(*ks):
    return lambda lag: sum(k(lag) for k in ks)


def product(*ks):
    return lambda lag: math.prod(k(lag) for k in ks)


KERNELS = {
    "exponential": (gp.Exponential(2.0, 1.3), matern(0, 2.0, 1.3)),
    "matern32": (gp.Matern32(2.0, 1.3), matern(1, 2.0, 1.3)),
    "matern52": (gp.Matern52(2.0, 1.3), matern(2, 2.0, 1.3)),
    "matern72": (gp.Matern(3.5, 2.0, 1.3), matern(3, 2.0, 1.3)),
    "oscillating": (gp.SHO(1.7, 3.0, 1.3), sho(1.7, 3.0, 1.3)),
    "ringing": (gp.SHO(1.7, 1e5, 1.3), sho(1.7, 1e5, 1.3)),
    "critical": (gp.SHO(1.7, 0.5, 1.3), sho(1.7, 0.5, 1.3)),
    "creeping": (gp.SHO(1.7, 0.05, 1.3), sho(1.7, 0.05, 1.3)),
    "celerite": (gp.Celerite(1.2, 0.3, 0.4, 0.9), celerite(1.2, 0.3, 0.4, 0.9)),
    "celerite of the other sign": (gp.Celerite(1.2, -0.3, 0.4, 0.9), celerite(1.2, -0.3, 0.4, 0.9)),
    "constant": (gp.Constant(1.3), product(lambda lag: 1.69 + 0 * lag)),
    "cosine": (gp.Cosine(2.7, 1.3), cosine(2.7, 1.3)),
    "periodic": (gp.ExpSineSquared(2.7, 0.5, 1.3, error=1e-12), periodic(2.7, 0.5, 1.3)),
    "quasiperiodic": (
        gp.Quasiperiodic(2.7, 0.3, 4.0, 1.3, error=1e-10),
        product(periodic(2.7, 0.3, 1.0), matern(0, 4.0, 1.3)),
    ),
    "rotation": (gp.Rotation(3.1, 1.4, 0.3, 0.7, 1.3), rotation(3.1, 1.4, 0.3, 0.7, 1.3)),
    "sum": (
        gp.SHO(1.7, 3.0, 1.3) + gp.Matern32(0.3, 0.5) + gp.Constant(2.0),
        total(sho(1.7, 3.0, 1.3), matern(1, 0.3, 0.5), lambda lag: 4.0 + 0 * lag),
    ),
    "product": (gp.SHO(1.7, 3.0, 1.3) * gp.Matern32(2.0, 0.5), product(sho(1.7, 3.0, 1.3), matern(1, 2.0, 0.5))),
    "product with a sum, scaled": (
        2.5 * (gp.Exponential(3.0) * (gp.Cosine(2.0, 0.7) + gp.Matern32(1.0))),
        product(lambda lag: 2.5, matern(0, 3.0, 1.0), total(cosine(2.0, 0.7), matern(1, 1.0, 1.0))),
    ),
}
QUICK = ("matern32", "matern52", "critical", "creeping", "celerite", "sum", "product")
SLOWLY = [pytest.param(k, marks=() if k in QUICK else pytest.mark.slow) for k in KERNELS]


def data(seed=3, n=40, gap=1e6):
    """Out of order; repeated times, steps of 1e-9, a gap of 1e6, missing values, noise of three sizes."""
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.exponential(0.5, n))
    t[3] = t[4] = t[5]
    t[8] = t[7] + 1e-9
    t[9] = t[7] + 3e-9
    t[-6:] += gap
    y = np.sin(t) + rng.standard_normal(n)
    y[[4, 11, 12]] = np.nan
    order = rng.permutation(n)
    return t[order], y[order], SDS[rng.integers(0, 3, n)]


def gap(name):
    """Where nothing is forgotten, times around 1e6 have phases that are known to eight digits only, here and there."""
    return 1e2 if name in ("ringing", "cosine", "periodic") else 1e6


def dense(k, t, y, sd, at):
    """Log-likelihood, mean and variance at ``at``; the prior's law at 0 gives the variance."""
    seen = ~np.isnan(y)
    t, y, sd = t[seen], y[seen], np.broadcast_to(sd, seen.shape)[seen]
    L = np.linalg.cholesky(k(t[:, None] - t) + np.diag(sd**2))
    z = scipy.linalg.solve_triangular(L, y, lower=True)
    B = scipy.linalg.solve_triangular(L, k(t[:, None] - at), lower=True)
    log_lik = -0.5 * z @ z - np.log(np.diag(L)).sum() - 0.5 * len(t) * np.log(2 * np.pi)
    return log_lik, B.T @ z, k(0.0) - np.sum(B * B, axis=0)


@pytest.mark.parametrize("name", KERNELS)
def test_covariance_functions(name):
    kernel, k = KERNELS[name]
    lags = np.r_[0.0, 1e-9, 1e-3, 0.1, 0.7, -3.0, 20.0]
    with jax.enable_x64(True):
        got = np.asarray(kernel.covariance(lags))
    np.testing.assert_allclose(got, k(lags), atol=1e-11 * k(0.0))


def entries(rows):
    return np.array([[float(e) for e in row] for row in rows])


@pytest.mark.parametrize("name", [n for n in KERNELS if "periodic" not in n])
def test_transitions_and_square_roots_of_noise(name):
    """F against expm; the root's product, entry by entry, against quadrature of exp(A s) Qc exp(A s)', of which all
    terms are positive, for short steps, and against P - F P F' for long ones."""
    nodes, weights = np.polynomial.legendre.leggauss(24)
    for block in KERNELS[name][0].blocks():
        with jax.enable_x64(True):
            A, L = entries(block.drift()), entries(block.stationary_root())
            steps = {dt: (entries(block.transition(dt)), np.array(block.noise_root(dt), float)) for dt in DTS}
        P = L @ L.T
        Qc = -(A @ P + P @ A.T)
        assert (np.linalg.eigvalsh(Qc) >= -1e-11 * (1 + abs(Qc).max())).all()
        for dt, (F, root) in steps.items():
            np.testing.assert_allclose(F, scipy.linalg.expm(A * dt), atol=1e-11)
            Q = root @ root.T
            if np.linalg.norm(A, 2) * dt > 1:
                np.testing.assert_allclose(Q, P - F @ P @ F.T, atol=1e-13 * np.trace(P))
                continue
            Fs = [scipy.linalg.expm(A * dt * 0.5 * (1 + x)) for x in nodes]
            want = sum(0.5 * dt * w * F_s @ _as_noise(Qc) @ F_s.T for w, F_s in zip(weights, Fs, strict=True))
            sd = np.sqrt(np.maximum(np.diag(want), 1e-60))
            np.testing.assert_allclose(Q / np.outer(sd, sd), want / np.outer(sd, sd), atol=1e-11)


DTS = (1e-9, 1e-4, 0.01, 0.2, 0.4, 1.0, 3.0, 30.0)


def _as_noise(Qc):
    """Qc without what is rounding: noise enters by few states."""
    return np.where(np.abs(Qc) > 1e-12, Qc, 0.0)


@pytest.mark.parametrize("solver", ["sequential", "parallel"])
def test_the_example_of_smolgp(solver):
    t, y, sd = EXAMPLE
    got = gp.log_probability(gp.SHO(omega=2 * np.pi / 50, quality=5.0, sigma=1.0), t, y, sd, solver=solver)
    assert abs(got - -74.103043012308348) < 1e-11


@pytest.mark.parametrize("name", SLOWLY)
def test_likelihood_equals_the_dense_one(name):
    kernel, k = KERNELS[name]
    t, y, sd = data(gap=gap(name))
    np.testing.assert_allclose(gp.log_probability(kernel, t, y, sd), dense(k, t, y, sd, t)[0], rtol=1e-9)


@pytest.mark.parametrize("name", [pytest.param(k, marks=() if k in QUICK[1:4] else pytest.mark.slow) for k in KERNELS])
def test_posterior_equals_the_dense_one(name):
    kernel, k = KERNELS[name]
    t, y, sd = data(gap=gap(name))
    at = np.r_[
        -50.0,
        -1e-3,
        t.min(),
        np.sort(t)[7] + 1e-9,
        0.5 * (np.sort(t)[7] + 2e-9),
        4.0,
        0.5 * gap(name),
        t.max(),
        t.max() + 2,
    ]
    got = gp.condition(kernel, t, y, sd)
    log_lik, mean, variance = dense(k, t, y, sd, np.r_[at, t])
    predicted = got.predict(at)
    size = np.abs(mean).max()
    np.testing.assert_allclose(got.log_probability, log_lik, rtol=1e-9)
    np.testing.assert_allclose(np.r_[predicted.mean, got.mean], mean, atol=1e-9 * size)
    np.testing.assert_allclose(np.r_[predicted.variance, got.variance], variance, atol=1e-9 * k(0.0))


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["sequential", "parallel"])
@pytest.mark.parametrize("name", KERNELS)
def test_covariances_equal_the_dense_ones(name, solver):
    kernel, k = KERNELS[name]
    t, y, sd = data(gap=gap(name))
    at, seen = np.r_[4.0, -50.0, t.max() + 2, 0.5 * gap(name), 4.0, np.sort(t)[7] + 1e-9, t.min()], ~np.isnan(y)
    gain = np.linalg.inv(k(t[seen, None] - t[seen]) + np.diag(sd[seen] ** 2))
    star = gp.condition(kernel, t, y, sd, solver=solver)
    for given, x in ((star.covariance(at), at), (star.covariance(), t)):
        cross = k(x[:, None] - t[seen])
        np.testing.assert_allclose(given, k(x[:, None] - x) - cross @ gain @ cross.T, atol=1e-9 * k(0.0))


@pytest.mark.parametrize("name", ["critical", pytest.param("sum", marks=pytest.mark.slow)])
def test_blocks_side_by_side_equal_row_by_row(name):
    kernel, at = KERNELS[name][0], np.linspace(-1, 30, 7)
    one, other = (gp.condition(kernel, *data(), solver=solver) for solver in ("sequential", "parallel"))
    assert one.blocks == 1 < other.blocks
    np.testing.assert_allclose(other.log_probability, one.log_probability, rtol=1e-11)
    for a, b in zip(other.predict(at), one.predict(at), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 0])
def test_hardly_any_data(n):
    """One, two, or nothing but a missing value."""
    kernel, k = KERNELS["critical"]
    t, y = np.array([3.0, 1.0])[: max(n, 1)], np.array([0.4, -1.0])[: max(n, 1)] if n else np.array([np.nan])
    got, at = gp.condition(kernel, t, y, 0.2), np.r_[0.0, 2.0, 5.0]
    want = dense(k, t, y, 0.2, at) if n else (0.0, np.zeros(3), np.full(3, k(0.0)))
    for a, b in zip((got.log_probability, *got.predict(at)), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_mean_and_parts():
    """A mean function is subtracted and added again; parts of a sum have the posterior of the dense process."""
    kernel, k = gp.SHO(1.7, 3.0, 1.3) + gp.Exponential(0.4), total(sho(1.7, 3.0, 1.3), matern(0, 0.4, 1.0))
    t, y, sd = data()
    at = np.r_[2.0, 7.0]
    got = gp.condition(kernel, t, y + 3 - 0.1 * t, sd, mean=lambda t: 3 - 0.1 * t)
    np.testing.assert_allclose(got.log_probability, dense(k, t, y, sd, at)[0], rtol=1e-9)
    np.testing.assert_allclose(got.predict(at).mean, dense(k, t, y, sd, at)[1] + 3 - 0.1 * at, rtol=1e-8)
    seen = ~np.isnan(y)
    S, part = k(t[seen, None] - t[seen]) + np.diag(sd[seen] ** 2), sho(1.7, 3.0, 1.3)
    C = part(at[:, None] - t[seen])
    np.testing.assert_allclose(got.predict(at, part=0).mean, C @ np.linalg.solve(S, y[seen]), rtol=1e-7, atol=1e-8)
    want = part(0.0) - np.sum(C * np.linalg.solve(S, C.T).T, axis=1)
    np.testing.assert_allclose(got.predict(at, part=0).variance, want, rtol=1e-8)


def test_outputs_are_combinations_of_derivatives():
    """Matérn 5/2: k(lag) = (1 + s + s²/3) exp(-s), and its derivatives, written out."""
    t, y, sd = data()
    output = np.arange(len(t)) % 3
    coefficients = [(1.0,), (0.5, -0.4), (0.0, 0.0, 0.3)]
    kernel, scale, sigma = gp.Outputs(gp.Matern52(2.0, 1.3), coefficients), 2.0, 1.3
    lag = t[:, None] - t
    rate = math.sqrt(5) / scale
    s = rate * np.abs(lag)
    kept, signs = sigma**2 * np.exp(-s), np.sign(lag)
    ds = [1 + s + s**2 / 3, -(s + s**2) / 3, (s**2 - s - 1) / 3, (3 * s - s**2) / 3, (s**2 - 5 * s + 3) / 3]
    ds = [
        kept * rate**n * d * (signs if n % 2 else 1) for n, d in enumerate(ds)
    ]  # the n-th derivative by t of k(t - t')
    full = np.zeros_like(lag)
    padded = np.array([(*c, 0.0, 0.0)[:3] for c in coefficients])
    for i in range(3):
        for j in range(3):
            full += padded[output, i][:, None] * padded[output, j] * ds[i + j] * (-1) ** j
    seen = ~np.isnan(y)
    S = full[np.ix_(seen, seen)] + np.diag(sd[seen] ** 2)
    want = -0.5 * (y[seen] @ np.linalg.solve(S, y[seen]) + np.linalg.slogdet(S)[1] + seen.sum() * math.log(2 * math.pi))
    got = gp.condition(kernel, t, y, sd, outputs=output)
    np.testing.assert_allclose(got.log_probability, want, rtol=1e-9)
    mean = full[:, seen] @ np.linalg.solve(S, y[seen])
    np.testing.assert_allclose(got.mean, mean, atol=1e-9 * np.abs(mean).max())
    variance = np.diag(full - full[:, seen] @ np.linalg.solve(S, full[seen]))
    np.testing.assert_allclose(got.variance, variance, atol=1e-9 * variance.max())


GRADIENTS = ("exponential", "matern32", "matern52", "oscillating", "critical", "creeping", "celerite", "cosine")
GRADIENTS += ("quasiperiodic", "rotation", "product with a sum, scaled")


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=() if k in ("critical",) else pytest.mark.slow) for k in GRADIENTS]
)
def test_gradients_equal_finite_differences(name):
    """Of every hyperparameter, values and noises; at quality 1/2 as everywhere."""
    kernel = KERNELS[name][0]
    t, y, sd = (a[np.argsort(data()[0])][:34] for a in data())  # before the gap, where differences would be useless
    y = np.nan_to_num(y)
    with jax.enable_x64(True):
        kernel = jax.tree.map(jnp.asarray, kernel)

        def f(kernel, y, sd):
            return gp.log_probability(kernel, t, y, sd)

        given = (kernel, jnp.asarray(y), jnp.asarray(sd))
        leaves, tree = jax.tree.flatten(jax.jit(jax.grad(f, argnums=(0, 1, 2)))(*given))
        at, program = jax.tree.leaves(given), jax.jit(f)
        for i, (leaf, gradient) in enumerate(zip(at, leaves, strict=True)):
            direction = jnp.ones_like(leaf) * (leaf if i < len(at) - 2 else 1)
            if i == len(at) - 1:
                direction = leaf
            h = 2e-4
            far, near = (
                [program(*jax.tree.unflatten(tree, [*at[:i], leaf + n * h * direction, *at[i + 1 :]])) for n in (k, -k)]
                for k in (2, 1)
            )
            slope = (8 * (near[0] - near[1]) - (far[0] - far[1])) / (12 * h)
            np.testing.assert_allclose(jnp.sum(gradient * direction), slope, rtol=2e-5, atol=2e-5)


def in_float32(kernel, t, y, sd, solver):
    with jax.enable_x64(False):
        got = jax.jit(lambda y: gp.log_probability(kernel, t, y, sd, solver=solver))(jnp.asarray(y, jnp.float32))
        assert got.dtype == jnp.float32
    return float(got)


BOTH = [(k, s) for k in ("oscillating", "matern32") for s in ("sequential", "parallel")]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "limit"), [(10_000, 1e-2), (100_000, 5e-2)])
@pytest.mark.parametrize(("name", "solver"), BOTH)
def test_float32_with_julian_dates(name, solver, n, limit):
    rng = np.random.default_rng(0)
    kernel = {"oscillating": gp.SHO(0.4, 3.0, 1.3), "matern32": gp.Matern32(5.0, 1.3)}[name]
    t = 2_460_000.5 + np.cumsum(rng.exponential(0.05, n))
    y = np.asarray(gp.sample(jax.random.key(1), kernel, t))[0] + 0.3 * rng.standard_normal(n)
    assert abs(in_float32(kernel, t, y, 0.3, solver) - gp.log_probability(kernel, t, y, 0.3)) < limit


@pytest.mark.slow
@pytest.mark.parametrize(("name", "solver"), BOTH)
def test_float32_at_short_steps_with_hardly_any_noise(name, solver):
    rng = np.random.default_rng(0)
    kernel, t = KERNELS[name][0], 2_460_000.5 + 1e-3 * np.arange(1000)
    y = np.asarray(gp.sample(jax.random.key(1), kernel, t))[0] + 1e-4 * rng.standard_normal(1000)
    y = np.asarray(y, np.float32).astype(float)  # the same numbers for both
    assert abs(in_float32(kernel, t, y, 1e-4, solver) - gp.log_probability(kernel, t, y, 1e-4)) < 0.1


@pytest.mark.parametrize("states", [2, 9])
def test_square_roots_take_over_where_there_is_hardly_any_noise(states):
    """From differences of covariances too few digits would be left; with many states it is by loops."""
    kernel, k = KERNELS["critical"]
    if states == 9:
        kernel = gp.Matern52(2.0, 1.3) + gp.Matern52(3.0, 0.4) + gp.Matern52(1.0, 0.7)
        k = total(matern(2, 2.0, 1.3), matern(2, 3.0, 0.4), matern(2, 1.0, 0.7))
    t = np.r_[np.arange(6) * 1e-3, 0.002, 4.0]
    y = 1.3 + 1e-4 * np.random.default_rng(0).standard_normal(8)
    y[3] = np.nan
    with jax.enable_x64(True):
        order = np.argsort(t, kind="stable")
        when = events(t[order], 0 * t, 0 * t)
        arrays = jax.tree.map(lambda v: jnp.full((1, 1), v), kernel)
        given = grid.rows(when, y[order], np.full(8, 1e-4), 0 * t, 1)
        assert not jax.jit(differences.log_likelihood)(arrays, given)[1]
    np.testing.assert_allclose(gp.log_probability(kernel, t, y, 1e-4), dense(k, t, y, 1e-4, t)[0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("sd", [1e-4, 1e-9])
def test_gradients_are_those_of_square_roots_where_there_is_hardly_any_noise(sd):
    """What is given up must not leave a NaN behind."""
    t, y = np.r_[np.arange(6) * 1e-3, 0.002, 4.0], 1.3 + 1e-3 * np.arange(8.0)
    t[6] += 5e-4
    with jax.enable_x64(True):
        kernel = jax.tree.map(jnp.asarray, KERNELS["critical"][0])
        found = [
            jax.jit(jax.grad(lambda k, solver=solver: gp.log_probability(k, t, y, sd, solver=solver)))(kernel)
            for solver in ("sequential", "parallel")
        ]
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize("posterior", [False, True])
def test_draws_have_the_joint_law(posterior):
    """The covariance of n draws is within five of its standard errors, sqrt((c_ij² + c_ii c_jj) / n), everywhere."""
    kernel, k = KERNELS["critical"]
    t, y, sd = data()
    at, n = np.r_[3.0, -0.5, 3.0, np.sort(t)[20], 3.4], 4000
    seen = ~np.isnan(y)
    S, C = k(t[seen, None] - t[seen]) + np.diag(sd[seen] ** 2), k(at[:, None] - t[seen])
    mean, cov = np.zeros(len(at)), k(at[:, None] - at)
    if posterior:
        mean, cov = C @ np.linalg.solve(S, y[seen]), cov - C @ np.linalg.solve(S, C.T)
        given = gp.condition(kernel, t, y, sd)
        draws = given.sample(jax.random.key(0), at, n)
        np.testing.assert_allclose(given.covariance(at), cov, atol=1e-9 * k(0.0))
    else:
        draws = gp.sample(jax.random.key(0), kernel, at, n)
    sds = np.sqrt(np.diag(cov))
    assert draws.shape == (n, len(at))
    np.testing.assert_allclose(draws[:, 0], draws[:, 2], rtol=1e-12)
    assert (np.abs(draws.mean(0) - mean) < 5 * sds / math.sqrt(n)).all()
    assert (np.abs(np.cov(draws.T) - cov) < 5 * np.sqrt((cov**2 + np.outer(sds, sds) ** 2) / n)).all()


@pytest.mark.parametrize("gamma", [1e-3, 0.5, 8.0, 100.0])
def test_harmonics_keep_the_stated_error(gamma):
    lags = np.linspace(0, 1, 301)
    for error in (1e-3, 1e-8):
        with jax.enable_x64(True):
            order = harmonics(gamma, error)
            got, fewer = (
                np.asarray(gp.ExpSineSquared(1.0, gamma, order=n).covariance(lags)) for n in (order, max(order - 1, 0))
            )
        wrong = np.abs(got - periodic(1.0, gamma, 1.0)(lags)).max()
        assert wrong <= error + 1e-14
        assert order == 0 or np.abs(fewer - periodic(1.0, gamma, 1.0)(lags)).max() > error


def theta():
    return {"omega": np.array([1.7, 0.3, 5.0]), "q": np.array([0.5, 3.0, 0.2]), "s": np.array([1.3, 0.4, 2.0])}


def test_component_equals_dense_process():
    """By name, plus a level and noise; every particle its own hyperparameters."""
    t, y, sd = (a[np.argsort(data()[0])] for a in data())
    t = np.minimum(t, 1e5 + t % 1e5)  # a shorter gap: a level grows with it
    model = m.GP(gp.SHO("omega", "q", "s") + gp.Matern32(0.7, 0.3)) + m.Level(initial_sd=2.0) + m.Noise()
    assert set(model.names) == {"omega", "q", "s", "sigma_level", "sigma_obs"}
    given = theta() | {"sigma_level": np.full(N, 0.1), "sigma_obs": np.array([0.2, 0.0, 1.0])}

    def oracle(th, y):
        def level(a, b):
            return 4 + th["sigma_level"] ** 2 * (np.minimum(a, b) - t[0])

        k = total(sho(th["omega"], th["q"], th["s"]), matern(1, 0.7, 0.3))
        seen = ~np.isnan(y[:, 0])
        at, v = t[seen], y[seen, 0]
        S = k(at[:, None] - at) + level(at[:, None], at) + np.diag(sd[seen] ** 2 + th["sigma_obs"] ** 2)
        return -0.5 * (v @ np.linalg.solve(S, v) + np.linalg.slogdet(S)[1] + len(at) * math.log(2 * math.pi))

    dt = np.diff(t, prepend=t[0])
    with jax.enable_x64(True):
        compare(model, given, y, oracle, rtol=1e-8, dt=dt, noise_sd=sd[:, None])


def test_component_by_function_and_with_outputs():
    t, y, sd = (a[np.argsort(data()[0])] for a in data())
    output = np.arange(len(t)) % 2
    coefficients = [(1.0,), (0.2, 0.7)]

    def kernel(th):
        return gp.Outputs(gp.SHO(th["omega"], th["q"], 0.5 * th["s"]), coefficients)

    model = m.GP(kernel, ("omega", "q", "s"), name="star")
    assert model.names == ("star_omega", "star_q", "star_s") and model.input_names == ("output",)
    given = {f"star_{k}": v for k, v in theta().items()}

    def oracle(th, y):
        known = gp.Outputs(
            gp.SHO(*(float(th[f"star_{k}"]) * f for k, f in (("omega", 1), ("q", 1), ("s", 0.5)))), coefficients
        )
        return gp.log_probability(known, t, y[:, 0], sd, outputs=output)

    dt = np.diff(t, prepend=t[0])
    with jax.enable_x64(True):
        compare(model, given, y, oracle, dt=dt, noise_sd=sd[:, None], inputs=output[:, None].astype(float))


def test_default_prior_and_support():
    model = m.GP(2.0 * gp.SHO("omega", "quality", "s")) + m.Noise()
    assert set(model.default_prior(3.0).names) == set(model.names)
    good = {"omega": jnp.ones(()), "quality": jnp.ones(()), "s": jnp.ones(()), "sigma_obs": jnp.ones(())}
    assert model.support(good)
    for name in ("omega", "quality", "s"):
        assert not model.support(good | {name: -jnp.ones(())})
    assert hash(model) == hash(m.GP(2.0 * gp.SHO("omega", "quality", "s")) + m.Noise())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gp.SHO(-1.0, 2.0), "omega"),
        (lambda: gp.Matern32(0.0), "scale"),
        (lambda: gp.Matern(2.0, 1.0), "half-integer"),
        (lambda: gp.Celerite(1.0, 1.0, 0.1, 1.0), "covariance"),
        (lambda: gp.ExpSineSquared(1.0, "gamma"), "largest_gamma"),
        (lambda: gp.Outputs(gp.Matern32(1.0), [(0.0, 0.0, 1.0)]), "smoother"),
        (lambda: gp.Outputs(gp.Matern32(1.0), [(1.0,), (1.0,)]) * gp.Matern32(1.0), "product"),
        (lambda: m.GP(lambda theta: gp.Matern32(theta["a"])), "names"),
        (lambda: m.GP(lambda theta: 3.0, ("a",)), "kernel"),
        (lambda: m.GP(gp.Celerite("a", "b", "c", "d")).default_prior(1.0), "prior"),
    ],
)
def test_what_is_no_kernel(make, words):
    with pytest.raises(ModelError, match=words):
        make()


@pytest.mark.parametrize(
    ("args", "options", "words"),
    [
        (([0.0, np.nan], [1.0, 2.0]), {}, "finite"),
        (([0.0, 1.0], [1.0, 2.0, 3.0]), {}, "y:"),
        (([0.0, 1.0], 1.0), {}, "single number"),
        (([0.0, 1.0], [1.0, 2.0], -0.1), {}, "never negative"),
        (([0.0, 1.0], [1.0, 2.0]), {"solver": "fast"}, "solver"),
        (([0.0, 1.0], [1.0, 2.0]), {"outputs": [0, 1]}, "outputs"),
    ],
)
def test_what_are_no_data(args, options, words):
    with pytest.raises(InputError, match=words):
        gp.log_probability(gp.Matern32(1.0), *args, **options)


def test_names_and_traced_times_need_a_number():
    with pytest.raises(InputError, match="number is needed"):
        gp.log_probability(gp.Matern32("scale"), [0.0], [1.0])
    with pytest.raises(InputError, match="close over"):
        jax.jit(lambda t: gp.log_probability(gp.Matern32(1.0), t, [1.0]))(jnp.zeros(1))


def test_impossible_hyperparameters_are_impossible():
    f = jax.jit(lambda scale: gp.log_probability(gp.Matern32(scale), [0.0, 1.0, 3.0, 4.0], [1.0, 2.0, 0.0, 1.0], 0.1))
    assert f(-1.0) == -jnp.inf and jnp.isfinite(f(1.0)) and jnp.isnan(f(jnp.nan))


def test_blocks_of_a_sum_stay_apart():
    kernel = gp.Matern32(1.0) + gp.SHO(1.0, 2.0) * (gp.Constant(1.0) + gp.Exponential(1.0))
    F, _ = state.transition(kernel, jnp.ones(()))
    known = [[isinstance(e, float) and e == 0.0 for e in row] for row in F]
    blocks = scipy.linalg.block_diag(*[np.ones((2, 2))] * 3) == 0
    np.testing.assert_array_equal(np.array(known) | ~blocks, np.ones((6, 6), bool))
