"""Seasonal effects, as effects of each season that sum to zero or as trigonometric terms.

Harvey (1989), Forecasting, Structural Time Series Models and the Kalman Filter, section 2.3.4; Durbin & Koopman
(2012), section 3.2.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from smcssm.core import Matrix, Observation, Theta
from smcssm.errors import ModelError
from smcssm.linalg.entries import block_diagonal
from smcssm.models.arguments import Numbers, count, deviations, diagonal, numbers
from smcssm.models.structural import AbstractComponent
from smcssm.priors.base import HalfNormal, Marginal


def Seasonal(
    period: Numbers, kind: str = "dummy", harmonics: int | None = None, **options: Any
) -> DummySeasonal | FourierSeasonal:
    """A pattern that repeats every ``period`` steps; hyperparameter ``sigma_seasonal`` while it drifts.

    Args:
        period: steps in a cycle; with ``kind="fourier"`` it need not be whole (365.25).
        kind: "dummy", an effect for each season (``DummySeasonal``), or "fourier", ``harmonics`` pairs of sine and
            cosine (``FourierSeasonal``): smoother and, with few harmonics, smaller and faster.
        harmonics: only for "fourier"; at most and by default period / 2.
        **options: drifting (False: a fixed pattern, no hyperparameter), initial_mean, initial_sd, name.
    """
    if kind == "fourier":
        return FourierSeasonal(period, harmonics, **options)
    if kind != "dummy":
        raise ModelError(f'Seasonal(kind): expected "dummy" or "fourier", got {kind!r}')
    if harmonics is not None:
        raise ModelError(f'Seasonal(harmonics={harmonics}) needs kind="fourier"; kind="dummy" has none')
    return DummySeasonal(period, **options)


class DummySeasonal(AbstractComponent):
    """effect' = -(sum of the last period - 1 effects) + sigma_seasonal e: the effects of one cycle sum to about zero.

    ``sigma_seasonal`` is a standard deviation per step. The states are the effects of this season and of the
    period - 2 before it, N(initial_mean, initial_sd²) each at the first observation, the present season first.
    """

    period: int
    drifting: bool
    initial_mean: tuple[float, ...]
    initial_sd: tuple[float, ...]
    name: str | None

    inputs: ClassVar[tuple[str, ...]] = ()
    continuous_time: ClassVar[bool] = False

    def __init__(
        self,
        period: Numbers,
        *,
        drifting: bool = True,
        initial_mean: Numbers = 0.0,
        initial_sd: Numbers = 1.0,
        name: str | None = None,
    ) -> None:
        whole = int(period) if isinstance(period, float) and period.is_integer() else period
        self.period, self.drifting, self.name = count("Seasonal(period)", whole, 2), bool(drifting), name
        self.initial_mean = numbers("Seasonal(initial_mean)", initial_mean, self.period - 1)
        self.initial_sd = deviations("Seasonal(initial_sd)", initial_sd, self.period - 1)

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """One standard deviation, while the pattern drifts."""
        return {"sigma_seasonal": ()} if self.drifting else {}

    @property
    def states(self) -> tuple[str, ...]:
        """The effect of this season and of those before it."""
        return ("seasonal", *(f"seasonal_lag{k}" for k in range(1, self.period - 1)))

    def initial(self, theta: Theta) -> tuple[Matrix, Matrix]:
        """Independent effects; the one season that is not a state is minus their sum."""
        return self.initial_mean, diagonal(self.initial_sd)

    def transition(self, theta: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """The next season's effect, the others shift."""
        n = self.period - 1
        shift = [[1.0 if j == i else 0.0 for j in range(n)] for i in range(n - 1)]
        noise = [[theta["sigma_seasonal"]]] + [[0.0]] * (n - 1) if self.drifting else [[]] * n
        return [[-1.0] * n, *shift], noise

    def row(self, theta: Theta, obs: Observation) -> Matrix:
        """This season's effect is observed."""
        return [1.0] + [0.0] * (self.period - 2)

    def marginals(self, scale: float) -> dict[str, Marginal]:
        """HalfNormal of a tenth of the scale."""
        return {"sigma_seasonal": HalfNormal(0.1 * scale)} if self.drifting else {}


class FourierSeasonal(AbstractComponent):
    """A sum of harmonics k = 1, 2, ..., each a pair (c, s) that turns by 2 pi k / period per step.

    (c, s)' = rotation (c, s) + sigma_seasonal (e1, e2), the c observed; at k = period / 2 the s is never seen and left
    out. ``sigma_seasonal`` is a standard deviation per step, the same for all. Every state is
    N(initial_mean, initial_sd²) at the first observation, where c_k multiplies cos(2 pi k t / period) and s_k
    sin(2 pi k t / period), t steps later.
    """

    period: float
    harmonics: int
    drifting: bool
    initial_mean: tuple[float, ...]
    initial_sd: tuple[float, ...]
    name: str | None

    inputs: ClassVar[tuple[str, ...]] = ()
    continuous_time: ClassVar[bool] = False

    def __init__(
        self,
        period: Numbers,
        harmonics: int | None = None,
        *,
        drifting: bool = True,
        initial_mean: Numbers = 0.0,
        initial_sd: Numbers = 1.0,
        name: str | None = None,
    ) -> None:
        (self.period,) = numbers("Seasonal(period)", period, 1)
        if self.period < 2:
            raise ModelError(f"Seasonal(period): expected at least 2 steps, got {period!r}")
        most = int(self.period // 2)
        self.harmonics = count("Seasonal(harmonics)", most if harmonics is None else harmonics, 1)
        if self.harmonics > most:
            raise ModelError(
                f"Seasonal(harmonics={harmonics}): {period} steps have at most {most} harmonics, "
                "faster ones repeat slower ones"
            )
        self.drifting, self.name = bool(drifting), name
        self.initial_mean = numbers("Seasonal(initial_mean)", initial_mean, len(self.states))
        self.initial_sd = deviations("Seasonal(initial_sd)", initial_sd, len(self.states))

    @property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """One standard deviation, while the pattern drifts."""
        return {"sigma_seasonal": ()} if self.drifting else {}

    @property
    def states(self) -> tuple[str, ...]:
        """Pairs, but for the fastest harmonic of an even period."""
        pairs = [f"seasonal_{part}{k}" for k in range(1, self.harmonics + 1) for part in ("cos", "sin")]
        return tuple(pairs[:-1] if 2 * self.harmonics == self.period else pairs)

    def initial(self, theta: Theta) -> tuple[Matrix, Matrix]:
        """Independent amplitudes."""
        return self.initial_mean, diagonal(self.initial_sd)

    def transition(self, theta: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """Rotations; numbers known when compiling."""
        blocks = []
        for k in range(1, self.harmonics + 1):
            cos, sin = _turn(k / self.period)
            blocks.append([[-1.0]] if 2 * k == self.period else [[cos, sin], [-sin, cos]])
        n = len(self.states)
        return block_diagonal(blocks), diagonal([theta["sigma_seasonal"]] * n) if self.drifting else [[]] * n

    def row(self, theta: Theta, obs: Observation) -> Matrix:
        """The first of each pair is observed."""
        return [1.0 if "_cos" in state else 0.0 for state in self.states]

    def marginals(self, scale: float) -> dict[str, Marginal]:
        """HalfNormal of a tenth of the scale."""
        return {"sigma_seasonal": HalfNormal(0.1 * scale)} if self.drifting else {}


def _turn(share: float) -> tuple[float, float]:
    """Cosine and sine of a share of a full turn; exact at quarter turns, where math.cos(pi / 2) is 6e-17."""
    if (4 * share).is_integer():
        return [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)][int(4 * share) % 4]
    return math.cos(2 * math.pi * share), math.sin(2 * math.pi * share)
