"""One step of the Kalman filter as PyTensor expressions, for use in any graph: the same kernels as the engine's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor.tensor as pt

from smcssm.bridges.pytensor_op import KalmanOp
from smcssm.errors import ModelError


def kalman_predict(mean: Any, chol: Any, F: Any, c: Any, chol_Q: Any) -> tuple[Any, Any]:
    """The belief N(mean, chol chol') one step ahead: x' = F x + c + chol_Q e.

    Args:
        mean: of the state, (nx,).
        chol: lower-triangular root of its covariance, (nx, nx); may be singular.
        F: (nx, nx); here and below expressions, arrays or nested lists of them.
        c: (nx,).
        chol_Q: (nx, nq) with nq <= nx.

    Returns:
        Mean and lower-triangular root of the predicted state.
    """
    op: Any = KalmanOp("predict")
    mean, chol = op(*map(tensor, (mean, chol, F, c, chol_Q)))
    return mean, chol


def kalman_update(mean: Any, chol: Any, y: Any, H: Any, d: Any, chol_R: Any) -> tuple[Any, Any, Any]:
    """The belief after y = H x + d + chol_R n, and log p(y); NaN in y is a missing value.

    Args:
        mean: of the state, (nx,).
        chol: lower-triangular root of its covariance, (nx, nx).
        y: one observation, (ny,).
        H: (ny, nx).
        d: (ny,).
        chol_R: (ny, ny).

    Returns:
        Mean and lower-triangular root of the filtered state, and the log density of y under the belief before it.
    """
    op: Any = KalmanOp("update")
    mean, chol, log_lik = op(*map(tensor, (mean, chol, H, d, chol_R, y)))
    return mean, chol, log_lik


def kalman_step(  # noqa: PLR0913
    mean: Any, chol: Any, y: Any, *, F: Any, c: Any, chol_Q: Any, H: Any, d: Any, chol_R: Any
) -> tuple[Any, Any, Any]:
    """``kalman_predict``, then ``kalman_update``: the belief after y and log p(y given the past)."""
    return kalman_update(*kalman_predict(mean, chol, F, c, chol_Q), y, H, d, chol_R)


def tensor(value: Any, name: str = "a matrix") -> Any:
    """A float64 tensor of expressions, arrays, or nested lists of numbers and expressions."""
    try:
        return pt.as_tensor(_stacked(value)).astype("float64")
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name}: expected numbers, arrays or PyTensor expressions, got {value!r}") from error


def _stacked(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return value if hasattr(value, "owner") else np.asarray(value, float)
    entries = [_stacked(v) for v in value]
    return pt.stack(entries) if any(hasattr(e, "owner") for e in entries) else np.stack(entries)
