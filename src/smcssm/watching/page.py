"""One page of a live view: the figures of ``smcssm.watching.figures`` in a Panel layout, with a headline and alarms."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import panel as pn

from smcssm.drawing import FAINT, MARK, digits
from smcssm.monitor import Alarm
from smcssm.watching.figures import Band, Calibration, Forecast, Particles, Picture
from smcssm.watching.frames import Frame

LISTED = 8  # alarms
_WIDE = "stretch_width"


class Page:
    """Shows frames; a page of its own for everybody who looks.

    Args:
        title: what is watched.
        channels: their names; the forecasts and the calibration are of one at a time, which can be chosen.
        hyperparameters: their labels.
        h: how many steps a forecast looks ahead.
    """

    def __init__(self, title: str, channels: tuple[str, ...], hyperparameters: list[str], h: int) -> None:
        self._title, self._channels = title, channels
        self.shown: Frame | None = None
        self._head = pn.pane.HTML(_headline(title, "no observation yet"), sizing_mode=_WIDE)
        self._alarms = pn.pane.HTML(_alarms((), channels), sizing_mode=_WIDE)
        self.chosen = pn.widgets.Select(options=list(channels), width=180, visible=len(channels) > 1)
        self.chosen.param.watch(self._choose, "value")
        forecast, bands = Forecast(h, channels), [Band(name) for name in hyperparameters]
        particles, calibration = Particles(), Calibration()
        self._pictures: list[Picture] = [forecast, *bands, particles, calibration]
        self.layout = pn.Column(
            pn.Row(self._head, self.chosen, sizing_mode=_WIDE),
            _pane(forecast.figure),
            pn.GridBox(*(_pane(band.figure) for band in bands), ncols=_columns(len(bands)), sizing_mode=_WIDE),
            pn.GridBox(_pane(particles.figure), _pane(calibration.figure), ncols=2, sizing_mode=_WIDE),
            self._alarms,
            sizing_mode=_WIDE,
        )

    def draw(self, frame: Frame) -> None:
        """Show a frame."""
        channel = self._channels.index(self.chosen.value)
        for picture in self._pictures:
            picture.draw(frame, channel)
        y = frame.steps["y"].values[-1, channel]
        when = f", {_stamp(frame.x)}" if frame.x.dtype.kind == "M" else ""
        self._head.object = _headline(
            self._title,
            f"after observation {frame.t}{when}: {'missing' if np.isnan(y) else digits(y, 4)}",
            f"status {frame.status}",
            f"log evidence {frame.log_evidence:.2f}",
            f"ESS {frame.steps['least_ess'].values[-1]:.0f} of {frame.floors[2]:.0f}",
            f"{frame.alarmed or 'no'} alarm" + "s" * (frame.alarmed > 1),
        )
        self._alarms.object = _alarms(frame.alarms[-LISTED:][::-1], self._channels)
        self.shown = frame

    def say(self, text: str) -> None:
        """In the headline."""
        self._head.object = _headline(self._title, text)

    def _choose(self, event: Any) -> None:
        del event
        if self.shown is not None:
            self.draw(self.shown)


def _columns(bands: int) -> int:
    """No more than three, and no row of a single one below a full one where that can be."""
    return 2 if bands == 4 else max(1, min(bands, 3))


def _stamp(x: np.ndarray) -> str:
    """The last time, without the parts that are zero in all of them."""
    for unit in ("D", "m", "s"):
        if (x.astype(f"datetime64[{unit}]") == x).all():
            return str(x[-1].astype(f"datetime64[{unit}]")).replace("T", " ")
    return str(x[-1]).replace("T", " ")


def _pane(figure: Any) -> Any:
    return pn.pane.Bokeh(figure, sizing_mode=_WIDE)


def _headline(title: str, *facts: str) -> str:
    said = " &nbsp;·&nbsp; ".join(map(escape, facts))
    return f"<b style='font-size:130%'>{escape(title)}</b><br>{said}"


def _alarms(alarms: tuple[Alarm, ...], channels: tuple[str, ...]) -> str:
    """The latest first, as a table."""
    if not alarms:
        return f"<span style='color:{FAINT}'>No alarm: forecasts are as good as they say.</span>"
    place = {a: "all" if a.kind == "change" else channels[a.channel] for a in alarms}
    cells = [(a.t, a.kind, place[a], a.since, digits(a.value, 4), digits(a.threshold, 4)) for a in alarms]
    names = "observation", "alarm", "channel", "since", "value", "threshold"
    head = "".join(f"<th style='text-align:left;padding-right:2em;color:{MARK}'>{name}</th>" for name in names)
    rows = ("".join(f"<td style='padding-right:2em'>{escape(str(cell))}</td>" for cell in row) for row in cells)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
