"""Panels, legends and time axes that the pictures of an engine share. Matplotlib is loaded when used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from smcssm.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito: told apart by colour-blind readers, and in grey
DATA, PAST, AHEAD, MARK, FAINT = "#222222", "#0072B2", "#D55E00", "#D55E00", "#767676"
BAR = "#73B1D7"  # PAST on white, opaque
Z95 = 1.6448536269514722
_LINE = 110  # letters that stand beside each other above a panel


def new_panels(
    axes: Any, count: int, height: float, columns: int = 1, share: bool = True
) -> tuple[Figure, Sequence[Axes]]:
    """A new figure of ``count`` panels, or the user's axes."""
    plt = pyplot()
    if axes is not None:
        panels = list(np.ravel(axes))
        if len(panels) != count:
            raise InputError(f"axes: got {len(panels)}, expected {count}")
        return panels[0].figure, panels
    rows = -(-count // columns)
    size = (8.0 if columns == 1 else 11.0, 0.7 + height * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, sharex=share, layout="constrained", squeeze=False)
    panels = list(grid.ravel())
    for spare in panels[count:]:
        spare.remove()
    for ax in panels[:count]:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, panels[:count]


def pyplot() -> Any:
    """Matplotlib, or how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'smcssm[plots]'") from error
    return plt


def legend(ax: Axes) -> None:
    """Above the panel, where it covers nothing; in several rows where the names are many or long."""
    handles, names = ax.get_legend_handles_labels()
    lengths = [len(name) + 5 for name in names]
    ax.legend(
        handles,
        names,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=len(names) if sum(lengths) <= _LINE else max(1, _LINE // max(lengths)),
        frameon=False,
        fontsize="small",
        borderaxespad=0.2,
        columnspacing=1.2,
        handlelength=1.4,
    )


def note(ax: Axes, text: str) -> None:
    """In the upper right corner of the panel: above it is the legend, and a panel may be narrow."""
    place = {"xy": (1, 1), "xycoords": "axes fraction", "xytext": (-2, -2), "textcoords": "offset points"}
    box = {"boxstyle": "square,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75}
    ax.annotate(text, **place, ha="right", va="top", fontsize="small", color=FAINT, bbox=box)


def digits(value: float, n: int = 3) -> str:
    """So many significant digits, below a million without an exponent."""
    return f"{value:.0f}" if 10**n - 0.5 <= abs(value) < 1e6 else f"{value:.{n}g}"


def limits(values: np.ndarray) -> tuple[float, float]:
    """Ends of an axis that shows all that is finite."""
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    pad = 0.06 * (high - low) or 1.0
    return low - pad, high + pad


def forecast_limits(y: np.ndarray, mean: np.ndarray, sd: np.ndarray, ahead: np.ndarray | None) -> tuple[float, float]:
    """Show all data and the fan; a vague forecast at the start may leave the panel."""
    widths = sd if ahead is None else np.append(sd, np.ptp(ahead[0]) / (2 * Z95))
    usual = sd <= 3 * np.quantile(widths, 0.5, method="lower")
    seen = [y, (mean - Z95 * sd)[usual], (mean + Z95 * sd)[usual]]
    return limits(np.concatenate(seen if ahead is None else [*seen, ahead.ravel()]))


def band_limits(q: np.ndarray, before: np.ndarray) -> tuple[float, float]:
    """Of quantiles ``[t, 3]``: the start may leave the panel; a short run is shown beside its prior."""
    return limits(q[len(q) // 20 :] if len(q) > 20 else np.append(q, before))


def pit_bars(pit: np.ndarray, bins: int | None = None) -> tuple[np.ndarray, float, tuple[float, float]]:
    """Counts of the bars, the count expected, and an interval that holds 95% of the counts of uniform values."""
    from scipy import stats

    k = int(np.clip(len(pit) // 10, 5, 20)) if bins is None else bins
    low, high = stats.binom.ppf([0.025, 0.975], len(pit), 1 / k)
    return np.histogram(pit, k, (0.0, 1.0))[0], len(pit) / k, (float(low), float(high))


def band(ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, **style: Any) -> None:
    """A filled band; of one x, where that has no width, a bar."""
    if len(x) == 1:
        ax.vlines(x, low, high, lw=4, **style)
    else:
        ax.fill_between(x, low, high, lw=0, **style)


def whole_numbers(axis: Any) -> None:
    """Ticks of something that is counted."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=1))


def time_axis(panels: Sequence[Axes], x: np.ndarray, numbered: bool, columns: int = 1) -> None:
    """Dates that name their month and year; labels under the lowest panel of each column."""
    for ax in panels:
        ax.margins(x=0.03)
        if numbered:
            whole_numbers(ax.xaxis)
        if x.dtype.kind == "M":
            from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

            locator = AutoDateLocator(minticks=3, maxticks=8, interval_multiples=False)
            ax.xaxis.set_major_locator(locator)
            ax.xaxis.set_major_formatter(
                ConciseDateFormatter(
                    locator,
                    formats=["%Y", "%b", "%d %b", "%H:%M", "%H:%M", "%S.%f"],
                    zero_formats=["", "%b %Y", "%d %b", "%d %b", "%H:%M", "%H:%M"],
                    offset_formats=["", "", "%Y", "%d %b %Y", "%d %b %Y", "%d %b %Y %H:%M"],
                )
            )
    for ax in panels[-columns:]:
        ax.tick_params(labelbottom=True)
        if numbered:
            ax.set_xlabel("observation")
