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


SMALL = 6  # states, up to which a gradient through the kernels pays: at 4 and 13 states it compiles in 7 and 240 s


def log_likelihood(*arrays: Array) -> tuple[Array]:
    """log p(y_t | y_1:t-1) for m0, chol_P0, F, c, chol_Q, H, d, chol_R, y and dt: the identity over dt = 0."""
    return _forward(*arrays)[0] if len(arrays[0]) <= SMALL else _with_pullback(*arrays)


@jax.custom_vjp
def _with_pullback(*arrays: Array) -> tuple[Array]:
    return _forward(*arrays)[0]


def _forward(m0: Array, chol_P0: Array, *arrays: Array) -> tuple[tuple[Array], tuple]:
    """Log-likelihoods, and what the pullback needs: the arguments, and the belief before every step."""
    *matrices, y, dt = (_at_one_particle(a) for a in arrays)

    def step(belief: Gaussian, row: tuple) -> tuple[Gaussian, tuple]:
        varying, y, dt = row
        after, innovation = kalman.step(belief, System(*_at(matrices, varying)), *_masked(y), dt)
        return after, (innovation.log_lik[0, 0], belief.mean[..., 0, 0], belief.chol[..., 0, 0])

    mean = _at_one_particle(m0)
    start = Gaussian(mean, stack(triangularise(rows(_at_one_particle(chol_P0))), mean[0]))
    log_lik, means, roots = jax.lax.scan(step, start, (_varying(matrices, len(y)), y, dt))[1]
    return (log_lik,), ((m0, chol_P0, *arrays), means, roots)


def _backward(kept: tuple, cotangents: tuple[Array]) -> tuple[Array, ...]:
    """As in ``bridges.native``, where the formulas are."""
    (m0, chol_P0, *matrices, y, dt), means, roots = kept

    def step(adjoints: tuple, row: tuple) -> tuple[tuple, tuple]:
        (m_, P_), (varying, y, dt, m, L, g) = adjoints, row
        F, c, chol_Q, H, d, chol_R = _at(matrices, varying)
        moves, mask = dt != 0, ~jnp.isnan(y)
        F = jnp.where(moves, F, jnp.eye(len(m)))
        chol_Q = jnp.where(moves, chol_Q, 0.0)
        H, chol_R = (jnp.where(mask[:, None], M, 0.0) for M in (H, chol_R))
        mean, P = F @ m + jnp.where(moves, c, 0.0), _square(F @ L) + _square(chol_Q)
        S = H @ P @ H.T + _square(chol_R) + jnp.diag(jnp.where(mask, 0.0, 1.0))
        W = jnp.linalg.inv(S)
        u = W @ jnp.where(mask, y - H @ mean - d, 0.0)
        K = P @ H.T @ W
        A = jnp.eye(len(m)) - K @ H
        Hu, Km, Am = H.T @ u, K.T @ m_, A.T @ m_
        M, PK, AP = 0.5 * g * (jnp.outer(u, u) - W), P_ @ K, A @ P
        of_S = M + K.T @ PK - _symmetric(jnp.outer(Km, u))
        of_H = 2 * (M @ H @ P - PK.T @ AP) + jnp.outer(u, AP.T @ m_ + g * mean) - jnp.outer(Km, mean + P @ Hu)
        of_y = jnp.where(mask, Km - g * u, 0.0)
        m_, P_ = Am + g * Hu, A.T @ P_ @ A + H.T @ M @ H + _symmetric(jnp.outer(Am, Hu))
        out = (
            jnp.where(moves, 2 * P_ @ F @ _square(L) + jnp.outer(m_, m), 0.0),
            jnp.where(moves, m_, 0.0),
            2 * P_ @ chol_Q,
            jnp.where(mask[:, None], of_H, 0.0),
            -of_y,
            2 * of_S @ chol_R,
        )
        return (F.T @ m_, F.T @ P_ @ F), (out, of_y)

    zero = jnp.zeros_like(m0), jnp.zeros((len(m0), len(m0)), m0.dtype)
    along = (_varying(matrices, len(y)), y, dt, means, roots, cotangents[0])
    (m_, P_), (each, of_y) = jax.lax.scan(step, zero, along, reverse=True)
    alone = [out.sum(axis=0, keepdims=True) if len(M) == 1 else out for M, out in zip(matrices, each, strict=True)]
    return (m_, 2 * P_ @ chol_P0, *alone, of_y, jnp.zeros_like(dt))


_with_pullback.defvjp(_forward, _backward)


def _varying(matrices: list[Array], length: int) -> list[Array | None]:
    """Those that vary in time, to be scanned over."""
    if any(len(M) not in (1, length) for M in matrices):
        raise ValueError(f"matrices have lengths {[len(M) for M in matrices]}: expected 1 or that of y, {length}")
    return [None if len(M) == 1 else M for M in matrices]


def _at(matrices: list[Array], varying: list[Array | None]) -> list[Array]:
    return [M[0] if row is None else row for M, row in zip(matrices, varying, strict=True)]


def _square(L: Array) -> Array:
    return L @ L.T


def _symmetric(A: Array) -> Array:
    return 0.5 * (A + A.T)


def predict(mean: Array, chol: Array, F: Array, c: Array, chol_Q: Array) -> tuple[Array, Array]:
    """The belief one step ahead."""
    mean, chol, F, c, chol_Q = map(_at_one_particle, (mean, chol, F, c, chol_Q))
    belief = kalman.predict(Gaussian(mean, chol), F, c, chol_Q, jnp.ones((1, 1), mean.dtype))
    return belief.mean[..., 0, 0], belief.chol[..., 0, 0]


def update(mean: Array, chol: Array, H: Array, d: Array, chol_R: Array, y: Array) -> tuple[Array, Array, Array]:
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
