"""A fleet of S series x N particles against Python loops over engines and over statsmodels' ``append``.

Streams are random walks in noise, taken row by row. Loops run on a sample of the series, as many steps per second as
all of them would have. Programs are compiled before anything is timed. Three ways of moving:

    nothing moves     a threshold that is never reached, surprises enter whole: filter, weights and what is reported
    Immediate         from the prior on, exact moves over all of history: young series move often
    Jitter            from the prior on, moves that cost the same at any time, with a bias (docs/schedules.md)

statsmodels filters at one set of hyperparameters: it has no posterior, and is here for the cost of a loop over objects.
Cost by number of series is that of steps in which nothing moves. How long a step is late in a stream, on average and at
worst, is told of Paced, whose moves are spread over rows and whose series take turns, beside Immediate and Jitter.
"""

from __future__ import annotations

import time
import warnings
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


def late_steps(y: np.ndarray, n_particles: int, schedule: Any) -> np.ndarray:
    """Milliseconds of each step in the last half of the rows; the first of two passes compiles."""
    seconds = np.zeros(len(y))
    for _ in range(2):
        fleet = ss.Fleet(MODEL, series=y.shape[1], n_particles=n_particles, schedule=schedule)
        for t, row in enumerate(y):
            start = time.perf_counter()
            fleet.step(row)
            seconds[t] = time.perf_counter() - start
    return 1e3 * seconds[len(y) // 2 :]


def rows(quick: bool) -> list[dict[str, Any]]:
    n, particles, length, sample = (200, 128, 20, 2) if quick else (1000, 128, 100, 5)
    y, per_second = streams(length, n), {"unit": "series-steps per second", "more_is_better": True}
    loop, out = statsmodels_rate(y, sample), []
    for name, options in MOVES.items():
        fleet, engines = fleet_rate(y, particles, options), engine_rate(y, particles, options, sample)
        here = per_second | {"what": f"{n} series x {particles}, {length} rows, {name}", "ours": fleet["per second"]}
        evidence = f"{fleet['moves']} moves; mean log evidence {fleet['mean log evidence']:.2f}"
        out.append(here | {"rival": "loop over Engine", "theirs": engines["per second"], "note": evidence})
        out.append(here | {"rival": "loop over statsmodels' append", "theirs": loop})
    for size in (50, 200, 800) if quick else (100, 1000, 10_000):
        rate = fleet_rate(streams(10, size), particles, MOVES["nothing moves"])["per second"]
        out.append({"what": f"{size} series, nothing moves", "unit": "us per series-step", "ours": 1e6 / rate})
    for n, length in ((64, 400),) if quick else ((64, 2000), (1000, 600)):
        y = streams(length, n)
        paced, *others = (late_steps(y, particles, schedule) for schedule in (ss.Paced(), ss.Immediate(), ss.Jitter()))
        for name, other in zip(("Immediate", "Jitter"), others, strict=True):
            for which, of in (("mean", np.mean), ("longest", np.max)):
                what = f"{n} series x {particles}, Paced, rows {length // 2} to {length}, {which} step"
                out.append({"what": what, "unit": "ms", "ours": of(paced), "rival": name, "theirs": of(other)})
    return out
