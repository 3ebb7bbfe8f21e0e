"""The frames of Prophet: ``ds`` and ``y`` in; ``ds``, ``yhat``, ``yhat_lower`` and ``yhat_upper`` out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from smcssm.engine import Engine
from smcssm.errors import InputError, ModelError

if TYPE_CHECKING:
    import pandas as pd


class Prophet:
    """``fit``, ``predict`` and frames of Prophet's columns around an engine of one channel.

    ``fit`` may be called again with what has come since: it goes on. Intervals are quantiles of the exact predictive
    law of an observation.

    Args:
        engine: it is used, not copied; with a record, if the past is to be in the frames.
        interval_width: probability of the intervals.
    """

    def __init__(self, engine: Engine, interval_width: float = 0.8) -> None:
        if len(engine.model.channel_names) != 1:
            raise ModelError(f"Prophet: expected a model of one channel, got {', '.join(engine.model.channel_names)}")
        if not 0 < interval_width < 1:
            raise ModelError(f"interval_width={interval_width:g}: expected a number between 0 and 1")
        self.engine, self.interval_width = engine, interval_width
        self._ds: list[Any] = []

    def fit(self, df: Any) -> Prophet:
        """Take the rows of a pandas, polars or arrow frame: times ``ds``, values ``y``, inputs by their names."""
        import narwhals as nw

        frame = nw.from_native(df, eager_only=True, pass_through=True)
        inputs = self.engine.model.input_names
        if not isinstance(frame, nw.DataFrame):
            raise InputError(f"fit: expected a frame with columns ds and y, got {type(df).__name__}")
        lacking = [name for name in ("ds", "y", *inputs) if name not in frame.columns]
        if lacking:
            raise InputError(f"fit: the frame has columns {', '.join(frame.columns)}, and lacks {', '.join(lacking)}")
        ds = frame["ds"].to_numpy()
        before = self.engine.t
        self.engine.update(
            frame["y"].to_numpy(),
            time=ds,
            inputs=frame.select(*inputs).to_numpy() if inputs else None,
            progress=False,
        )
        self._ds += list(ds[: self.engine.t - before])
        return self

    def predict(self, periods: int, *, history: bool = True, inputs: Any = None) -> pd.DataFrame:
        """The next ``periods`` units of time, and before them the one-step forecasts of what was seen.

        Of the past as much as the engine's record holds: each value as it was forecast from those before it, not as it
        was fitted, with the interval of a normal law of the forecast's mean and sd.
        """
        import pandas as pd

        tail = (1 - self.interval_width) / 2
        ahead = self.engine.forecast(periods, inputs=inputs, quantiles=(tail, 1 - tail))
        q = ahead["quantiles"].values[:, 0]
        columns = {"yhat": ahead["mean"].values[:, 0], "yhat_lower": q[:, 0], "yhat_upper": q[:, 1]}
        future = pd.DataFrame({"ds": ahead["time"].values, **columns})
        return pd.concat([self._past(tail), future], ignore_index=True) if history else future

    def _past(self, tail: float) -> pd.DataFrame:
        import pandas as pd
        from scipy.special import ndtri

        steps = self.engine.record.isel(channel=0)
        if len(self._ds) != self.engine.t:
            raise InputError(
                f"the engine has taken {self.engine.t} observations, {len(self._ds)} of them by fit: what came "
                "otherwise has no ds; use history=False"
            )
        mean, sd = steps["predictive_mean"].values, steps["predictive_sd"].values
        ends = {"yhat_lower": mean + ndtri(tail) * sd, "yhat_upper": mean - ndtri(tail) * sd}
        return pd.DataFrame({"ds": np.array(self._ds)[steps["time"].values - 1], "yhat": mean, **ends})
