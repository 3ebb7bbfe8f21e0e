"""Particle filters run many times at once, the outer particles differing in nothing but their keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from smcssm.core import Observation, at_each_particle


def rows(y, dt=None):
    """Records [t, ..., 1, 1] of one series."""
    y = np.asarray(y, float).reshape(len(y), -1)[..., None, None]
    dt = np.r_[0.0, np.ones(len(y) - 1)] if dt is None else np.asarray(dt, float)
    fields = np.nan_to_num(y), ~np.isnan(y), dt[:, None, None], np.arange(len(y))[:, None, None]
    return Observation(*map(jnp.asarray, fields))


@functools.partial(jax.jit, static_argnums=0)
def run(filter, theta, data, key):
    """What the filter says of each row, and what it believes after it: infos, means, sds, and the last belief."""
    params = at_each_particle(filter.model.params)(theta)
    belief = filter.init(key, params, jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), data))

    def step(belief, obs):
        keys = jax.vmap(jax.random.fold_in)(key, obs.index[:, 0])
        belief, info = filter.step(keys, params, belief, obs)
        return belief, (info, *filter.moments(belief))

    belief, told = jax.lax.scan(step, belief, data)
    return *told, belief


def runs(filter, theta, y, n=2000, seed=0, dt=None):
    """n runs that differ in nothing but their keys."""
    theta = {k: jnp.full((1, n), v) for k, v in theta.items()}
    return run(filter, theta, rows(y, dt), jax.random.split(jax.random.key(seed), 1))


def assert_mean(draws, truth, sharp=np.inf):
    """Draws ``[n, ...]`` have this mean, within 4 standard errors; and these are as small as ``sharp``."""
    draws = np.asarray(draws)
    error = draws.std(axis=0, ddof=1) / len(draws) ** 0.5
    assert np.all(error < sharp), f"standard error {np.max(error)}"
    np.testing.assert_array_less(np.abs(draws.mean(axis=0) - truth), 4 * error + 1e-9)
