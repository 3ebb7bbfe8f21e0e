"""The pictures of a live view in Bokeh, each with ``draw(frame, channel)``: sources get new arrays, nothing is rebuilt.

They show what ``smcssm.plots`` draws of the record, in the same colours and within the same limits.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from bokeh.models import (
    BasicTicker,
    BasicTickFormatter,
    BoxAnnotation,
    ColumnDataSource,
    DatetimeTicker,
    DatetimeTickFormatter,
    HoverTool,
    Legend,
    LegendItem,
    Range1d,
    Span,
)
from bokeh.plotting import figure as new_figure

from smcssm.drawing import AHEAD, BAR, DATA, FAINT, MARK, PAST, Z95, band_limits, digits, forecast_limits, pit_bars
from smcssm.readout.diagnose import uniformity
from smcssm.watching.frames import Frame


class Picture(Protocol):
    """One figure."""

    figure: Any

    def draw(self, frame: Frame, channel: int) -> None:
        """Show a frame."""
        ...


class Forecast:
    """Data, the one-step forecasts that they met, the forecast ahead, and where alarms were raised."""

    def __init__(self, h: int, channels: tuple[str, ...]) -> None:
        self.figure, self._channels = _figure(340), channels
        self._past, past = _source("t", "x", "y", "mean", "low", "high")
        self._ahead, ahead = _source("x", "q05", "q25", "q50", "q75", "q95")
        self._alarms, alarms = _source("x", "y", "kind")
        f, many = self.figure, h > 1
        band = f.varea("x", "low", "high", source=past, color=PAST, alpha=0.22)
        mean = f.line("x", "mean", source=past, color=PAST, line_width=1.4)
        outer = f.varea("x", "q05", "q95", source=ahead, color=AHEAD, alpha=0.22)
        inner = f.varea("x", "q25", "q75", source=ahead, color=AHEAD, alpha=0.4)
        f.segment("x", "q05", "x", "q95", source=ahead, color=AHEAD, alpha=0.0 if many else 0.5, line_width=3)
        median = f.line("x", "q50", source=ahead, color=AHEAD, line_width=1.6)
        data = f.scatter("x", "y", source=past, size=4, color=DATA)
        alarm = f.scatter("x", "y", source=alarms, size=13, marker="circle", fill_alpha=0, color=MARK, line_width=2)
        shown = [("data", [data]), ("one-step forecast: mean, 90%", [mean, band])]
        shown += [("forecast ahead: median, 50%, 90%", [median, inner, outer])] if many else []
        self._alarm = _legend(f, [*shown, ("alarm", [alarm])])[-1]
        tips = [("observation", "@t"), ("value", "@y"), ("forecast", "@mean")]
        f.add_tools(HoverTool(renderers=[data], tooltips=tips))
        f.add_tools(HoverTool(renderers=[alarm], tooltips=[("alarm", "@kind")]))

    def draw(self, frame: Frame, channel: int) -> None:
        """Show a frame."""
        y, mean, sd = (frame.steps[n].values[:, channel] for n in ("y", "predictive_mean", "predictive_sd"))
        t = frame.steps["time"].values
        self._past(t=t, x=frame.x, y=y, mean=mean, low=mean - Z95 * sd, high=mean + Z95 * sd)
        q = np.zeros((0, 5)) if frame.ahead is None else frame.ahead[:, channel]
        names = ("q05", "q25", "q50", "q75", "q95")
        self._ahead(x=frame.ahead_x[: len(q)], **dict(zip(names, q.T, strict=True)))
        here = [a for a in frame.alarms if a.t >= t[0] and (a.kind == "change" or a.channel == channel)]
        self._alarm.visible = bool(here)  # without any its mark would be blank
        rows = np.searchsorted(t, [a.t for a in here])
        self._alarms(x=frame.x[rows], y=y[rows], kind=np.asarray([f"{a.kind}, since {a.since}" for a in here], object))
        self.figure.yaxis.axis_label = self._channels[channel]
        _range(self.figure.y_range, forecast_limits(y, mean, sd, q if len(q) else None))
        _time_axis(self.figure, np.concatenate([frame.x, frame.ahead_x[: len(q)]]))


class Band:
    """Median and 90% interval of one hyperparameter; in numbers above it, as is the prior's."""

    def __init__(self, name: str) -> None:
        self.figure, self._name = _figure(190, name), name
        self._past, past = _source("x", "low", "median", "high")
        self.figure.varea("x", "low", "high", source=past, color=PAST, alpha=0.25)
        self.figure.line("x", "median", source=past, color=PAST, line_width=1.6)

    def draw(self, frame: Frame, channel: int) -> None:
        """Show a frame."""
        del channel
        q = frame.steps["quantiles"].sel(hyperparameter=self._name).values
        self._past(x=frame.x, low=q[:, 0], median=q[:, 1], high=q[:, 2])
        before = frame.prior[self._name]
        _range(self.figure.y_range, band_limits(q, before))
        _time_axis(self.figure, frame.x)
        low, median, high = map(digits, q[-1])
        told = f"prior [{digits(before[0])}, {digits(before[2])}]"
        self.figure.title.text = f"{self._name}: {median} [{low}, {high}]; {told}"


class Particles:
    """The effective sample size, and where particles were moved."""

    def __init__(self) -> None:
        self.figure = _figure(230, "Effective sample size")
        self._all, every = _source("x", "ess")
        self._moved, moved = _source("x", "ess", "acceptance")
        self.figure.line("x", "ess", source=every, color=PAST, line_width=1.2)
        mark = self.figure.scatter("x", "ess", source=moved, size=8, marker="inverted_triangle", color=MARK)
        self._floors = [Span(dimension="width", line_color=FAINT, line_dash=dash) for dash in ("dashed", "dotted")]
        self.figure.renderers.extend(self._floors)
        tips = [("effective sample size", "@ess{0}"), ("acceptance of the move", "@acceptance{0.00}")]
        self.figure.add_tools(HoverTool(renderers=[mark], tooltips=tips))

    def draw(self, frame: Frame, channel: int) -> None:
        """Show a frame."""
        del channel
        ess, moved = frame.steps["least_ess"].values, frame.steps["moved"].values
        self._all(x=frame.x, ess=ess)
        self._moved(x=frame.x[moved], ess=ess[moved], acceptance=frame.steps["acceptance"].values[moved])
        for line, at in zip(self._floors, frame.floors, strict=False):
            line.location = at
        _range(self.figure.y_range, (0.0, 1.05 * frame.floors[2]))
        _time_axis(self.figure, frame.x)
        last = frame.steps["acceptance"].values[moved]
        tail = f", acceptance of the last {last[-1]:.2f}" if len(last) else ""
        self.figure.xaxis.axis_label = f"triangles: {moved.sum()} moves{tail}"


class Calibration:
    """Histogram of the PIT values: flat where forecasts are calibrated."""

    def __init__(self) -> None:
        self.figure = _figure(230, "Calibration")
        self._bars, bars = _source("left", "right", "count")
        sides = dict(left="left", right="right", top="count", bottom=0)
        self.figure.quad(**sides, source=bars, fill_color=BAR, line_color="white")
        self._band = BoxAnnotation(fill_color=FAINT, fill_alpha=0.25, level="underlay")
        self._expected = Span(dimension="width", line_color=DATA, line_dash="dashed")
        self.figure.add_layout(self._band)
        self.figure.add_layout(self._expected)
        self.figure.xaxis.axis_label = "PIT of the one-step forecast (grey: 95% of uniform counts)"

    def draw(self, frame: Frame, channel: int) -> None:
        """Show a frame."""
        pit = frame.steps["pit"].values[:, channel]
        pit = pit[~np.isnan(pit)]
        if not len(pit):
            return
        counts, expected, (low, high) = pit_bars(pit)
        edges = np.linspace(0, 1, len(counts) + 1)
        self._bars(left=edges[:-1], right=edges[1:], count=counts)
        self._band.bottom, self._band.top, self._expected.location = low, high, expected
        _range(self.figure.y_range, (0.0, 1.1 * max(high, counts.max(), 1)))
        self.figure.title.text = f"Calibration: {len(pit)} values, Kolmogorov-Smirnov p = {uniformity(pit):.2g}"


_DATES: dict[str, Any] = dict(hours="%d %b %H:%M", days="%d %b", months="%b %Y", hourmin="%H:%M", minutes="%H:%M")


def _figure(height: int, title: str = "") -> Any:
    f: Any = new_figure(height=height, sizing_mode="stretch_width", tools="", toolbar_location=None, title=title)
    f.x_range, f.y_range = Range1d(start=0, end=1), Range1d(start=0, end=1)
    f.title.text_font_size = "12px"
    f.yaxis.formatter = BasicTickFormatter(power_limit_low=-5, power_limit_high=7)
    f.min_border_left, f.axis.minor_tick_line_color = 60, None
    f.outline_line_color, f.grid.grid_line_alpha = None, 0.4
    return f


def _source(*names: str) -> tuple[Any, ColumnDataSource]:
    """A source, and a function that gives it new columns."""
    source: Any = ColumnDataSource({name: [] for name in names})

    def fill(**columns: np.ndarray) -> None:
        source.data = columns

    return fill, source


def _legend(f: Any, items: list[tuple[str, list[Any]]]) -> list[LegendItem]:
    """Above the panel, where it covers nothing."""
    entries = [LegendItem(label=label, renderers=renderers) for label, renderers in items]
    legend: Any = Legend(location="top_left", orientation="horizontal")
    legend.border_line_color, legend.padding, legend.label_text_font_size = None, 0, "12px"
    legend.items, legend.spacing = entries, 16
    f.add_layout(legend, "above")
    return entries


def _range(axis: Any, limits: tuple[float, float]) -> None:
    axis.update(start=limits[0], end=limits[1])


def _time_axis(f: Any, x: np.ndarray) -> None:
    """Dates or numbers, all of it from edge to edge."""
    dates = x.dtype.kind == "M"
    if dates != isinstance(f.xaxis[0].formatter, DatetimeTickFormatter):
        f.xaxis.formatter = DatetimeTickFormatter(**_DATES) if dates else BasicTickFormatter()
        f.xaxis.ticker = DatetimeTicker() if dates else BasicTicker()
    ends = x[[0, -1]].astype("datetime64[us]").astype(float) / 1e3 if dates else x[[0, -1]].astype(float)
    pad = 0.02 * (ends[1] - ends[0]) or 1.0
    f.x_range.update(start=ends[0] - pad, end=ends[1] + pad)
