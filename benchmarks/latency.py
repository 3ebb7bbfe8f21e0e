"""The worst step: does it grow with the length of the stream?

AR(1) + noise, the same stream and seed run several times in one process. The least processor time that each step took
over the runs removes the machine's noise, and what remains is the engine's own. `Paced` must stay flat, moves,
surprises and all; `Immediate` stands beside it, once, with its moves over all of history. Prints a table; ``--json
FILE`` keeps it.
"""

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import smcssm as ss

MODEL = ss.models.AR(1) + ss.models.Noise()
PRIOR = MODEL.default_prior(1.0)  # one for all runs, which then share compiled programs
WINDOWS = ((1_000, 10_000), (10_000, 50_000), (50_000, 100_000))
SCHEDULES = {"paced": ss.Paced(), "immediate": ss.Immediate()}
SURPRISES = {600: 15.0, 3_000: 23.0, 30_000: 40.0, 70_000: 50.0}  # as surprising, for the posterior of their time


def stream(length: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = np.zeros(length)
    for t in range(1, length):
        x[t] = 0.8 * x[t - 1] + 0.5 * rng.standard_normal()
    y = x + 0.7 * rng.standard_normal(length)
    for when, size in SURPRISES.items():
        if when < length:
            y[when] += size
    return y


def times(
    schedule: ss.Paced | ss.Immediate, y: np.ndarray, n_particles: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Processor ms of each step after warm-up, at which a move ended, and which were bridging a surprise."""
    engine = ss.Engine(MODEL, PRIOR, n_particles=n_particles, schedule=schedule)
    engine.warmup()
    took, moved, bridging = np.empty(len(y)), np.zeros(len(y), bool), np.zeros(len(y), bool)
    gc.collect()
    gc.disable()
    for t, value in enumerate(y):
        start = time.process_time()
        info = engine.step(value)
        took[t] = 1e3 * (time.process_time() - start)
        moved[t], bridging[t] = info.moved, info.status == ss.Status.BRIDGING
    gc.enable()
    return took, moved, bridging


Windows = tuple[tuple[int, int], ...]


def study(steps: int, repeats: int, n_particles: int, windows: Windows) -> dict[str, Any]:
    """Figures of each schedule in each window."""
    y = stream(steps)
    found: dict[str, Any] = {}
    for (name, schedule), runs in zip(SCHEDULES.items(), (repeats, 1), strict=True):
        least, moved, bridging = times(schedule, y, n_particles)
        for _ in range(runs - 1):
            least = np.minimum(least, times(schedule, y, n_particles)[0])
        for first, last in windows:
            part = least[first:last]
            if len(part):
                figures = {
                    "median ms": float(np.median(part)),
                    "99.9% ms": float(np.quantile(part, 0.999)),
                    "longest ms": float(part.max()),
                    "moves": int(moved[first:last].sum()),
                    "bridging": int(bridging[first:last].sum()),
                }
                found[f"{name} {first}-{last}"] = figures
                print(f"{name:10s} [{first:6d}, {last:6d})  " + "  ".join(f"{k} {v:.4g}" for k, v in figures.items()))
    return found


def rows(quick: bool) -> list[dict[str, Any]]:
    windows = ((300, 1000), (1000, 2500), (2500, 4000)) if quick else WINDOWS
    found = study(windows[-1][-1], 2 if quick else 3, 1000, windows)
    out = [
        {"what": f"{figure} step, observations {first} to {last}", "unit": "CPU ms"}
        | {"ours": found[f"paced {first}-{last}"][f"{figure} ms"], "rival": "Immediate (ours as well)"}
        | {"theirs": found[f"immediate {first}-{last}"][f"{figure} ms"]}
        for first, last in windows
        for figure in ("median", "longest")
    ]
    late, early = ({k: found[f"{k} {a}-{b}"]["longest ms"] for k in SCHEDULES} for a, b in (windows[-1], windows[0]))
    growth = {k: late[k] / early[k] for k in SCHEDULES}
    row = {"what": "longest step of the last observations over that of the first", "unit": "times"}
    return [*out, row | {"ours": growth["paced"], "rival": out[0]["rival"], "theirs": growth["immediate"]}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--particles", type=int, default=1000)
    arguments = parser.parse_args()
    found = study(arguments.steps, arguments.runs, arguments.particles, WINDOWS)
    first, last = (found.get(f"paced {a}-{b}") for a, b in (WINDOWS[0], WINDOWS[-1]))
    if first and last:
        found["paced ratio"] = last["longest ms"] / first["longest ms"]
        print(f"paced: longest step late over early {found['paced ratio']:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
