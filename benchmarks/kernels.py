"""The Kalman step against its rivals: ns per particle and step in a scan over a history, compiling, accuracy.

Rivals, both vmapped over particles: the square-root filter by LAPACK's QR, and the covariance filter in Joseph form.
Candidates are timed in turn, round after round, so that a busy machine treats them alike; the ratios are of medians.

    python benchmarks/kernels.py [--fast] [--particles 1000] [--dtype float64] [--output kernels.json]
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from smcssm import kalman
from smcssm.core import System
from smcssm.gaussian import Gaussian

LOG_2PI = float(np.log(2 * np.pi))


# --- systems: (matrices [n, ...] or without n where all particles share them, observations [t, y])


def dense(nx, ny, n, steps):
    """Every entry of its own in every particle; square roots triangular."""
    rng = np.random.default_rng(nx)

    def chol(k):
        A = rng.standard_normal((n, k, k))
        return np.linalg.cholesky(A @ A.transpose(0, 2, 1) / k + 0.5 * np.eye(k))

    F = 0.9 * (np.eye(nx) + 0.1 * rng.standard_normal((n, nx, nx)) / nx)
    parts = {"m": rng.standard_normal((n, nx)), "L": chol(nx), "F": F, "Q": chol(nx)}
    parts |= {"H": rng.standard_normal((n, ny, nx)), "R": chol(ny)}
    return parts, rng.standard_normal((steps, ny))


def structural(n, steps, period=12):
    """Level, trend and a dummy season: F and H are zeros and ones, three noises of one parameter each."""
    rng = np.random.default_rng(0)
    nx = period + 1
    F, H, Q = np.zeros((nx, nx)), np.zeros((1, nx)), np.zeros((n, nx, nx))
    F[0, :2] = F[1, 1] = 1.0
    F[2, 2:] = -1.0
    F[range(3, nx), range(2, nx - 1)] = 1.0
    H[0, [0, 2]] = 1.0
    Q[:, range(3), range(3)] = rng.uniform(0.1, 1.0, (n, 3))
    parts = {"m": np.zeros((n, nx)), "L": np.broadcast_to(np.eye(nx), (n, nx, nx)), "F": F, "Q": Q}
    return parts | {"H": H, "R": rng.uniform(0.5, 1.0, (n, 1, 1))}, rng.standard_normal((steps, 1)).cumsum(axis=0)


CASES = {
    "2, 1": lambda n, steps: dense(2, 1, n, steps),
    "4, 2": lambda n, steps: dense(4, 2, n, steps),
    "6, 1": lambda n, steps: dense(6, 1, n, steps),
    "13, 1": lambda n, steps: dense(13, 1, n, steps),
    "13, 1 level + trend + season": structural,
}


# --- candidates: function of (arrays, ys) and arrays


def _tria(A):
    return jnp.linalg.qr(A.T, mode="r").T


def _qr_step(m, L, y, F, Q, H, R):
    ny, nx = H.shape
    m, L = F @ m, _tria(jnp.concatenate([F @ L, Q], axis=1))
    A = _tria(jnp.block([[R, H @ L], [jnp.zeros((nx, ny), m.dtype), L]]))
    S, K = A[:ny, :ny], A[ny:, :ny]
    w = jax.scipy.linalg.solve_triangular(S, y - H @ m, lower=True)
    log_lik = -0.5 * (w @ w + ny * LOG_2PI) - jnp.sum(jnp.log(jnp.abs(jnp.diag(S))))
    return m + K @ w, A[ny:, ny:], log_lik


def _joseph_step(m, P, y, F, Q, H, R):
    ny = len(H)
    m, P = F @ m, F @ P @ F.T + Q
    C = jnp.linalg.cholesky(H @ P @ H.T + R)
    K = jax.scipy.linalg.cho_solve((C, True), H @ P).T
    v, A = y - H @ m, jnp.eye(len(m), dtype=m.dtype) - K @ H
    w = jax.scipy.linalg.solve_triangular(C, v, lower=True)
    log_lik = -0.5 * (w @ w + ny * LOG_2PI) - jnp.sum(jnp.log(jnp.diag(C)))
    return m + K @ v, A @ P @ A.T + K @ R @ K.T, log_lik


def _vmapped(step, parts, dtype):
    def history(parts, ys):
        def body(carry, y):
            m, L, total = carry
            m, L, log_lik = step(m, L, y, *(parts[k] for k in "FQHR"))
            return (m, L, total + log_lik), None

        return jax.lax.scan(body, (parts["m"], parts["L"], jnp.zeros((), dtype)), ys)[0][2]

    axes = {k: 0 if v.ndim == (2 if k == "m" else 3) else None for k, v in parts.items()}
    return jax.vmap(history, in_axes=(axes, None)), parts


def qr(parts, dtype):
    return _vmapped(_qr_step, parts, dtype)


def joseph(parts, dtype):
    squares = {k: np.einsum("...ik,...jk->...ij", parts[k], parts[k]) for k in "LQR"}
    return _vmapped(_joseph_step, parts | squares, dtype)


def ours(parts, dtype):
    """Particles last; what all particles share is known when compiling, as are zeros of the square roots."""
    arrays = {k: np.moveaxis(v, 0, -1)[..., None, :] for k, v in parts.items() if v.ndim == (2 if k == "m" else 3)}
    known = {k: v for k, v in parts.items() if k not in arrays}
    zero = {k: np.all(parts[k] == 0, axis=0) for k in "QR"}

    def history(arrays, ys):
        matrices = known | arrays
        for k in "QR":
            matrices[k] = [
                [0.0 if z else e for e, z in zip(*r, strict=True)] for r in zip(matrices[k], zero[k], strict=True)
            ]
        nx, ny = len(matrices["F"]), len(matrices["H"])
        system = System(matrices["F"], [0.0] * nx, matrices["Q"], matrices["H"], [0.0] * ny, matrices["R"])
        mask, dt = jnp.ones((ny, 1, 1), bool), jnp.ones((1, 1), dtype)

        def body(carry, y):
            belief, total = carry
            belief, innovation = kalman.step(belief, system, y[:, None, None], mask, dt)
            return (belief, total + innovation.log_lik), None

        start = Gaussian(arrays["m"], arrays["L"])
        return jax.lax.scan(body, (start, jnp.zeros(arrays["m"].shape[1:], dtype)), ys)[0][1][0]

    return history, arrays


def truth(parts, ys):
    """The covariance filter in NumPy, float64, all particles at once."""
    m, P, Q, R = parts["m"][..., None], *(parts[k] @ np.swapaxes(parts[k], -1, -2) for k in "LQR")
    F, H, total = parts["F"], parts["H"], 0.0
    for y in ys:
        m, P = F @ m, F @ P @ np.swapaxes(F, -1, -2) + Q
        S, v = H @ P @ np.swapaxes(H, -1, -2) + R, y[:, None] - H @ m
        solved = np.linalg.solve(S, np.concatenate([v, H @ P], axis=-1))
        total += -0.5 * ((v * solved[..., :1]).sum((-1, -2)) + np.linalg.slogdet(S)[1] + len(y) * LOG_2PI)
        A = np.eye(m.shape[-2]) - np.swapaxes(solved[..., 1:], -1, -2) @ H
        K = np.swapaxes(solved[..., 1:], -1, -2)
        m, P = m + K @ v, A @ P @ np.swapaxes(A, -1, -2) + K @ R @ np.swapaxes(K, -1, -2)
    return total


# --- measuring


def measure(case, n, steps, rounds, dtype):
    parts, ys = CASES[case](n, steps)
    reference = truth(parts, ys)
    runs = {}
    for name, build in {"qr": qr, "joseph": joseph, "ours": ours}.items():
        function, arrays = build(parts, dtype)
        args = jax.tree.map(lambda a: jnp.asarray(a, dtype), (arrays, ys))
        start = time.perf_counter()
        program = jax.jit(function).lower(*args).compile()
        compiling = time.perf_counter() - start
        error = float(np.abs(np.asarray(program(*args), np.float64) - reference).max())
        runs[name] = {"program": program, "args": args, "compile_s": compiling, "error": error, "times": []}
    for _ in range(rounds):
        for run in runs.values():
            start = time.perf_counter()
            jax.block_until_ready(run["program"](*run["args"]))
            run["times"].append((time.perf_counter() - start) / (n * steps) * 1e9)
    rows = [
        {
            "nx, ny": case,
            "filter": name,
            "ns": float(np.median(run["times"])),
            "ns_min": float(np.min(run["times"])),
            "compile_s": run["compile_s"],
            "log_lik_error": run["error"],
        }
        for name, run in runs.items()
    ]
    for row in rows:
        row |= {"ours_is_faster": row["ns"] / rows[-1]["ns"], "ours_is_faster_min": row["ns_min"] / rows[-1]["ns_min"]}
    return rows


def rows(quick):
    cases, size = (list(CASES)[:3], (1000, 50, 5)) if quick else (list(CASES), (1000, 100, 9))
    out = []
    for dtype in ("float64", "float32"):
        for case in cases:
            with jax.enable_x64(dtype == "float64"):
                *theirs, ours = measure(case, *size, np.dtype(dtype))
            for rival in theirs:
                name = {"qr": "square root by LAPACK's QR, vmapped", "joseph": "Joseph form, vmapped"}[rival["filter"]]
                row = {"what": f"nx, ny = {case}, {dtype}", "unit": "ns per particle and step", "ours": ours["ns"]}
                row |= {"rival": name, "theirs": rival["ns"], "first": ours["compile_s"]}
                row |= {"their_first": rival["compile_s"], "error": ours["log_lik_error"]}
                out.append(row | {"their_error": rival["log_lik_error"], "error_of": "log-likelihood, largest, nats"})
    return out


def show(row):
    return (
        f"{row['nx, ny']:<30}{row['filter']:<8}{row['ns']:>10.1f}{row['ns_min']:>10.1f}{row['compile_s']:>10.1f}"
        f"{row['log_lik_error']:>10.0e}{row['ours_is_faster']:>10.1f}{row['ours_is_faster_min']:>10.1f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--output", type=Path, default=Path("kernels.json"))
    options = parser.parse_args()
    cases, n, steps, rounds = list(CASES), options.particles, options.steps, options.rounds
    if options.fast:
        cases, n, steps, rounds = cases[:2], 64, 10, 3
    with jax.enable_x64(options.dtype == "float64"):
        device, load = jax.devices()[0].device_kind, os.getloadavg()[0]
        print(f"{n} particles, {steps} steps, {options.dtype}, {device}, load {load:.1f}")
        heads = "ns", "ns min", "compile s", "error", "ratio", "of min"
        print(f"{'nx, ny':<30}{'filter':<8}" + "".join(f"{h:>10}" for h in heads))
        rows = []
        for case in cases:
            rows += measure(case, n, steps, rounds, np.dtype(options.dtype))
            print("\n".join(show(row) for row in rows[-3:]), flush=True)
    about = {"particles": n, "steps": steps, "dtype": options.dtype, "device": device, "load": load}
    about |= {"jax": jax.__version__, "cpus": os.cpu_count(), "machine": platform.machine()}
    options.output.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
