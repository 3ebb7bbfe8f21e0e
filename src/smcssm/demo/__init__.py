"""The demo: two real series, learned one observation at a time."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from smcssm.demo import buoy, nile


def run(output: Path, fast: bool = False, console: Console | None = None) -> None:
    """Stream both, print what was learned, write figures and ArviZ files to a folder."""
    console, start = console or Console(highlight=False), time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    nile.run(output, console)
    buoy.run(output, console, fast)
    console.print(f"\n{time.perf_counter() - start:.0f} s in all; figures and ArviZ files are in {output}/:")
    console.print("  " + "\n  ".join(sorted(path.name for path in output.iterdir())))
