"""A linear Gaussian state-space model as a PyMC distribution: its density is the marginal Kalman likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, no_type_check

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.link.numba.dispatch.basic import numba_njit
from pytensor.link.numba.dispatch.random import numba_core_rv_funcify
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.random.variable import shared_rng
from pytensor.tensor.variable import TensorConstant

from smcssm.bridges.expressions import tensor
from smcssm.bridges.kernels import SIGNATURES
from smcssm.bridges.native import simulate
from smcssm.bridges.pytensor_op import KalmanOp
from smcssm.errors import ModelError

_OF_LIKELIHOOD = SIGNATURES["log_likelihood"].split("->")[0]
_PARAMETERS = _OF_LIKELIHOOD.replace("(t,y),", "")
MATRICES = {"F": 2, "c": 1, "chol_Q": 2, "H": 2, "d": 1, "chol_R": 2}
"""What may vary in time, and the number of axes of one step's."""


class LinearGaussianRV(RandomVariable):
    """Draws of all observations, (t, y), or (t) of one channel."""

    name = "LinearGaussianSSM"
    signature = f"{_PARAMETERS}->(t,y)"
    dtype = "float64"
    _print_name = ("LinearGaussianSSM", "\\operatorname{LinearGaussianSSM}")

    @classmethod
    def rng_fn(cls, rng: np.random.Generator, *args: Any) -> np.ndarray:
        """Simulate."""
        *parameters, size = args
        core = [len(dims.split(",")) for dims in _PARAMETERS.strip("()").split("),(")]
        batch = np.broadcast_shapes(*(p.shape[: p.ndim - n] for p, n in zip(parameters, core, strict=True)))
        batch = batch if size is None else tuple(size)
        wide = [np.broadcast_to(p, (*batch, *p.shape[p.ndim - n :])) for p, n in zip(parameters, core, strict=True)]
        draws = [cls._shape(simulate(rng, *(p[i] for p in wide))) for i in np.ndindex(*batch)]
        return np.stack(draws).reshape(*batch, *draws[0].shape)

    @staticmethod
    def _shape(y: np.ndarray) -> np.ndarray:
        return y


class OneChannelRV(LinearGaussianRV):
    """The same for a single channel without an axis of channels."""

    signature = f"{_PARAMETERS}->(t)"

    @staticmethod
    def _shape(y: np.ndarray) -> np.ndarray:
        return y[:, 0]


@numba_core_rv_funcify.register(LinearGaussianRV)
@no_type_check
def _(op: LinearGaussianRV, node: Any) -> Any:
    one_channel, draw = isinstance(op, OneChannelRV), simulate

    @numba_njit
    def several(rng, m0, P0, F, c, Q, H, d, R, dt):  # noqa: PLR0913, PLR0917
        return draw(rng, m0, P0, F, c, Q, H, d, R, dt)

    @numba_njit
    def one(rng, m0, P0, F, c, Q, H, d, R, dt):  # noqa: PLR0913, PLR0917
        return draw(rng, m0, P0, F, c, Q, H, d, R, dt)[:, 0].copy()

    return one if one_channel else several


class LinearGaussianSSM(pm.Distribution):
    """Observations of a linear Gaussian state-space model, states integrated out exactly.

        x_1 ~ N(initial_mean, initial_chol initial_chol')        the state at the first observation
        x_t = F x_{t-1} + c + chol_Q e_t
        y_t = H x_t + d + chol_R n_t

    Used inside a ``pm.Model`` like any distribution: ``pm.sample`` and other samplers, prior and posterior predictive
    draws of y, and ``pm.compute_log_likelihood`` (one value per time) work, and ``Engine.from_pymc`` goes on online.

    Args:
        name: of the observations.
        initial_mean, initial_chol: (nx,) and (nx, nx); the root need not be triangular and may be singular.
        F, H: (nx, nx) and (ny, nx). All matrices: arrays, expressions of the model's variables, or nested lists of
            numbers and expressions, whose numbers cost the engine nothing where they are 0 or 1.
        c, d, chol_Q, chol_R: (nx,), (ny,), (nx, nq) with nq <= nx, and (ny, ny); zero by default.
        time_varying: names of those of F, c, chol_Q, H, d, chol_R that have a leading axis of time; row t leads to
            and describes observation t, so that row 0 of F, c and chol_Q is not used.
        observed: (t, ny), or (t,) of one channel: array, pandas object or ``pm.Data``; NaN is a missing value.
        n_timesteps: where nothing is observed and no dims are given.
        dims: of the observations.
    """

    rv_type = LinearGaussianRV

    def __new__(cls, name: str, *, observed: Any = None, **kwargs: Any) -> Any:
        """Register the observations in the model."""
        data = None if observed is None else _data(name, observed)
        return super().__new__(cls, name, observed=data, **kwargs)

    @classmethod
    def rv_op(cls, *parameters: Any, one_channel: bool, rng: Any = None, size: Any = None, **kwargs: Any) -> Any:
        """The random variable."""
        op = OneChannelRV() if one_channel else LinearGaussianRV()
        rng = shared_rng(seed=None) if rng is None else rng
        drawn: Any = op(*parameters, size=size, rng=rng, return_next_rng=True, **kwargs)
        return drawn[1]

    @classmethod
    def dist(  # type: ignore[override]  # noqa: PLR0913
        cls,
        *,
        initial_mean: Any,
        initial_chol: Any,
        F: Any,
        H: Any,
        c: Any = None,
        chol_Q: Any = None,
        d: Any = None,
        chol_R: Any = None,
        time_varying: Sequence[str] = (),
        n_timesteps: Any = None,
        shape: Any = None,
        **kwargs: Any,
    ) -> Any:
        """The distribution outside of a model."""
        if n_timesteps is None and shape is None:
            raise ModelError("LinearGaussianSSM: how many observations? Give observed=, dims= or n_timesteps=")
        length = shape[0] if n_timesteps is None else n_timesteps
        m0 = _checked("initial_mean", initial_mean, 1)
        given = {"F": F, "c": c, "chol_Q": chol_Q, "H": H, "d": d, "chol_R": chol_R}
        matrices = _matrices(given, m0.shape[0], time_varying)
        parameters = [m0, _checked("initial_chol", initial_chol, 2), *matrices, _steps(length)]
        one_channel = shape is not None and len(shape) == 1
        return super().dist(parameters, shape=shape, one_channel=one_channel, **kwargs)

    @staticmethod
    def logp(value: Any, *parameters: Any) -> Any:
        """log p(y_t given the past) for every t."""
        *matrices, dt = parameters
        y = value if value.ndim == 2 else value[:, None]
        return KalmanOp("log_likelihood")(*matrices, y, dt)

    @staticmethod
    def support_point(rv: Any, size: Any, *parameters: Any) -> Any:
        """Zero; observations have no starting point."""
        length, channels = parameters[-1].shape[0], parameters[5].shape[1]
        return pt.zeros((length,) if rv.ndim == 1 else (length, channels))


def _matrices(given: dict[str, Any], nx: Any, time_varying: Sequence[str]) -> list[Any]:
    """All with a leading axis of time."""
    if unknown := sorted(set(time_varying) - set(MATRICES)):
        raise ModelError(f"time_varying: got {', '.join(unknown)}, expected some of {', '.join(MATRICES)}")
    ny = tensor(given["H"], "H").shape[-2]
    zeros = {"c": (nx,), "chol_Q": (nx, 1), "d": (ny,), "chol_R": (ny, ny)}
    out = []
    for name, axes in MATRICES.items():
        varies = name in time_varying
        if given[name] is None:
            if varies:
                raise ModelError(f"time_varying: {name} was not given")
            matrix = pt.zeros(zeros[name])
        else:
            matrix = _checked(name, given[name], axes + varies, ", as it is in time_varying" if varies else "")
        out.append(matrix if varies else matrix[None])
    return out


def _checked(name: str, value: Any, axes: int, why: str = "") -> Any:
    matrix = tensor(value, name)
    if matrix.ndim != axes:
        hint = "" if why or matrix.ndim != axes + 1 else f'; of a leading axis of time, say time_varying=("{name}",)'
        raise ModelError(f"LinearGaussianSSM: {name} has {matrix.ndim} axes, expected {axes}{why}{hint}")
    return matrix


def _steps(length: Any) -> Any:
    """dt: 0 at the first observation, then 1."""
    if hasattr(length, "owner") and not isinstance(length, TensorConstant):
        steps: Any = pt.minimum(pt.arange(length), 1)
        return steps.astype("float64")
    return np.minimum(np.arange(int(getattr(length, "data", length))), 1.0)


def _data(name: str, observed: Any) -> Any:
    """As a tensor, so that PyMC does not take NaN for something to be imputed."""
    if not hasattr(observed, "owner"):
        values = observed.to_numpy() if hasattr(observed, "to_numpy") else observed
        values = values.filled(np.nan) if isinstance(values, np.ma.MaskedArray) else values
        try:
            observed = pt.constant(np.array(values, float), name=name)
        except (TypeError, ValueError) as error:
            raise ModelError(f"observed: expected numbers, got {type(observed).__name__}") from error
    if observed.ndim not in (1, 2):
        raise ModelError(f"observed: got {observed.ndim} axes, expected (time, channel), or (time,) of one channel")
    return observed
