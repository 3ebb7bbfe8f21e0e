"""The way back of a hidden Markov model's forward filter (Kim 1994, doi:10.1016/0304-4076(94)90036-1, equation 2.11).

    p_t(i) = P(u_t = i | y_1:t)                                            the filter
    B_t(i, j) = P(u_t-1 = i | u_t = j, y_1:t-1) = p_t-1(i) P(i, j) / sum_i p_t-1(i) P(i, j)
    q_T = p_T,   q_t-1 = B_t q_t                                           given y_1:T
    q_t^0 = p_t,   q_t^l = B_t+1 q_t+1^l-1                                 given y_1:t+l
    u_T ~ p_T,   u_t-1 ~ B_t(., u_t)                                       a path given y_1:T

The filter's own probabilities are all that is needed, so that nothing underflows, and a regime of probability zero is
left out of both.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from smcssm.core import Observation
from smcssm.filters import Discrete
from smcssm.filters.discrete import Probabilities, which
from smcssm.filters.inner import uniform
from smcssm.kalman import live
from smcssm.readout.backwards import Backwards, moments
from smcssm.smc2.population import SMC2, at_particles

Kept = tuple[Probabilities, Float[Array, "t k k s n"]]


def _end(belief: Probabilities) -> Float[Array, "k s n"]:
    return belief.p


def _smoothed(smc: SMC2, kept: Kept, law: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    del smc

    def step(q: Array, B: Array) -> tuple[Array, Array]:
        return jnp.sum(B * q[None], axis=1), q

    before, q = jax.lax.scan(step, law, kept[1], reverse=True)
    return before, moments(q, q * (1 - q), w)


def _lagged(smc: SMC2, lag: int, kept: Kept, w: Array) -> tuple[Array, Array]:
    """Rows that do not count change nothing, so that the last ones are told by all there are."""
    del smc
    p, steps = kept[0].p, kept[1]

    def more(_: Array, q: Array) -> Array:
        return jnp.concatenate([jnp.sum(steps[1:] * q[1:, None], axis=2), q[-1:]])

    q = jax.lax.fori_loop(0, lag, more, p)[: len(p) - lag]
    return moments(q, q * (1 - q), w)


def _last(smc: SMC2, key: Array, end: Probabilities) -> Int[Array, "s n"]:
    del smc
    return which(uniform(key, end.p[0]), end.p)


def _drawn(smc: SMC2, key: Array, kept: Kept, draw: Array) -> tuple[Array, Array]:
    del smc
    p, steps = kept[0].p, kept[1]
    every = jnp.arange(p.shape[1])[:, None, None]

    def step(u: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
        B, point = given
        now = every == u[None]
        return which(point, jnp.sum(jnp.where(now[None], B, 0.0), axis=1)), now.astype(B.dtype)

    return jax.lax.scan(step, draw, (steps, uniform(key, p[:, 0])), reverse=True)


def _ahead(
    smc: SMC2, params: PyTree, start: Probabilities, rows: Observation, length: Array
) -> tuple[Probabilities, Kept]:
    """The belief after a chunk; beliefs, and B of every row."""
    inner = smc.filter
    assert isinstance(inner, Discrete)
    keys = jax.random.split(jax.random.key(0), rows.dt.shape[-1])  # it draws nothing

    def step(belief: Probabilities, obs: Observation) -> tuple[Probabilities, tuple[Probabilities, Array]]:
        joint = belief.p[:, None] * inner.model.transition(params, obs)
        total = jnp.sum(joint, axis=0)
        belief, _ = inner.step(keys, params, belief, obs)
        return belief, (belief, joint / jnp.where(total > 0, total, 1.0)[None])

    return jax.lax.scan(step, start, live(at_particles(rows), length))


CHAIN = Backwards(_ahead, _end, _smoothed, _lagged, _last, _drawn)
