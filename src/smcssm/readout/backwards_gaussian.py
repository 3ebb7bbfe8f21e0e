"""The way back of a Kalman filter, chunk by chunk: ``kalman.adjoint`` for moments, ``kalman.smoother`` for the rest."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from smcssm import kalman
from smcssm.core import Observation
from smcssm.filters import Kalman
from smcssm.gaussian import Gaussian, normal
from smcssm.kalman import adjoint, smoother
from smcssm.readout.backwards import Backwards, moments
from smcssm.smc2.population import SMC2, at_particles


def _nothing(belief: Gaussian) -> Gaussian:
    return jax.tree.map(jnp.zeros_like, belief)


def centred(belief: Gaussian) -> Gaussian:
    """The law of x - m after the last row."""
    return Gaussian(jnp.zeros_like(belief.mean), belief.chol)


def _smoothed(
    smc: SMC2, params: PyTree, start: Gaussian, rows: Observation, length: Array, law: Gaussian, w: Array
) -> tuple[Gaussian, tuple[Array, Array]]:
    beliefs, steps = _kalman(smc).back(params, start, at_particles(rows), length, adjoint.reverse)
    before, laws = smoother.smooth(steps, law, _kalman(smc).blocks)
    return before, moments(*adjoint.moments(beliefs, laws), w)


def observed(
    smc: SMC2, params: PyTree, start: Gaussian, rows: Observation, length: Array, law: Gaussian
) -> tuple[Gaussian, tuple[Array, Array]]:
    """The law before a chunk, and mean and sd of every channel at its rows given everything, ``[t, y, s, n]``."""
    beliefs, steps = _back(smc, params, start, rows, length)
    before, laws = smoother.smooth(steps, law, _kalman(smc).blocks)

    def row(at: tuple[Gaussian, Observation]) -> tuple[Array, Array]:
        law, obs = at
        now = replace(obs, mask=jnp.zeros_like(obs.mask), dt=jnp.zeros_like(obs.dt))
        _, predictive = kalman.step(law, _kalman(smc).model.matrices(params, now), now.y, now.mask, now.dt)
        return predictive.mean, predictive.sd

    laws = Gaussian(beliefs.mean + laws.mean, laws.chol)
    return before, jax.lax.map(row, (laws, at_particles(rows)))


def _lagged(
    smc: SMC2, lag: int, params: PyTree, start: Gaussian, rows: Observation, length: Array, w: Array
) -> tuple[Array, Array]:
    beliefs, steps = _back(smc, params, start, rows, length)
    laws = smoother.lagged(steps, beliefs, lag)
    return moments(beliefs.mean[: len(laws.mean)] + laws.mean, _variance(laws), w)


def _last(smc: SMC2, key: Array, end: Gaussian) -> Float[Array, "x s n"]:
    del smc
    return jnp.sum(end.chol * normal(key, end.mean)[None], axis=1)


def _drawn(
    smc: SMC2, key: Array, params: PyTree, start: Gaussian, rows: Observation, length: Array, draw: Array
) -> tuple[Array, Array]:
    beliefs, steps = _back(smc, params, start, rows, length)
    before, draws = smoother.sample(steps, draw, normal(key, beliefs.mean), _kalman(smc).blocks)
    return before, beliefs.mean + draws


def _back(smc: SMC2, params: PyTree, start: Gaussian, rows: Observation, length: Array) -> tuple:
    return _kalman(smc).back(params, start, at_particles(rows), length)


def _kalman(smc: SMC2) -> Kalman:
    assert isinstance(smc.filter, Kalman)
    return smc.filter


def _variance(laws: Gaussian) -> Float[Array, "t x s n"]:
    return jnp.sum(laws.chol**2, axis=2)


GAUSSIAN = Backwards(_nothing, _smoothed, _lagged, _last, _drawn)
