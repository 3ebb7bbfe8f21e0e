"""The Rao-Blackwellised filter against sums over all paths, and its likelihood estimate against its expectation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import enumeration
import smcssm as ss
from filtering import block
from smcssm.core import at_each_particle
from smcssm.filters import RaoBlackwell

pytestmark = pytest.mark.usefixtures("x64")

T = 9
RNG = np.random.default_rng(3)
Y = np.stack([np.cumsum(RNG.normal(size=T)), RNG.normal(size=T)], axis=1)
Y[4] = np.nan
Y[7, 0] = np.nan
DT = np.r_[0.0, np.ones(T - 1)]
DT[6] = 0.0  # two observations at the same time


def quiet(theta):
    a = theta["a"]
    return {
        "m0": [0.1, -0.2],
        "chol_P0": [[0.8, 0.0], [0.3, 0.5]],
        "F": [[0.9, 0.3], [-0.2, 0.7 * a]],
        "c": [0.1, 0.0],
        "chol_Q": [[0.3], [0.1]],
        "H": [[1.0, 0.5], [0.0, 1.0]],
        "d": [0.0, 0.2],
        "chol_R": [[0.6, 0.0], [0.2 * a, 0.7]],
    }


def busy(theta):
    a = theta["a"]
    return {
        "m0": [1.0, 0.0],
        "chol_P0": [[1.2, 0.0], [0.0, 0.5]],
        "F": [[1.0, a], [0.0, 0.9]],
        "c": [0.0, -0.3],
        "chol_Q": [[1.1, 0.0], [0.4, 0.9 * a]],
        "H": [[1.0, 0.5], [0.3, 1.0]],
        "chol_R": [[0.6, 0.0], [0.0, 1.7]],
    }


def first(theta):
    return [0.3, 0.7]


def moves(theta):
    stay = theta["stay"]
    return [[stay, 1 - stay], [0.35, 0.65]]


MODEL = ss.models.Switching((quiet, busy), initial=first, transition=moves, names=("a", "stay"))
THETA = {"a": np.array([0.5, 0.8, 1.2]), "stay": np.array([0.9, 0.6, 0.3])}


def regimes(theta):
    """The same in covariances, for the oracle."""
    out = []
    for f in (quiet, busy):
        found = {k: np.array(v, float) for k, v in f(theta).items()}
        found = {"c": np.zeros(2), "d": np.zeros(2)} | found
        out.append({k: found[k] for k in ("m0", "F", "c", "H", "d")})
        out[-1] |= {k: found[f"chol_{k}"] @ found[f"chol_{k}"].T for k in ("P0", "Q", "R")}
    return out


@functools.partial(jax.jit, static_argnums=0)
def run(inner, keys, theta, rows):
    """Belief after all rows, and what was told of each; leaves of theta [s, n]."""
    params = at_each_particle(inner.model.params)(theta)
    belief = inner.init(keys, params, jax.tree.map(lambda a: jnp.zeros_like(a[0]), rows))

    def step(belief, obs):
        key = jax.vmap(jax.random.fold_in)(keys, obs.index[:, 0].astype(jnp.uint32))
        return inner.step(key, params, belief, obs)

    return jax.lax.scan(step, belief, rows)


def keys(seed=0):
    return jax.random.split(jax.random.key(seed), 2)


def both(theta):
    return {k: jnp.stack([jnp.asarray(v)] * 2) for k, v in theta.items()}


@functools.cache
def exact(i, s, t=T):
    """All paths for particle i and series s."""
    y, _ = block(Y, dt=DT)
    theta = {k: v[i] for k, v in THETA.items()}
    return enumeration.paths(np.array(first(theta)), np.array(moves(theta)), regimes(theta), y[:t, :, s], DT[:t])


def test_with_as_many_particles_as_paths_it_is_the_sum_over_paths():
    _, rows = block(Y, dt=DT)
    belief, info = run(RaoBlackwell(MODEL, 2**T), keys(), both(THETA), rows)
    total = np.asarray(info.log_lik.sum(axis=0))
    inner = RaoBlackwell(MODEL, 2**T)
    mean, sd = inner.moments(belief)
    p = inner.regimes(belief)
    for i in range(3):
        for s in range(2):
            found = exact(i, s)
            np.testing.assert_allclose(total[s, i], enumeration.log_likelihood(found), rtol=1e-10)
            want = enumeration.filtered(found, 2)
            for got, expected in zip((mean, sd, p), want, strict=True):
                np.testing.assert_allclose(np.asarray(got)[:, s, i], expected, rtol=1e-9)
    assert (np.asarray(info.status) == 0).all()


def many(theta, i, n):
    """n copies of particle i: as many independent runs of the filter."""
    return {k: jnp.full((2, n), v[i]) for k, v in theta.items()}


@pytest.mark.parametrize("resampling", ["optimal", "systematic"])
def test_the_likelihood_estimate_has_no_bias(resampling):
    _, rows = block(Y, dt=DT)
    inner = RaoBlackwell(MODEL, 16, resampling=resampling)
    for i in range(3):
        _, info = run(inner, keys(i), many(THETA, i, 1000), rows)
        for s in range(2):
            ratio = np.exp(np.asarray(info.log_lik.sum(axis=0))[s] - enumeration.log_likelihood(exact(i, s)))
            assert 0 < ratio.std() < 1
            assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(len(ratio))
