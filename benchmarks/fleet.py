"""A fleet of S series x N particles against Python loops over engines and over statsmodels' ``append``.

Streams are random walks in noise, taken row by row. Loops run on a sample of the series, as many steps per second as
all of them would have. Programs are compiled before anything is timed. Three ways of moving:

    nothing moves     a threshold that is never reached, surprises enter whole: filter, weights and what is reported
    Immediate         from the prior on, exact moves over all of history: young series move often
    Jitter            from the prior on, moves that cost the same at any time, with a bias (docs/schedules.md)

statsmodels filters at one set of hyperparameters: it has no posterior, and is here for the cost of a loop over objects.
Cost by number of series is that of steps in which nothing moves. ``--json FILE`` keeps all of it.

    python benchmarks/fleet.py                              # 1,000 series x 128 particles
    python benchmarks/fleet.py --series 200 --rows 20
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import smcssm as ss

MODEL = ss.models.LocalLevel(initial_mean=0.0, initial_sd=3.0)
MOVES: dict[str, dict[str, Any]] = {
    "nothing moves": dict(schedule=ss.Immediate(tempering=False), ess_threshold=1e-9),
    "Jitter": dict(schedule=ss.Jitter(exact=0)),
    "Immediate": dict(schedule=ss.Immediate()),
}


def streams(rows: int, n_series: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.cumsum(rng.normal(size=(rows, n_series)), axis=0) + rng.normal(size=(rows, n_series))


def fleet_rate(y: np.ndarray, n_particles: int, options: dict[str, Any]) -> dict[str, float]:
    """Series-steps per second, moves and log evidence of all series; the first of two passes compiles."""
    rate, moves, fleet = 0.0, 0, None
    for _ in range(2):
        fleet, moves = ss.Fleet(MODEL, series=y.shape[1], n_particles=n_particles, **options), 0
        start = time.perf_counter()
        for row in y:
            moves += int(fleet.step(row).moved.sum())
        rate = y.size / (time.perf_counter() - start)
    assert fleet is not None
    return {"per second": rate, "moves": moves, "mean log evidence": float(fleet.log_evidence.mean())}


def engine_rate(y: np.ndarray, n_particles: int, options: dict[str, Any], sample: int) -> dict[str, float]:
    """The same of a loop over engines; the first engine compiles and is not counted."""
    seconds, evidence = 0.0, []
    for s in range(sample + 1):
        engine = ss.Engine(MODEL, n_particles=n_particles, record=None, seed=s, **options)
        start = time.perf_counter()
        for value in y[:, s]:
            engine.step(value)
        seconds += time.perf_counter() - start if s else 0.0
        evidence.append(engine.log_evidence)
    return {"per second": len(y) * sample / seconds, "mean log evidence": float(np.mean(evidence))}


def statsmodels_rate(y: np.ndarray, sample: int) -> float:
    """Series-steps per second of ``append`` and a one-step forecast."""
    import statsmodels.api as sm

    seconds = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for s in range(sample):
            result = sm.tsa.UnobservedComponents(y[:1, s], "llevel").smooth([1.0, 1.0])
            start = time.perf_counter()
            for t in range(1, len(y)):
                result = result.append(y[t : t + 1, s])
            seconds += time.perf_counter() - start
    return (len(y) - 1) * sample / seconds


def rows(quick: bool) -> list[dict[str, Any]]:
    series, length, sample, n = (200, 15, 2, 128) if quick else (1000, 40, 3, 128)
    y = streams(length, series)
    loop, out = statsmodels_rate(y, sample), []
    for name in list(MOVES)[: 2 if quick else None]:
        fleet, engines = (f(y, n, MOVES[name], *more) for f, more in ((fleet_rate, ()), (engine_rate, (sample,))))
        same = {"what": f"{series} series of {n} particles, {name}", "unit": "series-steps per second"}
        same |= {"ours": fleet["per second"], "more_is_better": True}
        out.append(same | {"rival": "a loop over our engines", "theirs": engines["per second"]})
        out.append(same | {"rival": "a loop over statsmodels' append, no posterior", "theirs": loop})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--particles", type=int, default=128)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--sample", type=int, default=3)
    parser.add_argument("--moves", nargs="*", default=list(MOVES), choices=list(MOVES))
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000, 10_000])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    y = streams(args.rows, args.series)
    out: dict[str, Any] = {"series": args.series, "particles": args.particles, "rows": args.rows}
    out |= {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    loop = out["statsmodels per second"] = statsmodels_rate(y, args.sample)
    print(f"{'':16}{'series-steps per second':>40}{'fleet over':>26}")
    print(f"{'':16}{'fleet':>14}{'engines':>12}{'statsmodels':>14}{'engines':>13}{'statsmodels':>13}{'moves':>8}")
    for name in args.moves:
        fleet = fleet_rate(y, args.particles, MOVES[name])
        engines = engine_rate(y, args.particles, MOVES[name], args.sample)
        a, b = fleet["per second"], engines["per second"]
        out[name] = {"fleet": fleet, "engines": engines, "over engines": a / b, "over statsmodels": a / loop}
        print(f"{name:16}{a:14.0f}{b:12.1f}{loop:14.1f}{a / b:13.1f}{a / loop:13.1f}{fleet['moves']:8}", flush=True)
    print("\nmicroseconds per series-step, nothing moves")
    out["by number of series"] = {}
    for n in args.sizes:
        rate = fleet_rate(streams(10, n), args.particles, MOVES["nothing moves"])["per second"]
        out["by number of series"][n] = 1e6 / rate
        print(f"{n:>8} series {1e6 / rate:8.2f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(out, indent=2) + "\n")


if __name__ == "__main__":
    main()
