"""Smoothed states and their neighbours: Cov(x_t) and Cov(x_t, x_t-1) given all, hyperparameters integrated out.

    of each particle:   x_t = m_t + L_t u_t,    u_t-1 = G u_t + g + D e
                        Cov(x_t, x_t-1) = L_t Cov(u_t) G' L_t-1'
    of the mixture:     sum_n w_n (Cov_n + (mean_n - mean) (mean_n - mean)')

The steps back are those of ``kalman.whitened``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from smcssm.core import Observation
from smcssm.gaussian import Gaussian
from smcssm.kalman import smoother, whitened
from smcssm.kalman.smoother import Backward
from smcssm.readout.backwards_gaussian import GAUSSIAN, kalman_of
from smcssm.smc2.population import SMC2

Kept = tuple[Gaussian, Gaussian, Backward]
"""The belief before a chunk, beliefs after its rows, and the steps back over them."""


class Joint(NamedTuple):
    """Weight, mean, and weighted sums of products around it, of states and with those before, over some particles."""

    weight: Float[Any, ""]
    mean: Float[Any, "t x"]
    own: Float[Any, "t x x"]
    lag_one: Float[Any, "t x x"]

    def join(self, other: Joint) -> Joint:
        """Of both together (Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115)."""
        weight, gap = self.weight + other.weight, other.mean - self.mean
        share, before = self.weight * other.weight / weight, np.concatenate([gap[:1], gap[:-1]])
        own = self.own + other.own + share * gap[:, :, None] * gap[:, None]
        lag_one = self.lag_one + other.lag_one + share * gap[:, :, None] * before[:, None]
        return Joint(weight, self.mean + gap * (other.weight / weight), own, lag_one)


def ahead(
    smc: SMC2, params: PyTree, start: Gaussian, rows: Observation, length: Array
) -> tuple[Gaussian, Kept]:
    """As for smoothing, with the belief before the chunk."""
    last, kept = GAUSSIAN.ahead(smc, params, start, rows, length)
    return last, (start, *kept)


def smoothed(
    smc: SMC2, kept: Kept, law: Gaussian, w: Float[Array, "s n"]
) -> tuple[Gaussian, tuple[Array, Array, Array]]:
    """The law of u before a chunk; means ``[t, x]`` and sums of products ``[t, x, x]`` of its rows."""
    start, beliefs, steps = kept
    first, laws = smoother.smooth(steps, law, kalman_of(smc).blocks)
    x = whitened.of_states(beliefs, laws)
    of_first = whitened.of_states(*(jax.tree.map(lambda a: a[None], one) for one in (start, first)))
    mean_before, L_before = (
        jnp.concatenate([a, b[:-1]]) for a, b in ((of_first.mean, x.mean), (start.chol[None], beliefs.chol))
    )
    back = jnp.einsum("tijsn,tjksn,tklsn->tilsn", L_before, steps.G, laws.chol)
    chol, back, *means = (  # of weight zero a particle may be anything
        jnp.where(jnp.expand_dims(w > 0, range(a.ndim - 2)), a, 0.0) for a in (x.chol, back, x.mean, mean_before)
    )
    mean, before = (jnp.einsum("sn,tisn->ti", w, m) / jnp.sum(w) for m in means)
    gap, gap_before = (m - middle[..., None, None] for m, middle in zip(means, (mean, before), strict=True))
    own = jnp.einsum("sn,tiksn,tjksn->tij", w, chol, chol) + jnp.einsum("sn,tisn,tjsn->tij", w, gap, gap)
    lag_one = jnp.einsum("sn,tiksn,tjksn->tij", w, chol, back) + jnp.einsum("sn,tisn,tjsn->tij", w, gap, gap_before)
    return first, (mean, own, lag_one)
