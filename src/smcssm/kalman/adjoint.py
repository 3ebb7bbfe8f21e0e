"""Smoothed means and variances without dividing by what is hardly uncertain, as prediction backwards in time.

de Jong (1989, JASA 84, 1085); Durbin & Koopman (2012), section 4.4. With the filtered N(m, P), P = L L', after a row,
and of the next row the transition F, the gain K and the whitened innovation w = W x + n for a deviation x from m:

    x | all ~ N(m + P r, P - P N P)        r = A' r' + W' w,   N = A' N' A + W' W,     A = (I - K H) F
    after the last row  r = 0, N = 0

so that with N = Z Z' the pair (r, Z) is carried back by the same steps as a law in ``smoother``, in blocks if wanted.
``smoother.reverse`` divides by the predicted covariance: where states become known without end, as those of a moving
average without noise do, rounding errors grow on the way back as fast as the states forget, which costs half of all
digits. Here they shrink. It tells moments of one row at a time only; what several rows share, ``smoother`` does.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from smcssm.core import Observation, System
from smcssm.gaussian import Gaussian
from smcssm.kalman import parallel
from smcssm.kalman.smoother import Backward
from smcssm.linalg.panels import fence


def reverse(before: Gaussian, now: System, obs: Observation) -> Backward:
    """The step back over one row, from the belief before it, for (r, Z) as mean and factor."""
    x, like = len(before.mean), before.mean[0]
    eye = jnp.broadcast_to(jnp.eye(x, dtype=like.dtype)[..., None, None], before.chol.shape)
    nothing = jnp.zeros((x + 1, x, *like.shape), like.dtype)
    row = parallel.over(parallel.Element(eye, before, nothing, jnp.ones(like.shape, bool)), now, obs)
    W, w = row.about[:-1], row.about[-1]  # W' W and W' w are all that counts of them
    return Backward(jnp.swapaxes(row.A, 0, 1), jnp.sum(W * w[None], axis=1), W)


def moments(beliefs: Gaussian, laws: Gaussian) -> tuple[Float[Array, "t x s n"], Float[Array, "t x s n"]]:
    """Smoothed means and variances of rows from the filtered beliefs and (r, Z) after each."""
    L, n = beliefs.chol, beliefs.chol.shape[2]

    def through(X: Array) -> Array:
        """L' X by rows of X, one after the other: a product of many small matrices is slow."""
        return fence(sum((L[:, i, :, None] * X[:, i, None] for i in range(1, n)), L[:, 0, :, None] * X[:, 0, None]))

    both = through(jnp.concatenate([laws.mean[:, :, None], laws.chol], axis=2))  # L' r and L' Z
    mean, less = [], []
    for i in range(n):
        mine = sum((L[:, i, k, None] * both[:, k] for k in range(1, i + 1)), L[:, i, 0, None] * both[:, 0])
        mean.append(mine[:, 0])
        less.append(jnp.sum(mine[:, 1:] ** 2, axis=1))
    variance = jnp.sum(L**2, axis=2) - jnp.stack(less, axis=1)
    return beliefs.mean + jnp.stack(mean, axis=1), jnp.maximum(variance, 0)
