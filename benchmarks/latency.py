"""The worst step: does it grow with the length of the stream?

AR(1) + noise, the same stream and seed run several times in one process. The least time that each step took over the
runs removes the machine's noise, and what remains is the engine's own. `Paced` must stay flat, moves, surprises and
all; `Immediate` stands beside it, once, with its moves over all of history. Prints a table; ``--json FILE`` keeps it.
"""

import argparse
import gc
import json
import time
from pathlib import Path

import numpy as np

import smcssm as ss

WINDOWS = ((1_000, 10_000), (10_000, 50_000), (50_000, 100_000))
SURPRISES = {3_000: 12.0, 30_000: 30.0, 70_000: 50.0}  # a narrower posterior is harder to surprise


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
    """Milliseconds of each step after warm-up, at which steps a move ended, and which were bridging a surprise."""
    model = ss.models.AR(1) + ss.models.Noise()
    engine = ss.Engine(model, model.default_prior(1.0), n_particles=n_particles, schedule=schedule)
    engine.warmup()
    took, moved, bridging = np.empty(len(y)), np.zeros(len(y), bool), np.zeros(len(y), bool)
    gc.collect()
    gc.disable()
    for t, value in enumerate(y):
        start = time.perf_counter()
        info = engine.step(value)
        took[t] = 1e3 * (time.perf_counter() - start)
        moved[t], bridging[t] = info.moved, info.status == ss.Status.BRIDGING
    gc.enable()
    return took, moved, bridging


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--particles", type=int, default=1000)
    arguments = parser.parse_args()
    y = stream(arguments.steps)
    found = {}
    for name, schedule, runs in (("paced", ss.Paced(), arguments.runs), ("immediate", ss.Immediate(), 1)):
        least, moved, bridging = times(schedule, y, arguments.particles)
        for _ in range(runs - 1):
            least = np.minimum(least, times(schedule, y, arguments.particles)[0])
        for first, last in WINDOWS:
            part = least[first:last]
            if len(part):
                figures = {
                    "median ms": np.median(part),
                    "99.9% ms": np.quantile(part, 0.999),
                    "longest ms": part.max(),
                    "moves": int(moved[first:last].sum()),
                    "bridging": int(bridging[first:last].sum()),
                }
                found[f"{name} {first}-{last}"] = figures
                print(f"{name:10s} [{first:6d}, {last:6d})  " + "  ".join(f"{k} {v:.4g}" for k, v in figures.items()))
    first, last = (found.get(f"paced {a}-{b}") for a, b in (WINDOWS[0], WINDOWS[-1]))
    if first and last:
        found["paced ratio"] = last["longest ms"] / first["longest ms"]
        print(f"paced: longest step late over early {found['paced ratio']:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
