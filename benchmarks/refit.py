"""One more observation of a stream: a step of the engine, or the batch fit again.

A local linear trend with three unknown standard deviations. After t observations a batch user runs NUTS over all of
them again when the next one comes; ours is `engine.step`, the mean over the whole stream, moves included, by 1000
particles. The refit is timed as it would be repeated: sampling only, one chain, one core; building and compiling are in
the column of first calls. Nothing is extrapolated to other lengths. Both answers are compared with importance sampling.

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


def ours(length: int, draws: int) -> dict[str, Any]:
    """Steps one by one."""
    del draws
    y, engine_at = TREND.data(length), engine_of(TREND)
    begun = time.perf_counter()
    engine_at(0).warmup()
    first, engine = time.perf_counter() - begun, engine_at(1)
    cpu = time.process_time()
    for value in y:
        engine.step(value)
    seconds = time.process_time() - cpu
    theta = {k: v[0] for k, v in engine.snapshot().theta().items()}
    w = engine.snapshot().weights()[0]
    mean = [float(w @ theta[k]) for k in TREND.names]
    i = np.random.default_rng(0).choice(N, N, p=w)
    drawn = [theta[k][i].tolist() for k in TREND.names]
    return {"first": first, "seconds": seconds / length, "mean": mean, "draws": drawn}


def sampled(model: Any, draws: int, **options: Any) -> tuple[float, float, list[float]]:
    """Wall seconds, CPU seconds of sampling, posterior means."""
    import pymc as pm

    begun = time.perf_counter()
    with model:
        trace = pm.sample(draws=draws, tune=draws, chains=1, cores=1, random_seed=1, progressbar=False, **options)
    whole = time.perf_counter() - begun
    sampling = float(trace.attrs.get("sampling_time") or trace.posterior.attrs.get("sampling_time") or whole)
    return whole, sampling, [float(trace.posterior[k].mean()) for k in TREND.names]


def op(length: int, draws: int) -> dict[str, Any]:
    import pymc as pm

    import smcssm as ss

    with pm.Model() as model:
        level, slope, obs = (pm.HalfNormal(k, s) for k, s in zip(TREND.names, TREND.scales, strict=True))
        chol_Q = pm.math.stack([pm.math.stack([level, 0.0 * level]), pm.math.stack([0.0 * slope, slope])])
        ss.LinearGaussianSSM(
            "y",
            initial_mean=np.zeros(2),
            initial_chol=np.diag([10.0, 1.0]),
            F=np.array([[1.0, 1.0], [0.0, 1.0]]),
            chol_Q=chol_Q,
            H=np.array([[1.0, 0.0]]),
            chol_R=obs[None, None],
            observed=TREND.data(length)[:, None],
        )
    whole, sampling, mean = sampled(model, draws, nuts_sampler="pymc")
    return {"first": whole - sampling, "seconds": sampling, "mean": mean}


def extras(length: int, draws: int) -> dict[str, Any]:
    import pymc as pm
    import pytensor.tensor as pt
    from pymc_extras.statespace import structural as st

    trend = st.LevelTrend(order=2, innovations_order=2, name="tilt")
    built = (trend + st.MeasurementError(name="obs")).build(name="y", verbose=False)
    with pm.Model(coords=built.coords) as model:
        level, slope, _ = (pm.HalfNormal(k, s) for k, s in zip(TREND.names, TREND.scales, strict=True))
        pm.Deterministic("P0", pt.as_tensor(np.diag([100.0, 1.0])))
        pm.Deterministic("initial_tilt", pt.zeros(2))
        pm.Deterministic("sigma_tilt", pt.stack([level, slope]))
        built.build_statespace_graph(TREND.data(length)[:, None])
    whole, sampling, mean = sampled(model, draws, nuts_sampler="nutpie")
    return {"first": whole - sampling, "seconds": sampling, "mean": mean}


CASES = {"ours": ours, "Op": op, "pymc-extras": extras}


def rows(quick: bool) -> list[dict[str, Any]]:
    length, draws = 1000, 200 if quick else 1000
    mine = environments.ask_of(sys.executable, "refit", "ours", str(length), str(draws), limit=1800)
    right = truth(TREND, TREND.data(length), np.array(mine["draws"]), 20_000 if quick else 100_000)

    def error(found: dict[str, Any]) -> float:
        return float(np.sqrt(np.mean(((np.array(found["mean"]) - right["mean"]) / right["sd"]) ** 2)))

    same = {"what": f"one more observation after {length}", "unit": "s", "ours": mine["seconds"]}
    same |= {"first": mine["first"], "error": error(mine), "error_of": "means, rms, posterior sds (one run)"}
    out = []
    for who in ("Op", "pymc-extras"):
        row = same | {"rival": f"{who}, NUTS, {draws} draws after {draws}"}
        job = ("refit", who, str(length), str(draws))
        try:
            if who == "Op":
                theirs = environments.ask_of(sys.executable, *job, limit=500 if quick else 1800)
            else:
                theirs = environments.ask("refit", *job, limit=500 if quick else 1800)
            row |= {"theirs": theirs["seconds"], "their_first": theirs["first"], "their_error": error(theirs)}
        except environments.RivalError as failed:
            row |= {"note": str(failed)}
        out.append(row)
    return out


def main() -> None:
    who, length, draws = sys.argv[1:]
    print(json.dumps(CASES[who](int(length), int(draws))))


if __name__ == "__main__":
    main()
