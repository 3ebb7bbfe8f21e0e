"""What a journal costs: microseconds per commit of one row by fsync policy, bytes, and reading it back.

A history in memory is the rival, in the same run. Rows are of one channel and one run. Prints a table; ``--json FILE``
keeps the figures, ``--folder`` says on which disk.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from smcssm import journal
from smcssm.core import Observation
from smcssm.history import History

POLICIES = {"never": math.inf, "1 s": 1.0, "always": 0.0}


def block(count: int) -> Observation:
    ones = np.ones((count, 1))
    return Observation(y=ones[..., None], mask=ones[..., None] > 0, dt=ones, index=ones.astype(np.int64))


def commits(history: History, count: int) -> np.ndarray:
    """Seconds of each of so many commits of one row."""
    row, seconds = block(1), np.empty(count)
    for i in range(count):
        start = time.perf_counter()
        history.append(row, 1)
        history.commit(i + 1)
        seconds[i] = time.perf_counter() - start
    return seconds


def told(seconds: np.ndarray) -> dict[str, float]:
    first, last = np.array_split(seconds, 10)[1], np.array_split(seconds, 10)[-1]
    us = {"median": np.median(seconds), "99%": np.quantile(seconds, 0.99), "longest": seconds.max()}
    return {k: 1e6 * float(v) for k, v in us.items()} | {"late over early": float(np.median(last) / np.median(first))}


def replay(history: History) -> float:
    """Microseconds per chunk."""
    start = time.perf_counter()
    count = sum(1 for _ in history.chunks(np.zeros(1, int)))
    return 1e6 * (time.perf_counter() - start) / count


def study(count: int, folder: Path | None) -> tuple[dict[str, Any], float, float, dict[str, float]]:
    """Figures of commits; bytes per row; microseconds per row to read and check it; and per chunk."""
    memory = History()
    found: dict[str, Any] = {"memory": told(commits(memory, count))}
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        for name, fsync in POLICIES.items():
            history = journal.create(journal.Journal(Path(inside) / name, fsync), {})
            found[f"fsync {name}"] = told(commits(history, count if fsync else 500))
        path = Path(inside) / "never"
        size = (path / journal.ROWS).stat().st_size / count
        start = time.perf_counter()
        read = journal.read(path)
        check = 1e6 * (time.perf_counter() - start) / count
        chunks = {"disk": replay(read.history), "memory": replay(memory)}
    return found, size, check, chunks


def rows(quick: bool) -> list[dict[str, Any]]:
    found, _, check, chunks = study(20_000 if quick else 200_000, None)
    here = {"unit": "µs", "rival": "in memory"}
    out = [
        {"what": f"commit of a row, fsync {name}", **here}
        | {"ours": found[f"fsync {name}"]["median"], "theirs": found["memory"]["median"]}
        for name in POLICIES
    ]
    out.append({"what": "replay of a chunk", **here, "ours": chunks["disk"], "theirs": chunks["memory"]})
    return [*out, {"what": "reading a row back and checking it", "unit": "µs", "ours": check}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    arguments = parser.parse_args()
    found, size, check, chunks = study(arguments.rows, arguments.folder)
    for name, row in found.items():
        print(f"{name:14}" + "  ".join(f"{k} {v:.3g}" for k, v in row.items()))
    print(f"{size:g} bytes per row, {check:.2g} us per row to read and check it; us per chunk:", chunks)
    if arguments.json:
        found |= {"bytes per row": size, "check": check, "chunk": chunks}
        arguments.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
