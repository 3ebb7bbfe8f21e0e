"""docs/images/benchmarks.png: every ratio to another library, one line for each benchmark and rival."""

import re
from collections.abc import Mapping
from typing import Any

from benchmarks.records import ROOT, Record

PATH = ROOT / "docs" / "images" / "benchmarks.png"


def ratios(results: Mapping[str, dict[str, Any]]) -> dict[str, list[float]]:
    """By benchmark and rival, where there is a rival that ran; variants of ours are no rivals."""
    found: dict[str, list[float]] = {}
    for name, result in results.items():
        for r in (Record(**row) for row in result["rows"]):
            if r.ratio is not None and r.ratio > 0 and "ours as well" not in r.rival and r.rival != "in memory":
                rival = re.split(r", (?:N =|NUTS)", r.rival)[0]
                found.setdefault(f"{name}: {rival}", []).append(r.ratio)
    return found


def draw(results: Mapping[str, dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    found = ratios(results)
    figure, axes = plt.subplots(figsize=(8.0, 0.6 + 0.24 * len(found)), layout="constrained")
    for i, values in enumerate(found.values()):
        colours = ["#c0392b" if v < 1 else "#2c6fbb" for v in values]
        axes.scatter(values, [i] * len(values), c=colours, s=22, alpha=0.75, linewidths=0)
    axes.axvline(1.0, color="0.4", linewidth=0.8)
    axes.set(xscale="log", xlabel="how many times better ours is; red: worse", ylim=(len(found) - 0.5, -0.5))
    axes.set_yticks(range(len(found)), list(found), fontsize=8)
    axes.grid(axis="both", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(PATH, dpi=110)
    plt.close(figure)
