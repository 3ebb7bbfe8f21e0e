"""Averages over exposures: against double integrals of the kernel, in all at once and online."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.polynomial.legendre import leggauss

import smcssm as ss
from filtering import compare
from smcssm import gp
from smcssm import models as m
from smcssm.errors import InputError
from smcssm.gp.events import lengths
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
    """Out of order; two exposures at once, some back to back, some of length zero, also the first and the last."""
    rng = np.random.default_rng(5)
    t = np.cumsum(rng.uniform(0.2, 0.6, 30))
    exposure = rng.choice([0.0, 0.2, 0.4], 30)
    exposure[[0, 29]] = 0.0
    exposure[8] = t[8] - t[7]  # starts where another ends
    t[12], exposure[12] = t[11], 0.7
    y = np.sin(t) + rng.standard_normal(30)
    y[[4, 20]] = np.nan
    order = rng.permutation(30)
    return t[order], y[order], np.r_[0.3, 0.05][rng.integers(0, 2, 30)], exposure[order]


AT = np.r_[-2.0, 0.0, 0.9, 2.2, 2.21, 5.0, 9.3, 14.0]


SLOW = pytest.mark.slow
CASES = [
    pytest.param("critical", "sequential", marks=SLOW),
    pytest.param("critical", "parallel", marks=SLOW),
    pytest.param("mixed", "sequential", marks=SLOW),
]


@pytest.mark.parametrize(("name", "solver"), CASES)
def test_the_posterior_equals_that_of_the_dense_process(name, solver):
    kernel, k = (MIXED, MIXED_K) if name == "mixed" else KERNELS[name]
    t, y, sd, exposure = data()
    at = np.r_[AT, t.min(), t.max(), t[3], t[3] - 0.5 * exposure[3]]
    got = gp.condition(kernel, t, y, sd, exposure=exposure, solver=solver)
    log_lik, mean, variance = dense(k, t, y, sd, exposure, np.r_[at, t])
    predicted = got.predict(at)
    assert len(got.events.slots.T) == 2 * 4
    np.testing.assert_allclose(got.log_probability, log_lik, rtol=1e-10)
    np.testing.assert_allclose(np.r_[predicted.mean, got.mean], mean, atol=1e-9)
    np.testing.assert_allclose(np.r_[predicted.variance, got.variance], variance, atol=1e-9)


def stream():
    """In order of time, without overlaps: gaps and none, exposures of no length among them, one after another."""
    dt = np.r_[0.5, 0.3, 2.0, 0.3, 1e-3, 1.0, 0.7, 4.0, 0.0]
    exposure = np.r_[0.5, 0.3, 0.4, 0.0, 1e-3, 1.0, 0.2, 2.5, 0.0]
    y = np.sin(np.arange(9.0))
    y[[3, 6]] = np.nan
    return np.cumsum(dt), exposure, y


KERNEL = gp.SHO("omega", "q", "s") + gp.Matern32(2.0, 0.5) + gp.Constant(0.4)


def test_averages_online_equal_those_of_all_at_once():
    t, exposure, y = stream()
    model = m.GP(KERNEL, exposure=True)
    assert model.averages and model.state_names[-1] == "gp_average" and not m.GP(KERNEL).averages
    given = {"omega": np.array([1.7, 0.3, 5.0]), "q": np.array([0.5, 3.0, 0.2]), "s": np.array([1.3, 0.4, 2.0])}

    def oracle(th, y):
        k = total(sho(*(th[name] for name in ("omega", "q", "s"))), matern(1, 2.0, 0.5), lambda lag: 0.16 + 0 * lag)
        return dense(k, t, y[:, 0], 0.2, exposure, AT)[0]

    dt = np.diff(t, prepend=0.0)
    with jax.enable_x64(True):
        compare(model, given, y, oracle, dt=dt, noise_sd=np.full((9, 1), 0.2), exposure=exposure[:, None])


def flat(theta):
    return 0.0 * theta["s"]


@pytest.mark.slow
def test_an_engine_takes_exposures():
    """Of one known process: the evidence is the likelihood; what overlaps is refused, and nothing has happened then."""
    t, exposure, y = stream()
    known = gp.SHO(1.7, 0.7, 1.3)
    unknown = gp.SHO(1.7, 0.7, "s")
    prior = ss.priors.FromFunctions(("s",), lambda key, n: {"s": jnp.full(n, 1.3)}, flat)
    engine = ss.Engine(m.GP(unknown, exposure=True), prior, n_particles=8)
    engine.update(y, time=t, noise_sd=0.2, exposure=exposure)
    want = gp.log_probability(known, t, y, 0.2, exposure=exposure)
    np.testing.assert_allclose(engine.log_evidence, want, rtol=1e-10)
    with pytest.raises(InputError, match=r"average over the last 2, .* 1 earlier.*must not overlap"):
        engine.step(0.1, time=t[-1] + 1, noise_sd=0.2, exposure=2.0)
    assert engine.t == 9
    ahead = engine.forecast(times=[t[-1] + 1.0], noise_sd=[0.2], exposure=[0.8])
    later = gp.condition(known, t, y, 0.2, exposure=exposure)
    assert 0.2 < float(ahead["sd"][0, 0]) < float(np.hypot(later.predict([t[-1] + 1.0]).sd[0], 0.2))
    between = np.array([t[0], t[1] - exposure[1], t[-1] + 1.0])  # the first exposure started the clock before t[0]
    found = engine.forecast(times=between, noise_sd=np.full(3, 0.2), exposure=np.zeros(3))
    np.testing.assert_allclose(found["mean"][:, 0], later.predict(between).mean, rtol=1e-8)
    np.testing.assert_allclose(found["sd"][:, 0], np.hypot(later.predict(between).sd, 0.2), rtol=1e-8)
    for at, lasts, message in ((t[1] - 0.5 * exposure[1], 0.0, "within the exposure"), (t[1], 9.0, "the last 9, but")):
        with pytest.raises(InputError, match=message):
            engine.forecast(times=[at], noise_sd=[0.2], exposure=[lasts])
    with pytest.raises(InputError, match="exposure=True"):
        ss.Engine(m.GP(unknown), prior, n_particles=8).step(0.1, time=0.0, exposure=1.0)


@pytest.mark.parametrize("name", [k for k in KERNELS if "per" not in k])
@pytest.mark.slow
def test_averages_and_their_noise_equal_quadrature(name):
    """Entry by entry, relative to the standard deviations, for short stretches as for long ones."""
    steps = np.r_[1e-9, 1e-3, 0.1, 1.0, 5.0]
    for block in KERNELS[name][0].blocks():
        with jax.enable_x64(True):
            A, h, B = entries(block.drift()), entries([block.row()])[0], entries(block.diffusion())
            block = jax.tree.map(lambda v: jnp.full((1, 1), v), block)
            made = jax.jit(lambda dt, block=block: averaged(block, dt, [block.row()]))(jnp.asarray(steps)[:, None])
            G, U = (np.array([[np.broadcast_to(e, (5, 1))[:, 0] for e in row] for row in M]) for M in made)
        n = len(A)
        both, driven = np.block([[A, np.zeros((n, 1))], [h, 0.0]]), np.vstack([B, np.zeros((1, B.shape[1]))])
        for i, dt in enumerate(steps):
            per = np.diag([*np.ones(n), 1 / dt])
            np.testing.assert_allclose(G[0, :, i], (per @ scipy.linalg.expm(both * dt))[n, :n], atol=1e-13)
            if not U.size:
                continue
            at = np.concatenate([dt * (p + 0.5 * (1 + NODES)) / 10 for p in range(10)])
            roots = [per @ scipy.linalg.expm(both * s) @ driven for s in at]
            want = sum(0.05 * dt * w * M @ M.T for w, M in zip(np.tile(WEIGHTS, 10), roots, strict=True))
            sd = np.sqrt(np.diag(want))
            got = U[..., i] @ U[..., i].T
            np.testing.assert_allclose(got / np.outer(sd, sd), want / np.outer(sd, sd), atol=1e-10)


@pytest.mark.slow
def test_gradients_equal_finite_differences():
    t, y, sd, exposure = data()
    with jax.enable_x64(True):
        f = jax.jit(lambda v: gp.log_probability(gp.SHO(v[0], v[1], v[2]), t, y, sd, exposure=exposure))
        at = jnp.asarray([1.7, 0.5, 1.3])
        gradient = jax.jit(jax.grad(f))(at)
        differences = [(f(at + 1e-5 * e) - f(at - 1e-5 * e)) / 2e-5 for e in jnp.eye(3)]
        np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
def test_hardly_any_averages_in_single_precision_and_over_long_times(n):
    """One or two; exposures of a hundred correlation times; float32."""
    kernel, k = KERNELS["matern32"]
    t, y, exposure = np.r_[1.0, 500.0][:n], np.r_[0.3, -0.1][:n], np.r_[2.5, 400.0][:n]
    want = dense(k, t, y, 0.1, exposure, AT[:1])[0]
    np.testing.assert_allclose(gp.log_probability(kernel, t, y, 0.1, exposure=exposure), want, rtol=1e-9)
    with jax.enable_x64(False):
        got = jax.jit(lambda y: gp.log_probability(kernel, t, y, 0.1, exposure=exposure))(jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(float(got), want, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exposure": [1.0, -1.0]}, ">= 0"),
        ({"exposure": [1.0, 2.0, 3.0]}, "exposure: expected a number or 2"),
        ({"exposure": 1.0, "stamp": "mid"}, '"middle"'),
    ],
)
def test_what_are_no_exposures(options, words):
    with pytest.raises(InputError, match=words):
        gp.log_probability(gp.Matern32(1.0), [0.0, 1.0], [1.0, 2.0], **options)


def test_stamps_say_where_times_are():
    """Of the slots only: no program is needed."""
    t, exposure = np.r_[0.0, 1.0], np.r_[0.4, 0.2]
    for stamp, ends in (("end", t), ("middle", t + 0.5 * exposure), ("start", t + exposure)):
        np.testing.assert_allclose(lengths(exposure, stamp, t)[1], ends)
