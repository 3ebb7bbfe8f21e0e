"""A fleet of S series x N particles against Python loops over engines and over statsmodels' ``extend``.

Streams are random walks in noise, taken row by row. Loops run on a sample of the series, as many steps per second as
all of them would have. Seconds are of the processor, programs compiled before; of several passes, the sides in turn,
the fastest counts. Three ways of moving:

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
PASSES = 3
MOVES: dict[str, dict[str, Any]] = {
    "nothing moves": dict(schedule=ss.Immediate(tempering=False), ess_threshold=1e-9),
    "Jitter": dict(schedule=ss.Jitter(exact=0)),
    "Immediate": dict(schedule=ss.Immediate()),
}


def streams(rows: int, n_series: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.cumsum(rng.normal(size=(rows, n_series)), axis=0) + rng.normal(size=(rows, n_series))


def fleet_rate(y: np.ndarray, n_particles: int, options: dict[str, Any]) -> dict[str, float]:
    """Series-steps per second, moves and log evidence of all series."""
    fleet, moves = ss.Fleet(MODEL, series=y.shape[1], n_particles=n_particles, **options), 0
    start = time.process_time()
    for row in y:
        moves += int(fleet.step(row).moved.sum())
    rate = y.size / (time.process_time() - start)
    return {"per second": rate, "moves": moves, "mean log evidence": float(fleet.log_evidence.mean())}


def engine_rate(y: np.ndarray, n_particles: int, options: dict[str, Any], sample: int) -> float:
    """Series-steps per second of a loop over engines."""
    seconds = 0.0
    for s in range(sample):
        engine = ss.Engine(MODEL, n_particles=n_particles, record=None, seed=s, **options)
        start = time.process_time()
        for value in y[:, s]:
            engine.step(value)
        seconds += time.process_time() - start
    return len(y) * sample / seconds


def statsmodels_rate(y: np.ndarray, sample: int) -> float:
    """The same of ``extend``, which filters the new row alone."""
    import statsmodels.api as sm

    seconds = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for s in range(sample):
            result = sm.tsa.UnobservedComponents(y[:1, s], "llevel").smooth([1.0, 1.0])
            start = time.process_time()
            for t in range(1, len(y)):
                result = result.extend(y[t : t + 1, s])
            seconds += time.process_time() - start
    return (len(y) - 1) * sample / seconds


def late_steps(y: np.ndarray, n_particles: int, schedule: Any) -> np.ndarray:
    """CPU milliseconds of each step in the last half of the rows; the first of two passes compiles."""
    seconds = np.zeros(len(y))
    for _ in range(2):
        fleet = ss.Fleet(MODEL, series=y.shape[1], n_particles=n_particles, schedule=schedule)
        for t, row in enumerate(y):
            start = time.process_time()
            fleet.step(row)
            seconds[t] = time.process_time() - start
    return 1e3 * seconds[len(y) // 2 :]


def rows(quick: bool) -> list[dict[str, Any]]:
    n, particles, length, sample = (200, 128, 20, 2) if quick else (1000, 128, 100, 5)
    y, per_second = streams(length, n), {"unit": "series-steps per CPU second", "more_is_better": True}
    out = []
    for name, options in MOVES.items():
        fleet, *_ = fleet_rate(y, particles, options), engine_rate(y, particles, options, 1)  # which compile
        rates = []
        for _ in range(PASSES):
            ours = fleet_rate(y, particles, options)["per second"]
            rates.append((ours, engine_rate(y, particles, options, sample), statsmodels_rate(y, sample)))
        ours, *loops = np.max(rates, axis=0)
        here = per_second | {"what": f"{n} series x {particles}, {length} rows, {name}", "ours": ours}
        told = f"{name}: {fleet['moves']} moves; mean log evidence {fleet['mean log evidence']:.2f}"
        out.append(here | {"rival": "loop over Engine", "theirs": loops[0], "note": told})
        out.append(here | {"rival": "loop over statsmodels' extend", "theirs": loops[1]})
    for size in (50, 200, 800) if quick else (100, 1000, 10_000):
        passes = [fleet_rate(streams(10, size), particles, MOVES["nothing moves"]) for _ in range(1 + PASSES)]
        rate = max(p["per second"] for p in passes)
        out.append({"what": f"{size} series, nothing moves", "unit": "CPU us per series-step", "ours": 1e6 / rate})
    for n, length in ((64, 400),) if quick else ((64, 2000), (1000, 600)):
        y = streams(length, n)
        paced, *others = (late_steps(y, particles, schedule) for schedule in (ss.Paced(), ss.Immediate(), ss.Jitter()))
        for name, other in zip(("Immediate", "Jitter"), others, strict=True):
            for which, of in (("mean", np.mean), ("longest", np.max)):
                what = f"{n} series x {particles}, Paced, rows {length // 2} to {length}, {which} step"
                row = {"what": what, "unit": "CPU ms", "ours": of(paced), "theirs": of(other)}
                out.append(row | {"rival": f"{name} (ours as well)"})
    return out
