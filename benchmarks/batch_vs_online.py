"""Batch against online: what does one more observation cost, after t of them?

Tracking in two dimensions (4 states, 2 channels, one hyperparameter for each). For each length t:

    likelihood    the log-likelihood of all t observations and its gradient, once, in PyTensor: a Joseph-form Kalman
                  filter in ``pytensor.scan``. A batch sampler needs hundreds to thousands of these per refit.
    op            the same by ``ss.LinearGaussianSSM``
    engine        ``engine.step`` of one observation by 1000 particles, moves included: the median, and the mean over
                  the steps around t, which has the moves in it

Compiling is timed apart, the garbage collector is off, and the least of 50 repetitions counts. Prints a table;
``--json FILE`` keeps it.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

import smcssm as ss

LENGTHS = (50, 100, 200, 500, 1000, 2000, 5000)
F = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
ACCELERATION = np.array([[0.5, 0.0], [0.0, 0.5], [1.0, 0.0], [0.0, 1.0]])
H = np.eye(2, 4)
WINDOW = 50


def track(length: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    x, out = np.zeros(4), []
    for _ in range(length):
        out.append(H @ x + 2.0 * rng.normal(size=2))
        x = F @ x + ACCELERATION @ (0.3 * rng.normal(size=2))
    return np.array(out)


def priors() -> tuple[Any, Any]:
    return pm.HalfNormal("sigma_acceleration", 1.0), pm.HalfNormal("sigma_obs", 5.0)


def joseph(y: np.ndarray) -> pm.Model:
    """What one writes by hand."""
    with pm.Model() as model:
        q, r = priors()
        Q, R, eye = q**2 * ACCELERATION @ ACCELERATION.T, r**2 * pt.eye(2), pt.eye(4)

        def step(y_t, m, P, log_lik, Q, R):
            S = H @ P @ H.T + R
            K = pt.linalg.solve(S, H @ P, assume_a="pos").T
            v = y_t - H @ m
            log_lik = log_lik - 0.5 * (v @ pt.linalg.solve(S, v) + pt.log(pt.linalg.det(S)) + 2 * np.log(2 * np.pi))
            A = eye - K @ H
            m, P = m + K @ v, A @ P @ A.T + K @ R @ K.T
            return F @ m, F @ P @ F.T + Q, log_lik

        start = [pt.zeros(4), 10.0 * pt.eye(4), pt.as_tensor(0.0, dtype="float64")]
        outputs = pytensor.scan(
            step, sequences=[pt.as_tensor(y)], outputs_info=start, non_sequences=[Q, R], return_updates=False
        )
        pm.Potential("log_lik", outputs[2][-1])
    return model


def op(y: np.ndarray) -> pm.Model:
    with pm.Model() as model:
        q, r = priors()
        ss.LinearGaussianSSM(
            "y",
            initial_mean=np.zeros(4),
            initial_chol=10.0**0.5 * np.eye(4),
            F=F,
            chol_Q=q * ACCELERATION,
            H=H,
            chol_R=r * pt.eye(2),
            observed=y,
        )
    return model


def least(run: Callable[[], Any], repetitions: int) -> float:
    """Milliseconds."""
    found = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return 1e3 * min(found)


def likelihood(model: pm.Model, repetitions: int) -> tuple[float, float, np.ndarray]:
    """Milliseconds per value and gradient, seconds of compiling, and the value and gradient themselves."""
    start = time.perf_counter()
    f = model.logp_dlogp_function(ravel_inputs=True)
    f.set_extra_values({})
    z = np.log([0.3, 2.0])
    value, gradient = f(z)
    compiling = time.perf_counter() - start
    return least(lambda: f(z), repetitions), compiling, np.append(value, gradient)


def engine_steps(y: np.ndarray, repeats: int) -> tuple[np.ndarray, float]:
    """Milliseconds of every step, the least over repeats of the same stream; and seconds of compiling."""
    model, _, _ = ss.from_pymc(op(y[:1]))
    with pm.Model() as prior:
        priors()
    start = time.perf_counter()
    ss.Engine(model, prior, n_particles=1000).warmup()
    compiling, took = time.perf_counter() - start, np.full(len(y), np.inf)
    for _ in range(repeats):
        engine = ss.Engine(model, prior, n_particles=1000)
        for t, value in enumerate(y):
            start = time.perf_counter()
            engine.step(value)
            took[t] = min(took[t], 1e3 * (time.perf_counter() - start))
    return took, compiling


def around(t: int) -> slice:
    return slice(t - WINDOW // 2, t + WINDOW // 2)


def rows(quick: bool) -> list[dict[str, Any]]:
    lengths, repetitions = ((200, 1000), 5) if quick else (LENGTHS, 50)
    y, out = track(lengths[-1] + WINDOW // 2), []
    took, compiling = engine_steps(y, 1 if quick else 3)
    for t in lengths:
        by_hand, ours = (likelihood(model(y[:t]), repetitions) for model in (joseph, op))
        error = float(np.abs(ours[2] / by_hand[2] - 1).max())
        same = {"unit": "ms", "rival": "one log-likelihood and gradient, pytensor.scan", "theirs": by_hand[0]}
        same |= {"their_first": by_hand[1]}
        out += [
            {"what": f"one step of 1000 particles, moves included, around t = {t}", **same}
            | {"ours": float(took[around(t)].mean()), "first": compiling},
            {"what": f"the same value and gradient by the Op, t = {t}", **same}
            | {"ours": ours[0], "first": ours[1], "error": error, "error_of": "relative, between the two"},
        ]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--longest", type=int, default=LENGTHS[-1])
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--streams", type=int, default=3, help="repeats of the whole stream")
    arguments = parser.parse_args()
    lengths = [t for t in LENGTHS if t <= arguments.longest]
    y, found = track(lengths[-1] + WINDOW // 2), {}
    gc.disable()
    took, compiling = engine_steps(y, arguments.streams)
    print(f"engine: compiled in {compiling:.1f} s; all {len(y)} observations took {took.sum() / 1e3:.1f} s")
    print("     t   likelihood ms (compile s)   op ms (compile s)   engine: median ms   mean ms   likelihood / median")
    for t in lengths:
        by_hand, ours = (likelihood(model(y[:t]), arguments.repetitions) for model in (joseph, op))
        np.testing.assert_allclose(ours[2], by_hand[2], rtol=1e-7)
        near = took[around(t)]
        row = {
            "likelihood ms": by_hand[0],
            "likelihood compile s": by_hand[1],
            "op ms": ours[0],
            "op compile s": ours[1],
            "engine median ms": float(np.median(near)),
            "engine mean ms": float(near.mean()),
        }
        found[t] = row
        print(
            f"{t:6d} {row['likelihood ms']:17.3f} ({row['likelihood compile s']:5.1f}) {row['op ms']:15.3f} "
            f"({row['op compile s']:4.1f}) {row['engine median ms']:18.3f} {row['engine mean ms']:10.3f} "
            f"{row['likelihood ms'] / row['engine median ms']:16.2f}",
            flush=True,
        )
    if arguments.json:
        found["engine compile s"] = compiling
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
