"""What a benchmark reports, and where and when it was measured."""

import datetime
import importlib.metadata
import os
import platform
import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("smcssm", "jax", "jaxlib", "numpy", "equinox", "pymc", "blackjax")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One comparison. ``ours`` and ``theirs`` are repeats in ``unit``; first calls, compiling included, in seconds.

    ``error`` is that of the answer, ours and theirs in the same measure, which ``error_of`` names. ``interval`` is that
    of the ratio, 90%, where repeats were drawn anew (bootstrap). A rival that could not run has a ``note`` for why.
    """

    what: str
    unit: str
    ours: float
    rival: str = ""
    theirs: float | None = None
    first: float | None = None
    their_first: float | None = None
    error: float | None = None
    their_error: float | None = None
    error_of: str = ""
    interval: tuple[float, float] | None = None
    more_is_better: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is; below 1 it is worse."""
        if self.theirs is None:
            return None
        return self.ours / self.theirs if self.more_is_better else self.theirs / self.ours


def about(quick: bool) -> dict[str, Any]:
    """Versions, hardware, date."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "sizes": "quick" if quick else "full",
        "python": platform.python_version(),
        "versions": versions,
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def machine_of(told: dict[str, Any]) -> str:
    """Processor, cores and load, of what ``about`` told."""
    return f"{told['cpu']}, {told['cores']} core{'' if told['cores'] == 1 else 's'}, load {told['load']:.1f}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def peak_mib() -> float:
    """The most memory that this process has had; where Linux does not say so, that of its parent counts as well."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
