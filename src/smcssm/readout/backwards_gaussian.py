"""The way back of a Kalman filter, chunk by chunk, as ``kalman.whitened`` has it."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from smcssm import kalman
from smcssm.core import Observation
from smcssm.filters import Kalman
from smcssm.gaussian import Gaussian, normal
from smcssm.kalman import smoother, whitened
from smcssm.kalman.smoother import Backward
from smcssm.readout.backwards import Backwards, moments
from smcssm.smc2.population import SMC2, at_particles

Kept = tuple[Gaussian, Backward]
"""Beliefs after rows, and the steps back over them."""


def ahead(
    smc: SMC2, params: PyTree, start: Gaussian, rows: Observation, length: Array
) -> tuple[Gaussian, Kept]:
    """The belief after a chunk, and of its rows beliefs and steps back."""
    last, beliefs, steps = kalman_of(smc).back(params, start, at_particles(rows), length)
    return last, (beliefs, steps)


def _smoothed(smc: SMC2, kept: Kept, law: Gaussian, w: Array) -> tuple[Gaussian, tuple[Array, Array]]:
    before, laws = _laws(smc, kept, law)
    return before, moments(laws.mean, _variance(laws), w)


def observed(
    smc: SMC2, params: PyTree, kept: Kept, rows: Observation, law: Gaussian
) -> tuple[Gaussian, tuple[Array, Array]]:
    """The law before a chunk, and mean and sd of every channel at its rows given everything, ``[t, y, s, n]``."""
    before, laws = _laws(smc, kept, law)

    def row(at: tuple[Gaussian, Observation]) -> tuple[Array, Array]:
        law, obs = at
        now = replace(obs, mask=jnp.zeros_like(obs.mask), dt=jnp.zeros_like(obs.dt))
        _, predictive = kalman.step(law, kalman_of(smc).model.matrices(params, now), now.y, now.mask, now.dt)
        return predictive.mean, predictive.sd

    return before, jax.lax.map(row, (laws, at_particles(rows)))


def _lagged(smc: SMC2, lag: int, kept: Kept, w: Array) -> tuple[Array, Array]:
    beliefs, steps = kept
    laws = smoother.lagged(steps, jax.vmap(whitened.end)(beliefs), lag)
    laws = whitened.of_states(jax.tree.map(lambda leaf: leaf[: len(leaf) - lag], beliefs), laws)
    return moments(laws.mean, _variance(laws), w)


def _last(smc: SMC2, key: Array, end: Gaussian) -> Float[Array, "x s n"]:
    del smc
    return normal(key, end.mean)


def _drawn(smc: SMC2, key: Array, kept: Kept, draw: Array) -> tuple[Array, Array]:
    beliefs, steps = kept
    before, draws = smoother.sample(steps, draw, normal(key, beliefs.mean), kalman_of(smc).blocks)
    return before, whitened.states(beliefs, draws)


def _laws(smc: SMC2, kept: Kept, law: Gaussian) -> tuple[Gaussian, Gaussian]:
    """Of u before a chunk, and of the states at its rows."""
    before, laws = smoother.smooth(kept[1], law, kalman_of(smc).blocks)
    return before, whitened.of_states(kept[0], laws)


def kalman_of(smc: SMC2) -> Kalman:
    """Its filter."""
    assert isinstance(smc.filter, Kalman)
    return smc.filter


def _variance(laws: Gaussian) -> Float[Array, "t x s n"]:
    return jnp.sum(laws.chol**2, axis=2)


GAUSSIAN = Backwards(ahead, whitened.end, _smoothed, _lagged, _last, _drawn)
