"""The exact inner filter of linear Gaussian models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float, PyTree

from smcssm import kalman
from smcssm.core import AbstractFilter, AbstractLinearGaussian, FilterInfo, Observation, Status
from smcssm.gaussian import Gaussian
from smcssm.linalg import rows, stack, vector


class Kalman(AbstractFilter):
    """Square-root Kalman filter: one Gaussian belief per outer particle, no inner particles."""

    model: AbstractLinearGaussian

    def init(self, key: Array, params: PyTree[Array], obs: Observation) -> Gaussian:
        """N(m0, chol_P0 chol_P0')."""
        del key
        m0, chol_P0 = self.model.initial(params, obs)
        like = jnp.zeros(jax.tree.leaves(params)[0].shape[-2:], obs.y.dtype)
        return Gaussian(stack(vector(m0), like), stack(rows(chol_P0), like))

    def step(
        self, key: Array, params: PyTree[Array], belief: Gaussian, obs: Observation
    ) -> tuple[Gaussian, FilterInfo]:
        """Predict over dt and update on the values that are present."""
        del key
        system = self.model.matrices(params, obs)
        belief, innovation = kalman.step(belief, system, obs.y, obs.mask, obs.dt)
        pit = jnp.where(obs.mask, norm.cdf((obs.y - innovation.mean) / innovation.sd), jnp.nan)
        status = jnp.where(innovation.positive, Status.OK, Status.NOT_POSITIVE_DEFINITE).astype(jnp.int8)
        return belief, FilterInfo(innovation.log_lik, innovation.mean, innovation.sd, pit, status)

    def moments(self, belief: Gaussian) -> tuple[Float[Array, "x s n"], Float[Array, "x s n"]]:
        """Mean and sd of every state."""
        return belief.mean, belief.sd
