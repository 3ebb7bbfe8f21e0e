"""The forecasting methods of statsmodels' results: ``get_forecast(h).summary_frame(alpha=0.05)`` and its kin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from smcssm.engine import Engine
from smcssm.errors import InputError, ModelError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


class Statsmodels:
    """What code written for the results of a ``statsmodels`` fit asks for, of an engine.

    Intervals are quantiles of the exact predictive law, not mean and standard error; and hyperparameters are integrated
    out, where statsmodels puts their estimate. ``params`` and ``bse`` are posterior means and standard deviations,
    ``llf`` is the log evidence.

    Args:
        engine: it is used, not copied.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def nobs(self) -> int:
        """How many observations there are."""
        return self.engine.t

    @property
    def llf(self) -> float:
        """Log evidence: parameters integrated out, not maximised."""
        return self.engine.log_evidence

    @property
    def params(self) -> pd.Series:
        """Posterior means of the hyperparameters."""
        return self._posterior("mean")

    @property
    def bse(self) -> pd.Series:
        """Their posterior standard deviations."""
        return self._posterior("sd")

    def _posterior(self, column: str) -> pd.Series:
        import pandas as pd

        table = self.engine.summary()
        return pd.Series(table[column].to_numpy(), index=table.index)

    def append(self, endog: Any, exog: Any = None, **fields: Any) -> Statsmodels:
        """Take more observations, as for ``engine.update``; the posterior goes on, nothing is fitted again."""
        self.engine.update(endog, inputs=exog, progress=False, **fields)
        return self

    def forecast(self, steps: int = 1, exog: Any = None) -> pd.Series | pd.DataFrame:
        """Means of the next observations."""
        return self.get_forecast(steps, exog).predicted_mean

    def get_forecast(self, steps: int = 1, exog: Any = None) -> Forecast:
        """The next ``steps`` observations, given the present ones; ``exog`` are their inputs."""
        return Forecast(self.engine, steps, exog)


class Forecast:
    """What ``get_forecast`` gives in statsmodels: of one channel series, of several frames with a column each.

    Labels are those of the times, where observations came with times; otherwise they go on from the number of
    observations, the first of which is 0.
    """

    def __init__(self, engine: Engine, steps: int, exog: Any) -> None:
        self._engine, self._t, self._exog = engine, engine.t, exog
        self._table = self._at(steps, (0.5,))

    def _at(self, steps: int, quantiles: tuple[float, ...]) -> xr.Dataset:
        return self._engine.forecast(steps, inputs=self._exog, quantiles=quantiles)

    @property
    def row_labels(self) -> pd.Index:
        """Times, or numbers of observations."""
        import pandas as pd

        if "time" in self._table.coords:
            return pd.Index(self._table["time"].values)
        return pd.RangeIndex(self._t, self._t + self._table.sizes["step"])

    @property
    def predicted_mean(self) -> pd.Series | pd.DataFrame:
        """Means of the forecast."""
        return self._wrapped("mean", "predicted_mean")

    @property
    def se_mean(self) -> pd.Series | pd.DataFrame:
        """Standard deviations of the forecast, noise of the observations included, as in statsmodels."""
        return self._wrapped("sd", "se_mean")

    @property
    def var_pred_mean(self) -> pd.Series | pd.DataFrame:
        """Their squares."""
        return self._wrapped("sd", "var_pred_mean", power=2)

    def _wrapped(self, column: str, name: str, power: int = 1) -> pd.Series | pd.DataFrame:
        import pandas as pd

        values, channels = self._table[column].values ** power, list(self._engine.model.channel_names)
        if len(channels) == 1:
            return pd.Series(values[:, 0], index=self.row_labels, name=name)
        return pd.DataFrame(values, index=self.row_labels, columns=channels)

    def conf_int(self, alpha: float = 0.05) -> pd.DataFrame:
        """Central intervals that hold an observation with probability 1 - alpha: all lower ends, then the upper."""
        import pandas as pd

        if not 0 < alpha < 1:
            raise InputError(f"alpha={alpha:g}: expected a number between 0 and 1")
        if self._engine.t != self._t:
            raise InputError(
                f"this forecast was made after {self._t} observations, and the engine has taken {self._engine.t}: "
                "call get_forecast again"
            )
        q = self._at(self._table.sizes["step"], (alpha / 2, 1 - alpha / 2))["quantiles"].values
        names = self._engine.model.channel_names
        columns = [f"{end} {name}" for end in ("lower", "upper") for name in names]
        return pd.DataFrame(np.concatenate([q[..., 0], q[..., 1]], axis=1), index=self.row_labels, columns=columns)

    def summary_frame(self, endog: int = 0, alpha: float = 0.05) -> pd.DataFrame:
        """Columns mean, mean_se, mean_ci_lower and mean_ci_upper, of channel number ``endog``."""
        import pandas as pd

        names = self._engine.model.channel_names
        if not 0 <= endog < len(names):
            raise ModelError(f"endog={endog}: the model has channels 0 to {len(names) - 1}, {', '.join(names)}")
        ends = self.conf_int(alpha)
        columns = {"mean": self._table["mean"].values[:, endog], "mean_se": self._table["sd"].values[:, endog]}
        columns |= {f"mean_ci_{end}": ends[f"{end} {names[endog]}"].to_numpy() for end in ("lower", "upper")}
        frame = pd.DataFrame(columns, index=self.row_labels)
        return frame.rename_axis(columns=names[endog])
