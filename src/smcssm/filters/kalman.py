"""The exact inner filter of linear Gaussian models."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from smcssm import kalman
from smcssm.core import AbstractFilter, AbstractLinearGaussian, FilterInfo, Observation, Status, System, in_turn
from smcssm.gaussian import Gaussian, affine, normal, normal_cdf
from smcssm.kalman.smoother import Backward
from smcssm.linalg import in_one_kernel, rows, stack, vector


class Kalman(AbstractFilter):
    """Square-root Kalman filter: one Gaussian belief per outer particle, no inner particles.

    What is gone through again, by moves and smoothing, is filtered in ``blocks`` side by side; 1: row by row.
    """

    model: AbstractLinearGaussian
    blocks: int = 1

    def init(
        self, key: Array, params: PyTree[Array], obs: Observation, like: PyTree[Array] | None = None
    ) -> Gaussian:
        """N(m0, chol_P0 chol_P0')."""
        del key
        m0, chol_P0 = self.model.initial(params, obs)
        zero = jnp.zeros(jax.tree.leaves(params)[0].shape[-2:], obs.y.dtype)
        return Gaussian(stack(vector(m0), zero), stack(rows(chol_P0), zero))

    def step(
        self, key: Array, params: PyTree[Array], belief: Gaussian, obs: Observation
    ) -> tuple[Gaussian, FilterInfo]:
        """Predict over dt and update on the values that are present."""
        del key
        return in_one_kernel(self._step, params, belief, obs)

    def _step(self, params: PyTree[Array], belief: Gaussian, obs: Observation) -> tuple[Gaussian, FilterInfo]:
        system = self.model.matrices(params, obs)
        belief, innovation = kalman.step(belief, system, obs.y, obs.mask, obs.dt)
        pit = jnp.where(obs.mask, normal_cdf((obs.y - innovation.mean) / innovation.sd), jnp.nan)
        status = jnp.where(innovation.positive, Status.OK, Status.NOT_POSITIVE_DEFINITE).astype(jnp.int8)
        return belief, FilterInfo(innovation.log_lik, innovation.mean, innovation.sd, pit, status)

    def replay(
        self, key: Array, params: PyTree[Array], belief: Gaussian, rows: Observation, length: Int[Any, ""] | int
    ) -> tuple[Gaussian, Float[Array, "t s n"]]:
        """Many rows, in blocks if there are several."""
        if self.blocks == 1:
            return in_turn(self, key, params, belief, rows, length)
        rows = kalman.live(rows, length)
        return kalman.parallel.filter(
            self.model.matrices, params, belief, rows, lambda _, i: i.log_lik.astype(jnp.float64), self.blocks
        )

    def back(
        self, params: PyTree[Array], belief: Gaussian, rows: Observation, length: Int[Any, ""] | int
    ) -> tuple[Gaussian, Gaussian, Backward]:
        """The belief after many rows ``[t, ..., s, 1]``, those after each, and the steps back, as ``whitened`` has."""
        return kalman.whitened.back(self.model.matrices, params, belief, kalman.live(rows, length), self.blocks)

    def moments(self, belief: Gaussian) -> tuple[Float[Array, "x s n"], Float[Array, "x s n"]]:
        """Mean and sd of every state."""
        return belief.mean, belief.sd

    def draw(self, key: Array, belief: Gaussian) -> Float[Array, "x s n"]:
        """x ~ N(mean, chol chol')."""
        return belief.mean + jnp.sum(belief.chol * normal(key, belief.mean)[None], axis=1)

    def simulate(
        self, key: Array, params: PyTree[Array], state: Float[Array, "x s n"], obs: Observation
    ) -> tuple[Float[Array, "x s n"], Float[Array, "x s n"], Float[Array, "y s n"]]:
        """The equations that `core` states."""
        x, y = simulate(key, self.model.matrices(params, obs), state, obs)
        return x, x, y


def simulate(
    key: Array, system: System, x: Float[Array, "x *m s n"], obs: Observation
) -> tuple[Float[Array, "x *m s n"], Float[Array, "y *m s n"]]:
    """The next state, which stays the same over dt = 0, and an observation of it."""
    like = x[0]
    key_x, key_y = jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
    x = jnp.where((obs.dt == 0)[None], x, affine(key_x, system.F, x, system.c, system.chol_Q, like))
    return x, affine(key_y, system.H, x, system.d, system.chol_R, like)
