"""A step of the Kalman filter entry by entry, as it is done on a GPU, equals the step as it stands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smcssm as ss
from oracles import dense_smoother
from smcssm import gp
from smcssm.core import Observation, System
from smcssm.filters import Kalman
from smcssm.gaussian import Gaussian
from smcssm.kalman import parallel, smoother, whitened
from smcssm.linalg import entrywise as module
from smcssm.linalg.dense import extended
from smcssm.linalg.entrywise import entrywise

S, N = 2, 3
MODELS = {
    "level": ss.models.LocalLevel(),
    "trend": ss.models.LocalLinearTrend(),
    "two channels": ss.models.ConstantVelocity(),
    "autoregression": ss.models.AR(3) + ss.models.Noise(),
    "process": ss.models.GP(gp.SHO("omega", 3.0, "sigma"), name="gp") + ss.models.Noise(),
}


def a_step(model, seed=0):
    """The step of a model, parameters, a belief, and an observation of which one value is missing."""
    rng = np.random.default_rng(seed)
    nx, ny = len(model.state_names), len(model.channel_names)
    sized = zip(model.names, model.shapes, strict=True)
    params = {name: jnp.asarray(rng.uniform(0.2, 0.6, (*shape, S, N))) for name, shape in sized}
    chol = jnp.asarray(np.tril(rng.normal(size=(S, N, nx, nx))).transpose(2, 3, 0, 1))
    belief = Gaussian(jnp.asarray(rng.normal(size=(nx, S, N))), chol)
    mask = np.ones((ny, S, 1), bool)
    mask[0, 1] = False
    y, dt = jnp.asarray(np.where(mask, rng.normal(size=mask.shape), 0.0)), jnp.asarray(rng.uniform(0.5, 1, (S, 1)))
    return Kalman(model)._step, params, belief, Observation(y, jnp.asarray(mask), dt, jnp.ones((S, 1), int))


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_step_as_it_stands(name, x64):
    f, *args = a_step(MODELS[name])
    told, plain = (jax.jit(lambda *a, run=run: run(*a))(*args) for run in (lambda *a: entrywise(f, *a), f))
    for a, b in zip(jax.tree.leaves(told), jax.tree.leaves(plain), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def sums_along(x):
    return jnp.cumsum(x, axis=0)


@pytest.mark.parametrize("f", [sums_along, lambda x: jnp.sum(x[:0], axis=0) + x[0]])
def test_what_mixes_entries_otherwise_is_done_as_it_stands(f, x64):
    x = jnp.arange(12.0).reshape(2, S, N)
    np.testing.assert_array_equal(entrywise(f, x), f(x))


def test_too_many_operations_are_done_as_they_stand(monkeypatch, x64):
    f, *args = a_step(MODELS["trend"])
    monkeypatch.setattr(module, "MOST", 3)
    for a, b in zip(jax.tree.leaves(entrywise(f, *args)), jax.tree.leaves(f(*args)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_scan_written_out_is_the_scan(monkeypatch, x64):
    L, X = jnp.asarray(np.tril(np.ones((3, 3))))[..., None, None], jnp.arange(6.0).reshape(3, 2, 1, 1)
    scanned = extended(L, X)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(extended(L, X), scanned, rtol=1e-14)


@pytest.mark.parametrize("smoothed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_blocks_as_on_a_gpu_equal_the_dense_law(smoothed, monkeypatch, x64):
    """F far from symmetric, Q of rank one, P0 of rank one, rows missing, a step of length 0."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    T, rng = 10, np.random.default_rng(2)
    F, U, h = np.array([[0.9, 0.4], [-0.3, 0.7]]), np.array([[0.3], [-0.2]]), np.array([[1.0, 0.5]])
    y, dts, L = rng.normal(size=(T, 1)), np.r_[0.0, 1.0, 1.0, 0.0, np.ones(T - 4)], np.array([[0.5, 0.0], [-0.8, 0.0]])
    y[[2, 6, 7]] = np.nan
    leaves = (np.nan_to_num(y), ~np.isnan(y), dts, np.arange(T))
    rows = Observation(*(jnp.asarray(leaf)[..., None, None] for leaf in leaves))
    start = Gaussian(jnp.asarray([0.2, -0.1])[:, None, None], jnp.asarray(L)[..., None, None])

    def system(params, obs):
        del obs
        return System(F.tolist(), [0.1, -0.2], U.tolist(), h.tolist(), [0.3], [[params]])

    def filtered(r):
        last, log_lik = parallel.filter(system, r, start, rows, lambda _, innovation: innovation.log_lik, 4)
        return jnp.sum(log_lik), jax.tree.map(lambda leaf: leaf[None], last)

    def both_ways(r):
        last, beliefs, steps = whitened.back(system, r, start, rows, 4)
        return 0.0, whitened.of_states(beliefs, smoother.smooth(steps, whitened.end(last), 4)[1])

    log_lik, laws = jax.jit(both_ways if smoothed else filtered)(jnp.full((1, 1), 0.5))
    model = np.array([0.2, -0.1]), L @ L.T, F, np.array([0.1, -0.2]), U @ U.T, h, np.array([0.3]), np.array([[0.25]])
    means, joint, want = dense_smoother(*model, y, dts)
    cov, told = np.einsum("tik,tjk->tij", *[np.asarray(laws.chol)[..., 0, 0]] * 2), np.arange(T)[-len(laws.mean) :]
    np.testing.assert_allclose(laws.mean[..., 0, 0], means[told], atol=1e-12)
    np.testing.assert_allclose(cov, joint[told, :, told], atol=1e-12)
    assert smoothed or log_lik == pytest.approx(want, rel=1e-12)
