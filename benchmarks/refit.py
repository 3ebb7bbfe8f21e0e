"""One more observation of a stream: a step of the engine, or the batch fit again.

A local linear trend with three unknown standard deviations. After t observations a batch user runs NUTS over all of
them again when the next one comes; ours is `engine.step` with 1000 particles, the mean over the steps from t / 2 to t,
moves included. CPU seconds on both sides, of sampling and stepping alone: one chain, one core, and building and
compiling in the column of first calls. Nothing is extrapolated to other lengths. All answers are compared with
importance sampling around ours, by a filter written out in NumPy.

    Op              PyMC's NUTS on `ss.LinearGaussianSSM`, the same marginal likelihood by our own kernels
    pymc-extras     its structural time-series model and its own Kalman filter, sampled by nutpie
"""

import json
import sys
import time
from typing import Any

import numpy as np

from benchmarks import environments
from benchmarks.headline import N, engine_of
from benchmarks.problems import PROBLEMS, truth

TREND = PROBLEMS["trend"]
LENGTHS = (50, 100, 200, 500, 1000)


def data(length: int) -> np.ndarray:
    """The beginning of one stream."""
    return TREND.data(LENGTHS[-1])[:length]


def moments(draws: np.ndarray, weight: np.ndarray | None = None) -> dict[str, list[float]]:
    """Of draws ``[3, n]``."""
    mean = np.average(draws, axis=1, weights=weight)
    sd = np.sqrt(np.average((draws - mean[:, None]) ** 2, axis=1, weights=weight))
    return {"mean": mean.tolist(), "sd": sd.tolist()}


def ours(lengths: list[int], draws: int) -> list[dict[str, Any]]:
    """Steps one by one, and what was known after each length."""
    del draws
    y, engine_at = data(lengths[-1]), engine_of(TREND)
    begun = time.process_time()
    engine_at(0).warmup()
    first, engine, out, took = time.process_time() - begun, engine_at(1), [], np.zeros(lengths[-1])
    for t, value in enumerate(y):
        begun = time.process_time()
        engine.step(value)
        took[t] = time.process_time() - begun
        if t + 1 in lengths:
            snapshot = engine.snapshot()
            theta, w = np.stack([snapshot.theta()[k][0] for k in TREND.names]), snapshot.weights()[0]
            pilot = theta[:, np.random.default_rng(0).choice(N, N, p=w)]
            seconds = float(took[(t + 1) // 2 : t + 1].mean())
            out.append({"first": first, "seconds": seconds, "pilot": pilot.tolist(), **moments(theta, w)})
    return out


def told(trace: Any, first: float, seconds: float) -> list[dict[str, Any]]:
    draws = np.stack([np.ravel(trace["posterior"][k].values) for k in TREND.names])
    return [{"first": first, "seconds": seconds, **moments(draws)}]


def op(lengths: list[int], draws: int) -> list[dict[str, Any]]:
    import pymc as pm

    import smcssm as ss

    begun = time.process_time()
    with pm.Model() as model:
        level, slope, obs = (pm.HalfNormal(k, s) for k, s in zip(TREND.names, TREND.scales, strict=True))
        ss.LinearGaussianSSM(
            "y",
            initial_mean=[0.0, 0.0],
            initial_chol=[[10.0, 0.0], [0.0, 1.0]],
            F=[[1.0, 1.0], [0.0, 1.0]],
            chol_Q=[[level, 0.0], [0.0, slope]],
            H=[[1.0, 0.0]],
            chol_R=[[obs]],
            observed=data(lengths[0]),
        )
    drawn: list[float] = []  # CPU time of this process after each draw, tuning included

    def note(**_: Any) -> None:
        drawn.append(time.process_time())

    with model:
        trace = pm.sample(
            draws, tune=draws, chains=1, cores=1, random_seed=1, progressbar=False, nuts_sampler="pymc", callback=note
        )
    per_draw = (drawn[-1] - drawn[0]) / (len(drawn) - 1)
    return told(trace, drawn[0] - begun, per_draw * len(drawn))


def extras(lengths: list[int], draws: int) -> list[dict[str, Any]]:
    import nutpie
    import pymc as pm
    import pytensor.tensor as pt
    from pymc_extras.statespace import structural as st

    begun = time.process_time()
    trend = st.LevelTrend(order=2, innovations_order=2, name="tilt")
    built = (trend + st.MeasurementError(name="obs")).build(name="y", verbose=False)
    with pm.Model(coords=built.coords) as model:
        level, slope, _ = (pm.HalfNormal(k, s) for k, s in zip(TREND.names, TREND.scales, strict=True))
        pm.Deterministic("P0", pt.as_tensor(np.diag([100.0, 1.0])))
        pm.Deterministic("initial_tilt", pt.zeros(2))
        pm.Deterministic("sigma_tilt", pt.stack([level, slope]))
        built.build_statespace_graph(data(lengths[0])[:, None])
    compiled = nutpie.compile_pymc_model(model)
    first = time.process_time() - begun
    trace = nutpie.sample(compiled, draws=draws, tune=draws, chains=1, cores=1, seed=1, progress_bar=False)
    return told(trace, first, time.process_time() - begun - first)


CASES = {"ours": ours, "Op": op, "pymc-extras": extras}


def error(found: dict[str, Any], right: dict[str, Any]) -> float:
    off = (np.array(found["mean"]) - right["mean"]) / right["sd"], np.array(found["sd"]) / right["sd"] - 1
    return float(np.sqrt(np.mean(np.square(off))))


def rows(quick: bool) -> list[dict[str, Any]]:
    lengths, draws = ([1000], 200) if quick else (list(LENGTHS), 1000)
    mine = environments.ask_of(sys.executable, "refit", "ours", json.dumps(lengths), str(draws), limit=1800)
    out = []
    for length, found in zip(lengths, mine, strict=True):
        right = truth(TREND, data(length), np.array(found["pilot"]), 20_000 if quick else 100_000)
        same = {"what": f"one more observation after {length}", "unit": "s", "ours": found["seconds"]}
        same |= {"first": found["first"], "error": error(found, right)}
        same |= {"error_of": "means in posterior sds and sds, relative; rms (one run)"}
        for who in ("Op", "pymc-extras"):
            row = same | {"rival": f"{who}, NUTS, {draws} draws after {draws}"}
            try:
                interpreter = sys.executable if who == "Op" else str(environments.python("refit"))
                (theirs,) = environments.ask_of(interpreter, "refit", who, json.dumps([length]), str(draws), limit=1800)
                row |= {"theirs": theirs["seconds"], "their_first": theirs["first"]}
                row |= {"their_error": error(theirs, right)}
            except environments.RivalError as failed:
                row |= {"note": str(failed)}
            out.append(row)
    return out


def main() -> None:
    who, lengths, draws = sys.argv[1:]
    print(json.dumps(CASES[who](json.loads(lengths), int(draws))))


if __name__ == "__main__":
    main()
