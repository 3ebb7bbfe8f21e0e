"""All of a history at once: blocks side by side against row by row, and both against other libraries' solvers.

The log-likelihood of one series, a sum of two Matern-3/2 processes (four states) with white noise, on a regular grid;
all matrices dense and known when running only. Every case runs in a process of its own, so that its compile time and
its peak memory (of the whole process, JAX included) are its own. Seconds are those of the processor, of all threads
together, which other work on the machine disturbs least (on a GPU those of the clock); of runs the least.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import environments
from benchmarks.records import peak_mib

SCALES, NOISE, DT = (1.0, 20.0), 0.5, 0.5
SOLVERS = ("ours sequential", "ours parallel", "smolgp sequential", "smolgp parallel")
SOLVERS += ("cuthbert sequential", "cuthbert parallel")
COSTS = (("compiling", "CPU s", "compile_s"), ("memory of the process", "MiB", "peak_mib"))


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
        start = time.process_time()
        program = jax.jit(run).lower(*args).compile()
        compiling = time.process_time() - start
        clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
        value, times = float(np.ravel(program(*args))[0]), []
        for _ in range(rounds):
            start = clock()
            jax.block_until_ready(program(*args))
            times.append(clock() - start)
    row = {"t": t, "compile_s": compiling, "run_s": float(np.min(times)), "peak_mib": peak_mib()}
    return row | {"log_lik": value}


# --- all together


def case(solver, t, n, rounds, limit):
    """The same in a process of its own, and in the environment of a rival."""
    job = ("history", solver, str(t), str(n), str(rounds))
    if solver.startswith("ours"):
        return environments.ask_of(sys.executable, *job, limit=limit)
    return environments.ask("smoothers", *job, limit=limit)


def against(found, solver, rounds, limit):
    """Rows of ours beside those of a rival."""
    way, t = solver.partition(" ")[2], found["t"]
    row = {"what": f"{way}, t = {t}", "unit": "CPU ms", "ours": 1e3 * found["run_s"], "rival": solver}
    row |= {"first": found["compile_s"]}
    try:
        theirs = case(solver, t, 1, rounds, limit)
    except environments.RivalError as error:
        return [row | {"note": str(error)}]
    row |= {"theirs": 1e3 * theirs["run_s"], "their_first": theirs["compile_s"]}
    row |= {"error": abs(found["log_lik"] / theirs["log_lik"] - 1), "error_of": "relative, between the two"}
    costs = [
        {"what": f"{way}, t = {t}: {what}", "unit": unit, "ours": found[of], "rival": solver, "theirs": theirs[of]}
        for what, unit, of in COSTS
    ]
    return [row, *costs] if way == "parallel" else [row]


def rows(quick):
    lengths, rounds, limit = ((1000,), 5, 300) if quick else ((1000, 10_000, 100_000), 7, 900)
    rivals = [s for s in SOLVERS if not s.startswith("ours")]
    out = []
    for t in lengths:
        mine = {way: case(f"ours {way}", t, 1, rounds, limit) for way in ("sequential", "parallel")}
        for solver in rivals:
            out += against(mine[solver.partition(" ")[2]], solver, rounds, limit)
    for t, n in [(1000, 16)] if quick else [(10_000, 16), (10_000, 256)]:
        one_by_one, blocks = (case(f"ours {way}", t, n, rounds, limit) for way in ("sequential", "parallel"))
        row = {"what": f"blocks side by side, {n} particles, t = {t}", "unit": "CPU ms", "ours": 1e3 * blocks["run_s"]}
        row |= {"rival": "row by row (ours as well)", "theirs": 1e3 * one_by_one["run_s"]}
        out.append(row | {"first": blocks["compile_s"], "their_first": one_by_one["compile_s"]})
    return out


def main():
    solver, *sizes = sys.argv[1:]
    print(json.dumps(one(solver, *map(int, sizes))))


if __name__ == "__main__":
    main()
