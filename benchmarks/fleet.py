"""A fleet of S series x N particles against Python loops over engines and over statsmodels' ``append``.

    python -m benchmarks.fleet                # 1,000 series x 128 particles, and cost in S up to 10,000
    python -m benchmarks.fleet --series 200 --rows 100

Streams are random walks in noise. The loops run on a sample of the series, their times are scaled to all of them;
everything runs in one process, programs compiled before. statsmodels filters with one known set of hyperparameters:
it has no posterior, and is here for the cost of a loop over objects. Rows are taken one by one, as from a stream. Each
measurement starts at the prior, so that the many moves of young series are in it; ``--rows`` says how long it goes on.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import numpy as np

import smcssm as ss

MODEL = ss.models.LocalLevel(initial_mean=0.0, initial_sd=3.0)


def streams(rows: int, n_series: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.cumsum(rng.normal(size=(rows, n_series)), axis=0) + rng.normal(size=(rows, n_series))


def fleet_seconds(y: np.ndarray, n_particles: int) -> tuple[np.ndarray, ss.Fleet, int]:
    """Seconds of each row; once before, to compile."""
    for _ in range(2):
        fleet = ss.Fleet(MODEL, series=y.shape[1], n_particles=n_particles)
        seconds, moves = np.zeros(len(y)), 0
        for t, row in enumerate(y):
            start = time.perf_counter()
            moves += int(fleet.step(row).moved.sum())
            seconds[t] = time.perf_counter() - start
    return seconds, fleet, moves


def engine_seconds(y: np.ndarray, n_particles: int, sample: int) -> tuple[float, np.ndarray]:
    """Seconds of one series, on average, and log evidences; the first of the sample compiles."""
    seconds, evidence = 0.0, []
    for s in range(sample + 1):
        engine = ss.Engine(MODEL, n_particles=n_particles, record=None, seed=s)
        start = time.perf_counter()
        for value in y[:, s]:
            engine.step(value)
        if s:
            seconds += time.perf_counter() - start
        evidence.append(engine.log_evidence)
    return seconds / sample, np.asarray(evidence)


def statsmodels_seconds(y: np.ndarray, sample: int) -> float:
    """Seconds of one series, on average."""
    import statsmodels.api as sm

    total = 0.0
    for s in range(sample):
        model = sm.tsa.UnobservedComponents(y[:1, s], "llevel")
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = model.smooth([1.0, 1.0])
            for t in range(1, len(y)):
                result = result.append(y[t : t + 1, s])
        total += time.perf_counter() - start
    return total / sample


def settled(seconds: np.ndarray) -> float:
    """A row's time when series have grown old enough to move rarely: the median of the last quarter."""
    return float(np.median(seconds[-len(seconds) // 4 :]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--particles", type=int, default=128)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--sample", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000, 10_000])
    parser.add_argument("--out")
    args = parser.parse_args()
    y, cells = streams(args.rows, args.series), args.rows * args.series
    seconds, fleet, moves = fleet_seconds(y, args.particles)
    rates = {"fleet": cells / seconds.sum()}
    per_series, evidence = engine_seconds(y, args.particles, args.sample)
    rates["engines"] = args.rows / per_series
    rates["statsmodels"] = args.rows / statsmodels_seconds(y, args.sample)
    gap = float(np.max(np.abs(evidence - fleet.log_evidence[: len(evidence)])))
    result = {
        "series": args.series,
        "particles": args.particles,
        "rows": args.rows,
        "moves": moves,
        "series_steps_per_second": rates,
        "fleet / engines": rates["fleet"] / rates["engines"],
        "fleet / statsmodels": rates["fleet"] / rates["statsmodels"],
        "largest difference in log evidence (other seeds)": gap,
        "fleet, seconds of a row": {"mean": float(seconds.mean()), "median of the last quarter": settled(seconds)},
    }
    result["microseconds per series-step, by number of series"] = {
        n: 1e6 * float(fleet_seconds(streams(args.rows // 4, n), args.particles)[0].sum()) / (args.rows // 4 * n)
        for n in args.sizes
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        with open(args.out, "w") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
