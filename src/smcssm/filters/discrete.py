"""The exact inner filter of hidden Markov models (Hamilton 1989, doi:10.2307/1912559; Rabiner 1989, the forward pass).

    p_j = sum_i P(u = j | u_before = i) p_i               over dt > 0; the same over dt = 0
    p(y) = sum_j p_j p(y | u = j),   p_j <- p_j p(y | u = j) / p(y)

Cost K² per outer particle and row; nothing is random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, no_type_check

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, PyTree

from smcssm.core import AbstractFilter, AbstractHiddenMarkov, FilterInfo, Observation, Status
from smcssm.filters.collapse import uniform
from smcssm.gaussian import mixture_moments


@no_type_check  # JAX fills it with placeholders
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Probabilities:
    """Of every regime, given y_1:t."""

    p: Float[Any, "k s n"]


class Discrete(AbstractFilter):
    """Forward filter: K probabilities for each outer particle, no inner particles."""

    model: AbstractHiddenMarkov

    gaussian: ClassVar[bool] = False

    def init(
        self, key: Array, params: PyTree[Array], obs: Observation, like: Probabilities | None = None
    ) -> Probabilities:
        """The law of the first regime."""
        del key, like
        return Probabilities(self.model.initial_probabilities(params, obs))

    def step(
        self, key: Array, params: PyTree[Array], belief: Probabilities, obs: Observation
    ) -> tuple[Probabilities, FilterInfo]:
        """Regimes move on, then the values that are present."""
        del key
        p = jnp.sum(belief.p[:, None] * self.model.transition(params, obs), axis=0)
        dead = p == 0
        log_w = jnp.where(dead, 0.0, jnp.log(jnp.where(dead, 1.0, p))) + self.model.log_observation(params, obs)
        log_w = jnp.where(dead, -jnp.inf, log_w)
        log_lik = logsumexp(log_w, axis=0)
        mean, sd, below = self.model.emission(params, obs)
        after = jnp.exp(log_w - jnp.where(jnp.isfinite(log_lik), log_lik, 0.0)[None])
        mean, sd = mixture_moments(p[:, None], mean, sd, 0)
        pit = jnp.sum(jnp.where(p[:, None] > 0, p[:, None] * below, 0.0), axis=0)
        status = jnp.full(log_lik.shape, Status.OK, jnp.int8)
        return Probabilities(after), FilterInfo(log_lik, mean, sd, jnp.where(obs.mask, pit, jnp.nan), status)

    def moments(self, belief: Probabilities) -> tuple[Float[Array, "x s n"], Float[Array, "x s n"]]:
        """Mean and sd of the indicator of every regime."""
        return belief.p, jnp.sqrt(belief.p * (1 - belief.p))

    def regimes(self, belief: Probabilities) -> Float[Array, "k s n"]:
        """Their filtered probabilities."""
        return belief.p

    def relabel(self, belief: Probabilities, permutation: Int[Array, "k s n"]) -> Probabilities:
        """The belief of the same model with its regimes called otherwise: k is what ``permutation[k]`` was."""
        return Probabilities(jnp.take_along_axis(belief.p, permutation, axis=0))

    def draw(self, key: Array, belief: Probabilities) -> Int[Array, "s n"]:
        """A regime."""
        return which(uniform(key, belief.p[0]), belief.p)

    def simulate(
        self, key: Array, params: PyTree[Array], state: Int[Array, "s n"], obs: Observation
    ) -> tuple[Int[Array, "s n"], Float[Array, "x s n"], Float[Array, "y s n"]]:
        """The next regime, its indicator, and an observation."""
        key_u, key_y = jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
        P = self.model.transition(params, obs)
        every = jnp.arange(len(P))[:, None, None]
        now = every == state[None]
        p = jnp.sum(jnp.where(now[:, None], P, 0.0), axis=0)
        u = which(uniform(key_u, p[0]), p)
        return u, (every == u[None]).astype(P.dtype), self.model.sample_observation(key_y, params, u, obs)


def which(point: Float[Array, "s n"], p: Float[Array, "k s n"]) -> Int[Array, "s n"]:
    """The one of k that a uniform number falls into."""
    cumulative = jnp.cumsum(p, axis=0)
    return jnp.sum(cumulative[:-1] <= (point * cumulative[-1])[None], axis=0).astype(jnp.int32)
