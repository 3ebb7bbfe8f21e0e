"""Panels, legends and time axes that the pictures of an engine share. Matplotlib is loaded when used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from smcssm.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAINT = "#767676"


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
    """Above the panel, where it covers nothing."""
    handles, names = ax.get_legend_handles_labels()
    ax.legend(
        handles,
        names,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=len(names),
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


def fit(ax: Axes, values: np.ndarray) -> None:
    """Limits that show all that is finite."""
    values = values[np.isfinite(values)]
    low, high = values.min(), values.max()
    pad = 0.06 * (high - low) or 1.0
    ax.set_ylim(low - pad, high + pad)


def time_axis(panels: Sequence[Axes], x: np.ndarray, index: Any, columns: int = 1) -> None:
    """Dates that name their month and year; labels under the lowest panel of each column."""
    for ax in panels:
        ax.margins(x=0.03)
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
        if index is None:
            ax.set_xlabel("observation")
