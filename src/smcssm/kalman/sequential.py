"""Predict, update and likelihood for a whole population in Cholesky form.

Singular chol_Q, chol_R and chol_P0 are legal; the innovation covariance must be positive definite, and a particle
where it is not gets log-likelihood -inf. Small systems are written out in scalars, larger ones work on whole columns.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Bool, Float

from smcssm.core import Matrix, System
from smcssm.gaussian import Gaussian
from smcssm.kalman import unrolled
from smcssm.linalg import rows, stack, vector


class Innovation(NamedTuple):
    """log p(y_t | y_1:t-1) over present channels, and mean and sd of the predictive of every channel."""

    log_lik: Float[Array, "s n"]
    mean: Float[Array, "y s n"]
    sd: Float[Array, "y s n"]
    positive: Bool[Array, "s n"]


def predict(belief: Gaussian, F: Matrix, c: Matrix, chol_Q: Matrix, dt: Float[Array, "s 1"]) -> Gaussian:
    """x' = F x + c + chol_Q e over dt > 0; the identity over dt = 0."""
    m, L = _entries(belief)
    m, L = unrolled.predict(m, L, rows(F), vector(c), rows(chol_Q), dt == 0)
    return _gaussian(m, L, belief)


def update(
    belief: Gaussian,
    H: Matrix,
    d: Matrix,
    chol_R: Matrix,
    y: Float[Array, "y s 1"],
    mask: Bool[Array, "y s 1"],
) -> tuple[Gaussian, Innovation]:
    """Condition on y = H x + d + chol_R n, channels with mask False left out."""
    m, L = _entries(belief)
    m, L, moments = unrolled.update(m, L, rows(H), vector(d), rows(chol_R), y, mask)
    return _gaussian(m, L, belief), _innovation(moments, belief)


def step(
    belief: Gaussian,
    system: System,
    y: Float[Array, "y s 1"],
    mask: Bool[Array, "y s 1"],
    dt: Float[Array, "s 1"],
) -> tuple[Gaussian, Innovation]:
    """Predict, then update."""
    m, L = _entries(belief)
    m, L = unrolled.predict(m, L, rows(system.F), vector(system.c), rows(system.chol_Q), dt == 0)
    m, L, moments = unrolled.update(m, L, rows(system.H), vector(system.d), rows(system.chol_R), y, mask)
    return _gaussian(m, L, belief), _innovation(moments, belief)


def _entries(belief: Gaussian) -> tuple[list, list[list]]:
    nx = belief.mean.shape[0]
    return list(belief.mean), [[belief.chol[i, j] if j <= i else 0.0 for j in range(nx)] for i in range(nx)]


def _gaussian(m: list, L: list[list], like: Gaussian) -> Gaussian:
    return Gaussian(stack(m, like.mean[0]), stack(L, like.mean[0]))


def _innovation(moments: unrolled.Moments, like: Gaussian) -> Innovation:
    one = like.mean[0]
    return Innovation(
        stack(moments.log_lik, one),
        stack(moments.mean, one),
        stack(moments.sd, one),
        stack(moments.positive, one) > 0,
    )
