"""What a user waits for: the import, the command line's help, and one step of a warm engine.

The import is compared with ``import jax, equinox`` in alternating fresh processes; steps that moved the population are
reported apart from those that did not. All seconds are of the processor, which other work on the machine changes least.
Prints a table; ``--json FILE`` keeps the figures.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

IMPORTS = {"jax, equinox": "import jax, equinox", "smcssm": "import smcssm; smcssm.Engine"}


def seconds(command: list[str]) -> float:
    before = os.times()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def imports(repeats: int) -> dict[str, float]:
    """Median of a process that imports; the two in turn, so that a drifting machine hits both."""
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(repeats + 1):
        for name, code in IMPORTS.items():
            times[name].append(seconds([sys.executable, "-c", code]))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def steps(n_particles: int, count: int) -> dict[str, float]:
    """Processor milliseconds per step of a local level model, after warm-up."""
    import numpy as np

    import smcssm as ss

    prior = ss.priors.Independent(
        {"sigma_level": ss.priors.HalfNormal(1.0), "sigma_obs": ss.priors.HalfNormal(2.0)}
    )
    engine = ss.Engine(ss.models.LocalLevel(0.0, 10.0), prior, n_particles=n_particles)
    engine.warmup()
    rng = np.random.default_rng(0)
    y = np.cumsum(0.3 * rng.standard_normal(count)) + rng.standard_normal(count)
    quiet, moved = [], []
    for value in y:
        start = time.process_time()
        info = engine.step(value)
        (moved if info.moved else quiet).append(1e3 * (time.process_time() - start))
    return {
        "median without a move": statistics.median(quiet),
        "99% without a move": statistics.quantiles(quiet, n=100)[-1],
        "moves": len(moved),
        "longest move": max(moved),
    }


def rows(quick: bool) -> list[dict[str, Any]]:
    found = imports(3 if quick else 7)
    out: list[dict[str, Any]] = [
        {"what": "import", "unit": "CPU s", "ours": found["smcssm"], "rival": "import jax, equinox"}
        | {"theirs": found["jax, equinox"]}
    ]
    told = {"median without a move": "median, no move", "longest move": "longest, with a move"}
    for n in (1000, 10_000):
        timing = steps(n, 500 if quick else 2000)
        out += [{"what": f"a step, N = {n}: {name}", "unit": "CPU ms", "ours": timing[k]} for k, name in told.items()]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    found = imports(arguments.repeats)
    ratio = found["smcssm"] / found["jax, equinox"]
    help_time = statistics.median(seconds([sys.executable, "-m", "smcssm.cli", "--help"]) for _ in range(5))
    timing = steps(1000, 2000)
    print(", ".join(f"import {name} {value:.2f} s" for name, value in found.items()) + f": ratio {ratio:.3f}")
    print(f"smcssm --help {help_time:.2f} s")
    print("LocalLevel, N = 1000, 2,000 steps, ms: " + ", ".join(f"{k} {v:.3g}" for k, v in timing.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"import": found, "ratio": ratio, "help": help_time, "step_ms": timing}))


if __name__ == "__main__":
    main()
