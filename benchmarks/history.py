"""All of a history at once: blocks side by side against row by row, and both against other libraries' solvers.

The log-likelihood of one series, a sum of two Matern-3/2 processes (four states) with white noise, on a regular grid;
all matrices dense and known when running only. Every case runs in a process of its own, so that its compile time and
its peak memory (of the whole process, JAX included) are its own; rivals that are not installed are left out. Seconds of
compiling are those of the processor, which other work on the machine disturbs little.

    python benchmarks/history.py [--fast] [--lengths 1000 100000] [--particles 16] [--output history.json]
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

SCALES, NOISE, DT = (1.0, 20.0), 0.5, 0.5
SOLVERS = ("ours sequential", "ours parallel", "smolgp sequential", "smolgp parallel")
SOLVERS += ("cuthbert sequential", "cuthbert parallel")


def matrices():
    """F, chol_Q, H, chol_R and the stationary chol_P0."""
    F, P = np.zeros((4, 4)), np.zeros((4, 4))
    for i, scale in enumerate(SCALES):
        rate, here = np.sqrt(3) / scale, slice(2 * i, 2 * i + 2)
        F[here, here] = np.exp(-rate * DT) * np.array([[1 + rate * DT, DT], [-(rate**2) * DT, 1 - rate * DT]])
        P[here, here] = np.diag([1.0, rate**2])
    Q = P - F @ P @ F.T
    return F, np.linalg.cholesky(Q), np.array([[1.0, 0.0, 1.0, 0.0]]), np.array([[NOISE]]), np.sqrt(P)


def data(t):
    return np.cumsum(0.1 * np.random.default_rng(0).standard_normal(t)) * 0.1 + np.sin(np.arange(t) / 7)


def ours(t, n, blocks):
    from smcssm.core import Observation, System
    from smcssm.gaussian import Gaussian
    from smcssm.kalman import parallel, sequential

    def at_each(a):
        return jnp.broadcast_to(jnp.asarray(a)[..., None, None], (*a.shape, 1, n))

    F, chol_Q, H, chol_R, chol_P0 = map(at_each, matrices())
    params = {"F": F, "chol_Q": chol_Q, "H": H, "chol_R": chol_R}

    def system(p, obs):
        del obs
        lower = [[p["chol_Q"][i, j] if j <= i else 0.0 for j in range(4)] for i in range(4)]
        return System(p["F"], [0.0] * 4, lower, p["H"], [0.0], p["chol_R"])

    def log_lik(belief, innovation):
        del belief
        return innovation.log_lik

    def run(params, start, rows):
        if blocks:
            return jnp.sum(parallel.filter(system, params, start, rows, log_lik)[1], axis=0)
        return jnp.sum(sequential.filter(system, params, start, rows, log_lik)[1], axis=0)

    y = jnp.asarray(data(t))[:, None, None, None]
    index = jnp.arange(t)[:, None, None]
    rows = Observation(y, jnp.ones(y.shape, bool), (index > 0).astype(float), index)
    return run, (params, Gaussian(jnp.zeros((4, 1, n)), chol_P0), rows)


def smolgp(t, n, blocks):
    del n
    from smolgp import GaussianProcess, kernels, solvers

    solver = solvers.ParallelStateSpaceSolver if blocks else solvers.StateSpaceSolver

    def run(x, y):
        kernel = kernels.Matern32(scale=SCALES[0]) + kernels.Matern32(scale=SCALES[1])
        return GaussianProcess(kernel, x, noise=jnp.full(t, NOISE**2), solver=solver).log_probability(y)

    return run, (DT * jnp.arange(t), jnp.asarray(data(t)))


def cuthbert(t, n, blocks):
    del t, n
    from cuthbert import filter as run_filter
    from cuthbert.gaussian import kalman

    F, chol_Q, H, chol_R, chol_P0 = map(jnp.asarray, matrices())

    def run(y):
        built = kalman.build_filter(
            jnp.zeros(4), chol_P0, lambda _: (F, jnp.zeros(4), chol_Q), lambda y: (H, jnp.zeros(1), chol_R, y)
        )
        return run_filter(built, y, built.init_prepare(), parallel=blocks).log_normalizing_constant[-1]

    return run, None


def one(solver, t, n, rounds):
    """Compile and time one case in this process."""
    library, _, way = solver.partition(" ")
    with jax.enable_x64(True):
        run, args = {"ours": ours, "smolgp": smolgp, "cuthbert": cuthbert}[library](t, n, way == "parallel")
        args = (jnp.asarray(data(t))[:, None],) if args is None else args
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        program = jax.jit(run).lower(*args).compile()
        compiling = time.process_time() - start
        value, times = float(np.ravel(program(*args))[0]), []
        for _ in range(rounds):
            start = time.perf_counter()
            jax.block_until_ready(program(*args))
            times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row = {"solver": solver, "t": t, "n": n, "compile_s": compiling, "run_s": float(np.median(times))}
    return row | {
        "run_min_s": float(np.min(times)),
        "peak_mib": peak / 1024,
        "before_mib": before / 1024,
        "log_lik": value,
    }


def elsewhere(solver, t, n, rounds):
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps([solver, t, n, rounds])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["killed"]
        return {"solver": solver, "t": t, "n": n, "failed": last[0][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def rows(quick):
    from benchmarks import environments

    lengths, rounds = ((1000,), 5) if quick else ((1000, 10_000, 100_000), 7)
    rivals = [s for s in SOLVERS if not s.startswith("ours")]
    rivals = [s for s in rivals if not (quick and s == "smolgp parallel")]  # compiles for a minute
    out = []

    def case(solver, t, n):
        limit, job = (150 if quick else 600), ["--case", json.dumps([solver, t, n, rounds])]
        if solver.startswith("ours"):
            return environments.ask_of(sys.executable, "history", *job, limit=limit)
        return environments.ask("smoothers", "history", *job, limit=limit)

    for t in lengths:
        mine = {way: case(f"ours {way}", t, 1) for way in ("sequential", "parallel")}
        for way, found in mine.items():
            same = {"what": f"{way}, t = {t}", "unit": "ms", "ours": 1e3 * found["run_s"], "first": found["compile_s"]}
            for solver in (s for s in rivals if s.endswith(way)):
                row = same | {"rival": solver}
                try:
                    theirs = case(solver, t, 1)
                    row |= {"theirs": 1e3 * theirs["run_s"], "their_first": theirs["compile_s"]}
                    row |= {"error": abs(found["log_lik"] / theirs["log_lik"] - 1), "error_of": "relative, between"}
                except environments.RivalError as error:
                    row |= {"note": str(error)}
                out.append(row)
    for t, n in [(1000, 16)] if quick else [(10_000, 16), (10_000, 256)]:
        one_by_one, blocks = (case(f"ours {way}", t, n) for way in ("sequential", "parallel"))
        row = {"what": f"blocks side by side, {n} particles, t = {t}", "unit": "ms", "ours": 1e3 * blocks["run_s"]}
        row |= {"rival": "row by row (ours as well)", "theirs": 1e3 * one_by_one["run_s"]}
        out.append(row | {"first": blocks["compile_s"], "their_first": one_by_one["compile_s"]})
    return out


def show(row, reference):
    if "failed" in row:
        return f"{row['solver']:<22}{row['t']:>8}{row['n']:>6}  failed: {row['failed']}"
    return (
        f"{row['solver']:<22}{row['t']:>8}{row['n']:>6}{row['compile_s']:>11.1f}{1e3 * row['run_s']:>11.2f}"
        f"{row['peak_mib']:>10.0f}{row['run_s'] / reference['run_s']:>12.2f}"
        f"{abs(row['log_lik'] / reference['log_lik'] - 1):>10.0e}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--particles", type=int, nargs="*", help="more than one, for our solvers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("history.json"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(one(*json.loads(options.case))))
        return
    lengths, many = ([1000], [16]) if options.fast else ([1000, 10_000, 100_000], [16, 256])
    lengths, many = options.lengths or lengths, many if options.particles is None else options.particles
    there = [s for s in SOLVERS if s.startswith("ours") or importlib.util.find_spec(s.split()[0])]
    cases = [(s, t, 1) for t in lengths for s in there]
    cases += [(s, t, n) for t in lengths for n in many for s in there[:2]]
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; float64")
    heads = f"{'compile s':>11}{'run ms':>11}{'peak MiB':>10}{'x ours seq.':>12}{'gap':>10}"
    print(f"{'solver':<22}{'t':>8}{'n':>6}{heads}")
    about = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "cpus": os.cpu_count()}
    rows = []
    for case in cases:
        row = elsewhere(*case, options.rounds)
        reference = next((r for r in rows if (r["t"], r["n"]) == (row["t"], row["n"])), row)
        rows.append(row)
        print(show(row, reference), flush=True)
        options.output.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
