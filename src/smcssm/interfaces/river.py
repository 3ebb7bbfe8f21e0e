"""The methods of river's ``time_series.base.Forecaster``, so that its progressive evaluation takes an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from smcssm.engine import Engine
from smcssm.errors import InputError, ModelError


class River:
    """``learn_one`` and ``forecast`` around an engine of one channel.

    Args:
        engine: it is used, not copied.
    """

    def __init__(self, engine: Engine) -> None:
        if len(engine.model.channel_names) != 1:
            raise ModelError(f"River: expected a model of one channel, got {', '.join(engine.model.channel_names)}")
        self.engine = engine

    def learn_one(self, y: Any, x: Mapping[str, Any] | None = None) -> None:
        """Take one observation, None or NaN if it is missing, and the inputs of the model by name."""
        self.engine.step(np.nan if y is None else y, inputs=self._row(x))

    def forecast(self, horizon: int, xs: Sequence[Mapping[str, Any]] | None = None) -> list[float]:
        """Means of the next observations; ``xs`` are the inputs that will come with them."""
        if self.engine.model.input_names:
            given = [] if xs is None else [self._row(x) for x in xs]
            if len(given) != horizon:
                raise InputError(f"forecast({horizon}) of a model with inputs: expected as many xs, got {len(given)}")
            ahead = self.engine.forecast(horizon, inputs=given)
        else:
            ahead = self.engine.forecast(horizon)
        return ahead["mean"].values[:, 0].tolist()

    def _row(self, x: Mapping[str, Any] | None) -> list[Any] | None:
        """Inputs in the order of the model; what it does not know is left out, as river's models do."""
        names = self.engine.model.input_names
        if not names:
            return None
        lacking = [name for name in names if name not in (x or {})]
        if lacking:
            raise InputError(f"x lacks {', '.join(lacking)}: the model reads {', '.join(names)}")
        return [(x or {})[name] for name in names]
