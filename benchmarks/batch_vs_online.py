"""Batch against online: what does one more observation cost, after t of them?

Tracking in two dimensions by two sensors of different noise (4 states, 4 channels, 3 hyperparameters). For each t:

    likelihood    the log-likelihood of all t observations and its gradient, once, in PyTensor: a Joseph-form Kalman
                  filter in ``pytensor.scan``. A batch sampler needs hundreds to thousands of these per refit.
    op            the same by ``ss.LinearGaussianSSM``
    engine        ``engine.step`` of one observation by 1000 particles: that of observation t + 1, repeated from a copy
                  of the engine; and the mean over the steps around t, which has the moves in it

Processor time, of all threads. Compiling is timed apart, the garbage collector is off, and the least of 50 repetitions
counts, but for the mean, which is of one stream. What a whole refit by NUTS costs is in ``refit.py``.
"""

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

import smcssm as ss

LENGTHS = (50, 100, 200, 500, 1000, 2000, 5000)
F = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
ACCELERATION = np.array([[0.5, 0.0], [0.0, 0.5], [1.0, 0.0], [0.0, 1.0]])
H = np.vstack([np.eye(2, 4), np.eye(2, 4)])
NAMES = ("sigma_acceleration", "sigma_radar", "sigma_camera")
AT = np.array([0.3, 3.0, 1.0])
WINDOW = 50


def track(length: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    x, out = np.zeros(4), []
    for _ in range(length):
        out.append(H @ x + AT[[1, 1, 2, 2]] * rng.normal(size=4))
        x = F @ x + ACCELERATION @ (AT[0] * rng.normal(size=2))
    return np.array(out)


def priors() -> list[Any]:
    return [pm.HalfNormal(name, scale) for name, scale in zip(NAMES, (1.0, 5.0, 5.0), strict=True)]


def joseph(y: np.ndarray) -> pm.Model:
    """What one writes by hand."""
    with pm.Model() as model:
        q, *r = priors()
        Q, R, eye = q**2 * ACCELERATION @ ACCELERATION.T, pt.diag(pt.repeat(pt.stack(r), 2) ** 2), pt.eye(4)

        def step(y_t, m, P, log_lik, Q, R):
            S = H @ P @ H.T + R
            K = pt.linalg.solve(S, H @ P, assume_a="pos").T
            v = y_t - H @ m
            log_lik = log_lik - 0.5 * (v @ pt.linalg.solve(S, v) + pt.log(pt.linalg.det(S)) + 4 * np.log(2 * np.pi))
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
        q, radar, camera = priors()
        ss.LinearGaussianSSM(
            "y",
            initial_mean=np.zeros(4),
            initial_chol=10.0**0.5 * np.eye(4),
            F=F,
            chol_Q=q * ACCELERATION,
            H=H,
            chol_R=[[s if i == j else 0.0 for j in range(4)] for i, s in enumerate((radar, radar, camera, camera))],
            observed=y,
        )
    return model


def least(run: Callable[[], Any], repetitions: int) -> float:
    """Milliseconds."""
    found = []
    for _ in range(repetitions):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return 1e3 * min(found)


def likelihood(model: pm.Model, repetitions: int) -> tuple[float, float, np.ndarray]:
    """Milliseconds per value and gradient, seconds of compiling, and the value and gradient themselves."""
    start = time.process_time()
    f = model.logp_dlogp_function(ravel_inputs=True)
    f.set_extra_values({})
    z = np.log(AT)
    value, gradient = f(z)
    compiling = time.process_time() - start
    return least(lambda: f(z), repetitions), compiling, np.append(value, gradient)


def engine_steps(y: np.ndarray, lengths: tuple[int, ...], repetitions: int) -> tuple[np.ndarray, list[float], float]:
    """Milliseconds of every step; the least of repetitions of the step after each length; seconds of compiling."""
    model, _, _ = ss.from_pymc(op(y[:1]))
    with pm.Model() as prior:
        priors()
    start = time.process_time()
    engine = ss.Engine(model, prior, n_particles=1000)
    engine.warmup()
    compiling, took, again = time.process_time() - start, np.zeros(len(y)), []
    for t, value in enumerate(y):
        if t in lengths:
            copies = iter([engine.copy() for _ in range(repetitions)])
            again.append(least(lambda copies=copies, value=value: next(copies).step(value), repetitions))
        start = time.process_time()
        engine.step(value)
        took[t] = 1e3 * (time.process_time() - start)
    return took, again, compiling


def around(t: int) -> slice:
    return slice(t - WINDOW // 2, t + WINDOW // 2)


def rows(quick: bool) -> list[dict[str, Any]]:
    lengths, repetitions = ((50, 1000), 10) if quick else (LENGTHS, 50)
    y, out = track(lengths[-1] + WINDOW // 2), []
    gc.disable()
    took, again, compiling = engine_steps(y, lengths, repetitions)
    for t, least_step in zip(lengths, again, strict=True):
        by_hand, ours = (likelihood(model(y[:t]), repetitions) for model in (joseph, op))
        error = float(np.abs(ours[2] / by_hand[2] - 1).max())
        same = {"unit": "CPU ms", "rival": "one log-likelihood and gradient, pytensor.scan", "theirs": by_hand[0]}
        same |= {"their_first": by_hand[1]}
        out += [
            {"what": f"one step of 1000 particles after t = {t}", **same} | {"ours": least_step, "first": compiling},
            {"what": f"the mean step around t = {t}, moves included", **same}
            | {"ours": float(took[around(t)].mean()), "first": compiling},
            {"what": f"the same value and gradient by the Op, t = {t}", **same}
            | {"ours": ours[0], "first": ours[1], "error": error, "error_of": "relative, between the two"},
        ]
    gc.enable()
    return out
