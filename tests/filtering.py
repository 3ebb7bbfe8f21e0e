"""Models run by our filter over several particles and series at once, and what tests compare that with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import multivariate_normal

from smcssm.core import Observation, at_each_particle
from smcssm.filters import Kalman

N, S = 3, 2


def block(y, *, dt=None, inputs=None, noise_sd=None, exposure=None):
    """Records of S series, [t, ..., s, 1]; the second series is the first one turned over and shifted."""
    y = np.asarray(y, float).reshape(len(y), -1)
    both = np.stack([y, 0.3 - y], axis=-1)

    def spread(a):
        return None if a is None else np.repeat(np.asarray(a, float)[..., None], S, -1)

    records = Observation(
        y=np.nan_to_num(both),
        mask=~np.isnan(both),
        dt=spread(np.r_[0.0, np.ones(len(y) - 1)] if dt is None else dt),
        index=np.repeat(np.arange(len(y))[:, None], S, -1),
        inputs=spread(inputs),
        noise_sd=spread(noise_sd),
        exposure=spread(exposure),
    )
    return both, jax.tree.map(lambda leaf: jnp.asarray(leaf)[..., None], records)


BLANK = jax.tree.map(lambda leaf: leaf[0], block(np.zeros(1))[1])


def spread_theta(theta):
    """[*shape, n] -> [*shape, s, n], particles in another order for the second series."""
    return {k: jnp.stack([jnp.asarray(v), jnp.roll(jnp.asarray(v), 1, -1)], axis=-2) for k, v in theta.items()}


@functools.partial(jax.jit, static_argnums=0)
def run(model, theta, blocks):
    params = at_each_particle(model.params)(theta)
    inner = Kalman(model)
    keys = jax.random.split(jax.random.key(0), S)
    belief = inner.init(keys, params, jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), blocks))

    def step(belief, obs):
        belief, info = inner.step(keys, params, belief, obs)
        return belief, info.log_lik

    belief, log_liks = jax.lax.scan(step, belief, blocks)
    return jnp.sum(log_liks, axis=0), belief


def compare(model, theta, y, oracle, rtol=1e-9, **options):
    """The log-likelihoods of N particles of S series are those of oracle(theta of one particle, y of one series)."""
    both, blocks = block(y, **options)
    spread = spread_theta(theta)
    got = np.asarray(run(model, spread, blocks)[0])
    assert got.shape == (S, N)
    want = [
        [oracle({k: np.asarray(v)[..., s, i] for k, v in spread.items()}, both[..., s]) for i in range(N)]
        for s in range(S)
    ]
    np.testing.assert_allclose(got, want, rtol=rtol)


def numpy_filter(y, m0, P0, systems):
    """Log-likelihood in covariance form; systems(t) gives F, c, Q, H, d, R. The first step has no transition."""
    x, P, total = np.asarray(m0, float), np.asarray(P0, float), 0.0
    for t, row in enumerate(y):
        F, c, Q, H, d, R = (np.asarray(a, float) for a in systems(t))
        if t > 0:
            x, P = F @ x + c, F @ P @ F.T + Q
        seen = ~np.isnan(row)
        if seen.any():
            H, innovation, R = H[seen], (row - H @ x - d)[seen], R[np.ix_(seen, seen)]
            V = H @ P @ H.T + R
            total += multivariate_normal(cov=V).logpdf(innovation)
            K = np.linalg.solve(V, H @ P).T
            x, P = x + K @ innovation, P - K @ V @ K.T
    return total


def sds(*names):
    return {name: np.array([0.5, 1.1, 0.2]) * (1 + 0.3 * i) for i, name in enumerate(names)}
