"""The Kalman filter of one particle as functions of arrays: what the PyTensor Ops compute, by ``kalman.sequential``.

Matrices of ``log_likelihood`` have a leading axis of time, of length 1 where they are constant. Missing values are NaN.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from smcssm import kalman
from smcssm.core import System
from smcssm.gaussian import Gaussian
from smcssm.linalg import rows, stack, triangularise

SIGNATURES = {
    "log_likelihood": "(x),(x,x),(f,x,x),(c,x),(q,x,w),(h,y,x),(d,y),(r,y,y),(t,y),(t)->(t)",
    "predict": "(x),(x,x),(x,x),(x),(x,w)->(x),(x,x)",
    "update": "(x),(x,x),(y,x),(y),(y,y),(y)->(x),(x,x),()",
}


def log_likelihood(m0: Array, chol_P0: Array, *arrays: Array) -> tuple[Array]:
    """log p(y_t | y_1:t-1) for F, c, chol_Q, H, d, chol_R, y and dt: the identity over dt = 0."""
    *matrices, y, dt = (_at_one_particle(a) for a in arrays)
    constant = [len(M) == 1 for M in matrices]
    varying = [None if alone else M for M, alone in zip(matrices, constant, strict=True)]
    length = len(y)
    if any(M is not None and len(M) != length for M in varying):
        raise ValueError(f"matrices have lengths {[len(M) for M in matrices]}: expected 1 or that of y, {length}")

    def step(belief: Gaussian, row: tuple) -> tuple[Gaussian, Array]:
        here, y, dt = row
        system = System(*(M[0] if new is None else new for M, new in zip(matrices, here, strict=True)))
        belief, innovation = kalman.step(belief, system, *_masked(y), dt)
        return belief, innovation.log_lik[0, 0]

    mean = _at_one_particle(m0)
    start = Gaussian(mean, stack(triangularise(rows(_at_one_particle(chol_P0))), mean[0]))
    return (jax.lax.scan(step, start, (varying, y, dt))[1],)


def predict(mean: Array, chol: Array, F: Array, c: Array, chol_Q: Array) -> tuple[Array, Array]:
    """The belief one step ahead."""
    mean, chol, F, c, chol_Q = map(_at_one_particle, (mean, chol, F, c, chol_Q))
    belief = kalman.predict(Gaussian(mean, chol), F, c, chol_Q, jnp.ones((1, 1), mean.dtype))
    return belief.mean[..., 0, 0], belief.chol[..., 0, 0]


def update(
    mean: Array, chol: Array, H: Array, d: Array, chol_R: Array, y: Array
) -> tuple[Array, Array, Array]:
    """The belief after y, and log p(y)."""
    mean, chol, H, d, chol_R, y = map(_at_one_particle, (mean, chol, H, d, chol_R, y))
    belief, innovation = kalman.update(Gaussian(mean, chol), H, d, chol_R, *_masked(y))
    return belief.mean[..., 0, 0], belief.chol[..., 0, 0], innovation.log_lik[0, 0]


def _at_one_particle(a: Array) -> Array:
    return jnp.asarray(a)[..., None, None]


def _masked(y: Array) -> tuple[Array, Array]:
    mask = ~jnp.isnan(y)
    return jnp.where(mask, y, 0.0), mask


FUNCTIONS = {"log_likelihood": log_likelihood, "predict": predict, "update": update}
