"""The Kalman step against the dense joint law, a covariance filter and statsmodels, at every rank it allows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from statsmodels.tsa.statespace.kalman_filter import KalmanFilter

from oracles import joint_gaussian, kalman_filter_numpy
from smcssm import kalman
from smcssm.core import System
from smcssm.gaussian import Gaussian

pytestmark = pytest.mark.usefixtures("x64")

NAMES = ("m0", "chol_P0", "F", "c", "chol_Q", "H", "d", "chol_R")
T, S = 8, 3


def population(nx, ny, n, seed=0, s=S):
    """n particles of s series, each with a system of its own, as arrays [..., s, n]; F far from symmetric."""
    rng = np.random.default_rng([seed, nx, ny])

    def normal(*shape):
        return rng.standard_normal((*shape, s, n))

    F = normal(nx, nx)
    F *= 0.95 / np.abs(np.linalg.eigvals(np.moveaxis(F, (0, 1), (-2, -1)))).max(-1)
    tri = np.tri(nx)[:, :, None, None]
    return {
        "m0": normal(nx),
        "chol_P0": normal(nx, nx) * tri,
        "F": F,
        "c": normal(nx),
        "chol_Q": normal(nx, nx) * tri,
        "H": normal(ny, nx),
        "d": normal(ny),
        "chol_R": normal(ny, ny) * np.tri(ny)[:, :, None, None],
    }


def degenerate(system):
    """Particle 0 ordinary; then P0 = 0; P0 of rank one; Q = 0; Q of rank one; exact observations; all at once."""
    system["chol_P0"][..., [1, 6]] = 0
    system["chol_P0"][:, 1:, :, 2] = 0
    system["chol_Q"][..., 3] = 0
    system["chol_Q"][:, 1:, :, [4, 6]] = 0
    system["chol_R"][..., 5] = 0
    return system


def observations(ny, seed=0, s=S):
    """A stream with a whole row missing, single channels missing, and simultaneous observations (dt = 0)."""
    rng = np.random.default_rng([seed, ny])
    ys = 2 * rng.standard_normal((T, ny, s))
    ys[rng.random(ys.shape) < 0.2] = np.nan
    ys[2] = np.nan
    dts = np.where(rng.random((T, s)) < 0.25, 0.0, 1.0)
    dts[0] = 0
    return ys, dts


def history(system, ys, dts, like):
    """Beliefs and innovations after each of the observations."""
    m0, chol_P0, F, c, chol_Q, H, d, chol_R = (system[name] for name in NAMES)
    mask = ~jnp.isnan(ys)

    def body(belief, now):
        y, seen, dt = now
        belief, innovation = kalman.step(belief, System(F, c, chol_Q, H, d, chol_R), y, seen, dt)
        return belief, (belief, innovation)

    rows = (jnp.where(mask, ys, 0.0)[..., None], mask[..., None], dts[..., None])
    belief = Gaussian(jnp.broadcast_to(m0, (len(m0), *like)), jnp.broadcast_to(chol_P0, (len(m0), len(m0), *like)))
    return jax.lax.scan(body, belief, rows)[1]


@functools.cache
def compiled():
    return jax.jit(history, static_argnames="like")


def run(system, ys, dts, dtype=np.float64):
    """The history with dense arrays, as NumPy: log_lik [t, s, n], mean [t, x, s, n], cov [t, x, x, s, n]."""
    arrays = {k: jnp.asarray(v, dtype) for k, v in system.items()}
    like = system["m0"].shape[1:]
    belief, innovation = compiled()(arrays, jnp.asarray(ys, dtype), jnp.asarray(dts, dtype), like=like)
    chol = np.asarray(belief.chol, np.float64)
    return np.asarray(belief.mean), np.einsum("tik...,tjk...->tij...", chol, chol), jax.tree.map(np.asarray, innovation)


def one(system, s, n):
    """m0, P0, F, c, Q, H, d, R of one particle."""
    m0, L0, F, c, LQ, H, d, LR = (np.asarray(system[name], float)[..., s, n] for name in NAMES)
    return m0, L0 @ L0.T, F, c, LQ @ LQ.T, H, d, LR @ LR.T


SHAPES = [(1, 1), (2, 1), (3, 2), (4, 3), (6, 2), (8, 1), pytest.param(13, 1, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("nx", "ny"), SHAPES)
def test_equals_covariance_filter_and_joint_law(nx, ny):
    system, (ys, dts) = degenerate(population(nx, ny, 7)), observations(ny)
    if ny == 1:
        dts[1:] = 1.0  # exact observations: not the same thing twice
    else:
        system["chol_R"][..., 5] = system["chol_R"][..., 0]
    mean, cov, innovation = run(system, ys, dts)
    assert innovation.positive.all()
    for s in range(S):
        for n in range(7):
            args = (*one(system, s, n), ys[..., s], dts[:, s])
            log_lik, means, covs = kalman_filter_numpy(*args)
            scale = np.abs(covs).max()
            np.testing.assert_allclose(innovation.log_lik[:, s, n], log_lik, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(mean[..., s, n], means, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(cov[..., s, n], covs, atol=1e-11 * scale)
            total, last, last_cov = joint_gaussian(*args)
            np.testing.assert_allclose(innovation.log_lik[:, s, n].sum(), total, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(mean[-1, :, s, n], last, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(cov[-1, :, :, s, n], last_cov, atol=1e-9 * scale)


def test_predictive_moments_exist_for_missing_channels():
    system, (ys, dts) = population(3, 2, 7), observations(2)
    mean, cov, innovation = run(degenerate(system), ys, dts)
    for s, n in [(0, 0), (1, 4), (2, 2)]:
        m0, P0, F, c, Q, H, d, R = one(system, s, n)
        before, P = np.vstack([m0[None], mean[:-1, :, s, n]]), np.concatenate([P0[None], cov[:-1, :, :, s, n]])
        moved = dts[:, s] > 0
        before[moved], P[moved] = before[moved] @ F.T + c, F @ P[moved] @ F.T + Q
        np.testing.assert_allclose(innovation.mean[..., s, n], before @ H.T + d, rtol=1e-10, atol=1e-12)
        var = np.einsum("tii->ti", H @ P @ H.T + R)
        np.testing.assert_allclose(innovation.sd[..., s, n], np.sqrt(var), rtol=1e-10)


def test_equals_statsmodels():
    system, (ys, _) = degenerate(population(4, 3, 7)), observations(3)
    system["chol_R"][..., 5] = system["chol_R"][..., 0]
    dts = np.vstack([np.zeros(S), np.ones((T - 1, S))])
    _, cov, innovation = run(system, ys, dts)
    for n in range(7):
        m0, P0, F, c, Q, H, d, R = one(system, 0, n)
        other = KalmanFilter(k_endog=3, k_states=4, k_posdef=4, design=H, transition=F, state_intercept=c[:, None])
        other.obs_intercept, other.obs_cov, other.selection, other.state_cov = d[:, None], R, np.eye(4), Q
        other.initialize_known(m0, P0)
        other.bind(np.ascontiguousarray(ys[..., 0]))
        other.tolerance = 0
        result = other.filter()
        np.testing.assert_allclose(innovation.log_lik[:, 0, n].sum(), result.llf, rtol=1e-10)
        np.testing.assert_allclose(cov[-1, :, :, 0, n], result.filtered_state_cov[..., -1], atol=1e-10)


def test_float32():
    system, (ys, dts) = degenerate(population(4, 3, 7)), observations(3)
    system["chol_R"][..., 5] = system["chol_R"][..., 0]
    _, cov, innovation = run(system, ys, dts)
    with jax.enable_x64(False):
        mean32, cov32, innovation32 = run(system, ys, dts, np.float32)
    assert innovation32.log_lik.dtype == mean32.dtype == np.float32
    assert innovation32.positive.all()
    tolerance = 2e-3 * (1 + np.abs(innovation.log_lik))
    assert np.all(np.abs(innovation32.log_lik - innovation.log_lik) < tolerance)
    np.testing.assert_allclose(cov32, cov, atol=1e-4 * np.abs(cov).max())


def test_float32_keeps_tiny_noise_beside_a_diffuse_state():
    """Two precise sensors of one vague state: S is far from singular in truth, and to rounding it is not."""
    with jax.enable_x64(False):
        belief = Gaussian(jnp.zeros((1, 1, 1)), jnp.full((1, 1, 1, 1), 1e4))
        y = jnp.asarray([[[3.0]], [[3.001]]])
        after, innovation = jax.jit(
            lambda b: kalman.update(b, [[1.0], [1.0]], [0.0, 0.0], np.diag([1e-3, 1e-3]), y, y > 0)
        )(belief)
    assert innovation.positive.all()
    np.testing.assert_allclose(after.sd, 1e-3 / np.sqrt(2), rtol=1e-4)


def season(period, nx):
    """Level, trend and a dummy season: F is mostly a shift."""
    F = np.zeros((nx, nx))
    F[0, :2] = F[1, 1] = 1.0
    F[2, 2:] = -1.0
    F[range(3, nx), range(2, nx - 1)] = 1.0
    assert nx == period + 1
    H = np.zeros((1, nx))
    H[0, [0, 2]] = 1.0
    return F, H


def test_known_structure_equals_dense_arrays():
    """Numbers in lists, NumPy constants and arrays [i, j, s, n] say the same thing."""
    nx, n = 8, 2
    system, (ys, dts) = population(nx, 1, n), observations(1)
    F, H = season(7, nx)
    sds = np.abs(system["m0"][:3])
    chol_Q = np.zeros((nx, 3, S, n))
    chol_Q[range(3), range(3)] = sds
    dense = {k: system[k] for k in ("m0", "chol_P0", "chol_R")} | {
        "F": np.broadcast_to(F[..., None, None], (nx, nx, S, n)),
        "c": np.zeros((nx, S, n)),
        "chol_Q": chol_Q,
        "H": np.broadcast_to(H[..., None, None], (1, nx, S, n)),
        "d": np.zeros((1, S, n)),
    }
    mean, cov, innovation = run(dense, ys, dts)

    def known(arrays, q):
        structure = {"F": F, "c": [0.0] * nx, "H": H.tolist(), "d": (0,)}
        rows = [[q[i] if i == j else 0 for j in range(3)] for i in range(nx - 5)] + [[0.0] * 3] * 5
        return history(arrays | structure | {"chol_Q": rows}, jnp.asarray(ys), jnp.asarray(dts), (S, n))

    arrays = {k: jnp.asarray(system[k]) for k in ("m0", "chol_P0", "chol_R")}
    belief, other = jax.jit(known)(arrays, jnp.asarray(sds))
    np.testing.assert_allclose(other.log_lik, innovation.log_lik, rtol=1e-10)
    np.testing.assert_allclose(belief.mean, mean, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(np.einsum("tik...,tjk...->tij...", belief.chol, belief.chol), cov, atol=1e-10)


def test_square_roots_need_not_be_triangular():
    """A rotated chol_Q and chol_R, one particle in lists, with every pattern of missing channels."""
    rng = np.random.default_rng(3)
    system = population(3, 2, 1, s=4)
    ys = rng.standard_normal((3, 2, 4))
    ys[:, 0, [1, 3]] = ys[:, 1, [2, 3]] = np.nan
    turned = system | {
        "chol_Q": np.einsum("ik...,kj->ij...", system["chol_Q"], np.linalg.qr(rng.standard_normal((3, 3)))[0]),
        "chol_R": np.einsum("ik...,kj->ij...", system["chol_R"], np.array([[0.0, 1.0], [1.0, 0.0]])),
    }
    dts = np.ones((3, 4))
    _, cov, innovation = run(system, ys, dts)
    _, cov2, innovation2 = run(turned, ys, dts)
    np.testing.assert_allclose(innovation2.log_lik, innovation.log_lik, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(cov2, cov, atol=1e-11)


def test_singular_innovation_kills_its_particle_only():
    nx, ny = 3, 2
    system, (ys, dts) = population(nx, ny, 4), observations(ny)
    want = run(system, ys, dts)[2].log_lik
    system["H"][..., 1], system["chol_R"][..., 1] = 0, 0  # nothing is observed, exactly
    system["H"][1, ..., 2], system["chol_R"][..., 2] = system["H"][0, ..., 2], 0  # the same thing twice, exactly
    ys[4] = 1.0
    ys[2, 0], ys[2, 1] = 0.5, np.nan
    mean, cov, innovation = run(system, ys, dts)
    assert not innovation.positive[4, :, 1].any()
    assert not innovation.positive[4, :, 2].any()
    assert innovation.positive[2, :, 2].all()  # one of the two alone is fine
    assert np.array_equal(np.isneginf(innovation.log_lik), ~innovation.positive)
    assert innovation.positive[..., [0, 3]].all()
    assert np.isfinite(mean).all()
    assert np.isfinite(cov).all()
    np.testing.assert_array_equal(innovation.log_lik[:2][..., [0, 3]], want[:2][..., [0, 3]])


def test_nan_is_not_turned_into_a_number():
    """Of spreads neither, of which the likelihood was that without them, for a row."""
    system, (ys, dts) = population(2, 1, 6), observations(1)
    for n, name in enumerate(("F", "chol_P0", "chol_Q", "H", "chol_R"), start=1):
        system[name][0, 0, :, n] = np.nan
    innovation = run(system, np.nan_to_num(ys), dts + 1.0)[2]
    assert np.isnan(innovation.log_lik[..., 1:]).all()
    assert np.isfinite(innovation.log_lik[..., 0]).all()


def test_nothing_observed_and_no_time_passed_changes_nothing():
    system = degenerate(population(3, 2, 7))
    system["chol_P0"] = np.abs(system["chol_P0"])
    mean, cov, innovation = run(system, np.full((T, 2, S), np.nan), np.zeros((T, S)))
    assert np.array_equal(mean[-1], system["m0"])
    P0 = np.einsum("ik...,jk...->ij...", system["chol_P0"], system["chol_P0"])
    np.testing.assert_allclose(cov[-1], P0, rtol=1e-14)
    assert np.all(innovation.log_lik == 0)


def test_compiled_equals_eager_and_step_equals_its_parts():
    system, (ys, _) = population(2, 1, 3), observations(1)
    arrays = {k: jnp.asarray(v) for k, v in system.items()}
    args = [arrays[k] for k in NAMES[2:]]
    belief = Gaussian(arrays["m0"], arrays["chol_P0"])
    y, dt = jnp.asarray(np.nan_to_num(ys[3]))[..., None], jnp.ones((S, 1))
    mask = jnp.ones(y.shape, bool)
    eager = kalman.step(belief, System(*args), y, mask, dt)
    fast = jax.jit(kalman.step)(belief, System(*args), y, mask, dt)
    predicted = kalman.predict(belief, *args[:3], dt)
    parts = kalman.update(predicted, *args[3:], y, mask)
    for a, b, c in zip(*map(jax.tree.leaves, (eager, fast, parts)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(a, c, rtol=1e-13, atol=1e-14)


def test_gradient_at_every_rank():
    """Finite, and equal to finite differences of the covariance filter, whatever the ranks of P0, Q and R."""
    nx, ny, ranks = 2, 2, [(p, q) for p in range(3) for q in range(3)]
    system = population(nx, ny, len(ranks), s=1)
    for n, (p, q) in enumerate(ranks):
        system["chol_P0"][:, p:, :, n] = 0
        system["chol_Q"][:, q:, :, n] = 0
    ys, _ = observations(ny, s=1)
    dts = np.r_[0, 1, 1, 0, 1, 1, 1, 1][:, None]

    def total(arrays):
        return history(arrays, jnp.asarray(ys), jnp.asarray(dts, float), (1, len(ranks)))[1].log_lik.sum()

    gradient = jax.jit(jax.grad(total))({k: jnp.asarray(v) for k, v in system.items()})
    h = 1e-6
    for n in range(len(ranks)):
        for name in NAMES:
            got = np.asarray(gradient[name])[..., 0, n]
            assert np.isfinite(got).all(), (name, ranks[n])
            want = np.zeros_like(got)
            for index in np.ndindex(got.shape):
                values = []
                for sign in (1, -1):
                    moved = {k: v.copy() for k, v in system.items()}
                    moved[name][(*index, 0, n)] += sign * h
                    values.append(kalman_filter_numpy(*one(moved, 0, n), ys[..., 0], dts[:, 0])[0].sum())
                want[index] = (values[0] - values[1]) / (2 * h)
            if name == "chol_P0":  # a belief has no entries above the diagonal
                got, want = np.tril(got), np.tril(want)
            atol = 1e-5 * (1 + np.abs(want).max())
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=atol, err_msg=f"{name} {ranks[n]}")
