"""The square-root filter with loops over states: slower to run than ``sequential``, and compiled in a moment.

The same arrays are triangularised, by ``linalg.dense``. For many states ``sequential`` takes long to compile (of 20
states 18 s, and then 3 microseconds a row against 28 here); this is for what hardly ever runs. One channel.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from smcssm.core import Observation
from smcssm.gaussian import Gaussian
from smcssm.kalman.sequential import SystemOf, dense
from smcssm.linalg import rows as entries
from smcssm.linalg import stack, vector
from smcssm.linalg.dense import triangularise_dense


def log_likelihoods(system: SystemOf, params: PyTree, belief: Gaussian, rows: Observation) -> Float[Array, "t *m s n"]:
    """log p(y_t | y_1:t-1) of rows ``[t, ..., s, 1]``, 0 where there is no observation."""

    def row(belief: Gaussian, obs: Observation) -> tuple[Gaussian, Array]:
        now, like, seen = system(params, obs), belief.mean[0], obs.mask[0]
        F, H, stays = stack(entries(now.F), like), stack(entries(now.H), like), (obs.dt == 0)[None]
        moved = dense(F, belief.mean[:, None])[:, 0] + stack(vector(now.c), like)
        wide = jnp.concatenate([dense(F, belief.chol), stack(entries(now.chol_Q), like)], axis=1)
        m = jnp.where(stays, belief.mean, moved)
        L = jnp.where(stays[None], belief.chol, triangularise_dense(wide))
        noise, HL = stack(entries(now.chol_R), like), dense(H, L)
        noise, HL = jnp.where(seen, noise, 1.0), jnp.where(seen, HL, 0.0)
        below = jnp.zeros((len(m), noise.shape[1], *like.shape), like.dtype)
        joint = triangularise_dense(
            jnp.concatenate([jnp.concatenate([noise, HL], axis=1), jnp.concatenate([below, L], axis=1)])
        )
        s = jnp.abs(joint[0, 0])
        safe = jnp.where(s == 0, 1.0, joint[0, 0])
        w = jnp.where(seen, obs.y[0] - dense(H, m[:, None])[0, 0] - stack(vector(now.d), like)[0], 0.0) / safe
        log_lik = -0.5 * (w * w + math.log(2 * math.pi) * seen) - jnp.log(jnp.abs(safe))
        return Gaussian(m + joint[1:, 0] * w[None], joint[1:, 1:]), jnp.where(s == 0, -jnp.inf, log_lik)

    return jax.lax.scan(jax.checkpoint(row, prevent_cse=False), belief, rows)[1]
