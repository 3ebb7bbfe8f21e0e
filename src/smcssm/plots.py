"""Pictures of an engine: forecasts, hyperparameters over time, moves, calibration. Matplotlib is loaded when used.

Everything comes from the engine's record, so a picture goes back as far as the record does. Each function returns a
matplotlib figure; ``axes`` are axes of your own to draw into, one for each panel. The time axis has the time stamps of
the observations where they came with one in order, else 1, 2, ...; ``index`` gives it other labels: numbers or
datetimes, one for each observation since the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from smcssm.comparison import probabilities
from smcssm.drawing import (
    AHEAD,
    BAR,
    DATA,
    FAINT,
    MARK,
    PAST,
    Z95,
    band,
    band_limits,
    digits,
    forecast_limits,
    legend,
    new_panels,
    note,
    pit_bars,
    time_axis,
    whole_numbers,
)
from smcssm.engine import Engine
from smcssm.errors import InputError
from smcssm.readout.diagnose import uniformity
from smcssm.readout.prior import prior_quantiles

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MODELS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_FEW = 400  # observations, up to which each one gets a mark that can be seen


def forecast_fan(  # noqa: PLR0913
    engine: Engine,
    last: int | None = None,
    h: int = 12,
    channel: str | int | None = None,
    *,
    times: Any = None,
    inputs: Any = None,
    noise_sd: Any = None,
    index: Any = None,
    axes: Any = None,
) -> Figure:
    """Data, the one-step forecasts they met (mean, and 90% as of a normal law), and the fan of the next h (50%, 90%).

    Args:
        engine: with a record.
        last: only so many of the last observations; all that are on record by default.
        h: how far to forecast; 0 for not at all.
        channel: name or number of one channel; all of them by default, a panel each.
        times: forecast at these times instead, as ``engine.forecast`` does.
        inputs: a row of inputs for each forecast, for a model that reads inputs.
        noise_sd: likewise, where observations came with one.
        index: labels of the observations, or of the observations and the h forecasts.
        axes: as many as there are channels to be drawn.
    """
    steps = _recorded(engine, last)
    numbers = _channels(engine, channel)
    if times is not None and index is not None:
        raise InputError("index: with times= the time stamps are the labels; leave one of the two out")
    ahead = None
    if h or times is not None:
        future = h if times is None else None
        ahead = engine.forecast(future, times=times, inputs=inputs, noise_sd=noise_sd, quantiles=_LEVELS)
    if "when" in steps.coords and index is None:
        steps = steps.sortby("when")  # late rows in their place
    x, ahead_x, numbered = _times(engine, steps, index, h, ahead)
    figure, panels = new_panels(axes, len(numbers), height=3.4)
    for ax, i in zip(panels, numbers, strict=True):
        _past(ax, x, steps, i)
        if ahead is not None:
            _fan(ax, ahead_x, ahead["quantiles"].values[:, i])
        y, mean, sd = (steps[name].values[:, i] for name in ("y", "predictive_mean", "predictive_sd"))
        ax.set_ylim(*forecast_limits(y, mean, sd, None if ahead is None else ahead["quantiles"].values[:, i]))
        ax.set_ylabel(engine.model.channel_names[i])
    legend(panels[0])
    time_axis(panels, x, numbered)
    return figure


def _past(ax: Axes, x: np.ndarray, steps: xr.Dataset, i: int) -> None:
    mean, sd = steps["predictive_mean"].values[:, i], steps["predictive_sd"].values[:, i]
    few, y, marker = len(x) <= _FEW, steps["y"].values[:, i], _alone(x)
    ax.plot(x, y, ls="", marker="o", ms=3.2 if few else 1.6, mew=0, color=DATA, zorder=3, label="data")
    ax.plot(x, mean, color=PAST, lw=1.4 if few else 0.7, marker=marker, label="one-step forecast: mean")
    band(ax, x, mean - Z95 * sd, mean + Z95 * sd, color=PAST, alpha=0.22, label="90%")


def _alone(x: np.ndarray) -> str | None:
    """A marker where a line would have no length."""
    return "o" if len(x) == 1 else None


def _fan(ax: Axes, x: np.ndarray, q: np.ndarray) -> None:
    """Quantiles ``[h, 5]`` as nested bands around the median."""
    ax.plot(x, q[:, 2], color=AHEAD, lw=1.6, marker=_alone(x), ms=4, label="forecast ahead: median")
    if len(x) == 1:  # a band has no width
        ax.vlines(x, q[:, 1], q[:, 3], color=AHEAD, lw=5, alpha=0.5, label="50%")
        ax.vlines(x, q[:, 0], q[:, 4], color=AHEAD, lw=2, alpha=0.5, label="90%")
    else:
        ax.fill_between(x, q[:, 1], q[:, 3], color=AHEAD, alpha=0.4, lw=0, label="50%")
        ax.fill_between(x, q[:, 0], q[:, 4], color=AHEAD, alpha=0.22, lw=0, label="90%")


def hyperparameters(engine: Engine, last: int | None = None, *, index: Any = None, axes: Any = None) -> Figure:
    """Median and 90% interval of every hyperparameter after each observation; the prior's at the left edge, in grey.

    Args:
        engine: with a record.
        last: only so many of the last observations.
        index: labels of the observations.
        axes: as many as there are hyperparameters, vectors counted by entry.
    """
    steps = _recorded(engine, last)
    x, _, numbered = _times(engine, steps, index)
    names = [str(name) for name in steps["hyperparameter"].values]
    columns = 1 if len(names) < 4 else 2
    figure, panels = new_panels(axes, len(names), height=2.3, columns=columns)
    before = prior_quantiles(engine.snapshot(), (0.05, 0.5, 0.95))
    for ax, name, q in zip(panels, names, np.moveaxis(steps["quantiles"].values, 1, 0), strict=True):
        ax.plot(x, q[:, 1], color=PAST, lw=1.6, marker=_alone(x), label="median")
        band(ax, x, q[:, 0], q[:, 2], color=PAST, alpha=0.25, label="90%")
        _prior_bar(ax, before[name])
        ax.set_ylim(*band_limits(q, before[name]))
        ax.set_ylabel(name)
        low, _, high = before[name]
        note(ax, f"prior 90%: {digits(low)} to {digits(high)}")
    legend(panels[0])
    time_axis(panels, x, numbered, columns)
    return figure


def _prior_bar(ax: Axes, q: np.ndarray) -> None:
    """The prior's interval and median in the left margin: data units upwards, axes units sideways."""
    up = {"transform": ax.get_yaxis_transform(), "solid_capstyle": "butt", "scalex": False}
    ax.plot([0.009, 0.009], [q[0], q[2]], color=FAINT, lw=6, alpha=0.5, label="prior", **up)
    ax.plot([0.002, 0.016], [q[1], q[1]], color=DATA, lw=2, **up)


def moves(engine: Engine, last: int | None = None, *, index: Any = None, axes: Any = None) -> Figure:
    """The effective sample size after each observation and before the move it calls for, and how moves were accepted.

    With several runs the effective sample size is that of the worst run.

    Args:
        engine: with a record.
        last: only so many of the last observations.
        index: labels of the observations.
        axes: two.
    """
    steps = _recorded(engine, last)
    x, _, numbered = _times(engine, steps, index)
    figure, panels = new_panels(axes, 2, height=2.5)
    above, below = panels
    snapshot = engine.snapshot()
    runs, n = snapshot.population.log_weight.shape
    ess, moved = steps["least_ess"].values, steps["moved"].values
    width, size = 1.2 if len(x) <= _FEW else 0.8, 6 if moved.sum() <= 20 else 4
    above.plot(x, ess, color=PAST, lw=width, marker=_alone(x), label="effective sample size")
    above.plot(x[moved], ess[moved], ls="", marker="v", ms=size, color=MARK, label="moved")
    above.axhline(snapshot.smc.ess_threshold * n, color=FAINT, ls="--", lw=1, label="threshold")
    above.axhline(10 * engine.prior.size, color=FAINT, ls=":", lw=1.2, label="least for a move")
    above.set_ylim(0, 1.05 * n)
    above.set_ylabel(f"ESS of {n}" + (", worst run" if runs > 1 else ""))
    below.vlines(x[moved], 0, steps["acceptance"].values[moved], color=MARK, lw=1.2)
    below.plot(x[moved], steps["acceptance"].values[moved], ls="", marker="o", ms=size, color=MARK)
    below.set_ylim(0, 1)
    below.set_ylabel("acceptance")
    legend(above)
    time_axis(panels, x, numbered)
    return figure


def pit_histogram(
    engine: Engine,
    last: int | None = None,
    bins: int | None = None,
    channel: str | int | None = None,
    *,
    axes: Any = None,
) -> Figure:
    """PIT values of the one-step forecasts: flat where they are calibrated, U where too narrow, a hump where too wide.

    The band holds 95% of the counts of a bar if the values are independent and uniform.

    Args:
        engine: with a record.
        last: only so many of the last observations.
        bins: how many bars; by the number of observations by default.
        channel: name or number of one channel; all of them by default.
        axes: as many as there are channels to be drawn.
    """
    steps, numbers = _recorded(engine, last), _channels(engine, channel)
    figure, panels = new_panels(axes, len(numbers), height=2.8, share=False)
    for ax, i in zip(panels, numbers, strict=True):
        pit = steps["pit"].values[:, i]
        pit = pit[~np.isnan(pit)]
        counts, expected, (low, high) = pit_bars(pit, bins)
        k = len(counts)
        ax.bar(np.arange(k) / k, counts, 1 / k, align="edge", color=BAR, edgecolor="white", lw=0.8)
        ax.axhspan(low, high, color=FAINT, alpha=0.25, lw=0, zorder=0, label="95% of uniform counts")
        ax.axhline(expected, color=DATA, lw=1, ls="--", label="expected")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.1 * max(high, counts.max(), 1))
        name = f", {engine.model.channel_names[i]}" if len(engine.model.channel_names) > 1 else ""
        ax.set_ylabel(f"count{name}")
        whole_numbers(ax.yaxis)
        p = f", Kolmogorov-Smirnov p = {uniformity(pit):.2g}" if len(pit) else ""
        ax.set_title(f"{len(pit)} value{'s' * (len(pit) != 1)}{p}", loc="right", fontsize="small", color=FAINT)
    legend(panels[0])
    panels[-1].set_xlabel("PIT of the one-step forecast")
    return figure


def model_probabilities(
    engines: Mapping[str, Engine], prior: Mapping[str, Any] | None = None, *, axes: Any = None
) -> Figure:
    """Posterior probabilities of models over time, as bands that add up to one; arguments as for ``ss.compare``."""
    table = probabilities(engines, prior)
    if not len(table):
        raise InputError("there is nothing to draw: the engines have taken no observation yet")
    figure, (ax,) = new_panels(axes, 1, height=2.8)
    ax.stackplot(table.index, table.to_numpy().T, labels=list(table.columns), colors=_MODELS, alpha=0.75, lw=0)
    ax.set_ylim(0, 1)
    ax.margins(x=0)
    ax.set_ylabel("model probability")
    legend(ax)
    ax.set_xlabel("observation")
    return figure


def _recorded(engine: Engine | Any, last: int | None) -> xr.Dataset:
    """The record of the last steps; of at least one."""
    if not isinstance(engine, Engine):
        raise InputError(f"expected an engine, got {type(engine).__name__}; of a fleet: fleet.engine(name)")
    steps = engine.record
    if not steps.sizes["time"]:
        raise InputError("there is nothing to draw: the engine has taken no observation yet")
    if last is not None and last < 1:
        raise InputError(f"last={last}: expected at least one observation")
    return steps if last is None else steps.isel(time=slice(-last, None))


def _channels(engine: Engine, channel: str | int | None) -> Sequence[int]:
    names = engine.model.channel_names
    if channel is None:
        return range(len(names))
    if channel in names:
        return [names.index(str(channel))]
    if isinstance(channel, int) and 0 <= channel < len(names):
        return [channel]
    raise InputError(f"channel={channel!r}: expected one of {', '.join(names)}, or its number")


def _times(
    engine: Engine, steps: xr.Dataset, index: Any, h: int = 0, ahead: xr.Dataset | None = None
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Places on the time axis of the recorded steps, and of h more or of a forecast; whether they are mere numbers."""
    rows = steps["time"].values - 1
    if index is None:
        stamps = steps["when"].values if "when" in steps.coords else rows[:0]
        known = ahead is None or "time" in ahead.coords
        if len(stamps) and known and (stamps[1:] >= stamps[:-1]).all():
            return stamps, stamps[:0] if ahead is None else ahead["time"].values, False
        return rows + 1, engine.t + 1 + np.arange(h), True
    labels = _values(index)
    if len(labels) not in (engine.t, engine.t + h):
        raise InputError(f"index has {len(labels)} labels: expected {engine.t}, one for each observation")
    if len(labels) == engine.t:
        step = np.median(np.diff(labels)) if engine.t > 1 else np.diff(labels[:1])
        ahead_x = labels[-1] + (np.arange(1, h + 1) * step if engine.t > 1 else np.zeros(h, step.dtype))
    else:
        ahead_x = labels[engine.t :]
    return labels[rows], ahead_x, False


def _values(index: Any) -> np.ndarray:
    """Numbers or datetime64; of stamps with a time zone the local time."""
    import pandas as pd

    labels = pd.Index(index)
    if isinstance(labels, pd.PeriodIndex):
        labels = labels.to_timestamp()
    if isinstance(labels, pd.DatetimeIndex):
        return np.asarray(labels.tz_localize(None), "datetime64[ns]")
    values = labels.to_numpy()
    if values.dtype.kind not in "iuf":
        raise InputError(f"index: expected numbers or datetimes, got {values.ravel()[:1]}")
    return values
