"""Gaussian processes: ss.gp beside smolgp and tinygp, one oscillator (SHO), or a sum of ten.

Log-likelihood, its gradient in the hyperparameters, and the posterior mean and variance at as many new times, float64,
irregular times. Every case runs in a process of its own: compile seconds are the first call less a later one, run
milliseconds the best of five. Rivals that are not installed are left out; log-likelihoods are compared.

    python benchmarks/gp.py [--fast] [--output gp.json]
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

WHO = ("ours sequential", "ours parallel", "smolgp sequential", "smolgp parallel", "tinygp")
TASKS = ("likelihood", "gradient", "posterior")
OMEGA, QUALITY, SIGMA, NOISE = 2 * np.pi / 50, 5.0, 1.0, 0.75


def data(n):
    rng = np.random.default_rng(0)
    t = np.cumsum(rng.exponential(1.0, n))
    return t, np.sin(OMEGA * t) + NOISE * rng.standard_normal(n), t + rng.uniform(0, 1, n)


def theta(terms):
    return {"omega": jnp.asarray(OMEGA * 1.3 ** np.arange(terms)), "sigma": jnp.full(terms, SIGMA / np.sqrt(terms))}


def kernel(make, th):
    parts = [make(omega=th["omega"][i], quality=QUALITY, sigma=th["sigma"][i]) for i in range(len(th["omega"]))]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def ours(solver):
    from smcssm import gp

    def likelihood(th, t, y, at):
        return gp.log_probability(kernel(gp.SHO, th), t, y, NOISE, solver=solver)

    def posterior(th, t, y, at):
        return tuple(gp.condition(kernel(gp.SHO, th), t, y, NOISE, solver=solver).predict(at))

    return likelihood, posterior


def smolgp(solver):
    from smolgp import GaussianProcess, kernels, solvers

    chosen = {"parallel": solvers.ParallelStateSpaceSolver, "sequential": solvers.StateSpaceSolver}[solver]

    def process(th, t):
        return GaussianProcess(kernel(kernels.SHO, th), t, noise=NOISE**2, solver=chosen)

    def likelihood(th, t, y, at):
        return process(th, t).log_probability(y)

    def posterior(th, t, y, at):
        _, given = process(th, t).condition(y)
        return given.predict(at, return_var=True)

    return likelihood, posterior


def tinygp(solver):
    import tinygp as rival

    def process(th, t):
        return rival.GaussianProcess(kernel(rival.kernels.quasisep.SHO, th), t, diag=NOISE**2)

    def likelihood(th, t, y, at):
        return process(th, t).log_probability(y)

    def posterior(th, t, y, at):
        given = process(th, t).condition(y, at).gp
        return given.loc, given.variance

    return likelihood, posterior


def measure(who, task, n, terms):
    """Compile seconds, run milliseconds, and a number that all should agree on."""
    name, _, solver = who.partition(" ")
    likelihood, posterior = {"ours": ours, "smolgp": smolgp, "tinygp": tinygp}[name](solver)
    f = {"likelihood": likelihood, "gradient": jax.value_and_grad(likelihood), "posterior": posterior}[task]
    t, y, at = data(n)
    program = jax.jit(lambda th, y: f(th, t, y, at))
    given = theta(terms), jnp.asarray(y)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        out = jax.block_until_ready(program(*given))
        times.append(time.perf_counter() - start)
    check = {"likelihood": lambda: out, "gradient": lambda: out[1]["omega"][0], "posterior": lambda: jnp.mean(out[1])}
    best = min(times[1:])
    return {"compile_s": times[0] - best, "run_ms": 1e3 * best, "value": float(check[task]())}


def rows(quick):
    from benchmarks import environments

    out, sizes = [], (1000,) if quick else (1000, 10_000, 100_000)
    todo = [(task, n, 1) for n in sizes for task in TASKS] + [("likelihood", 1000 if quick else 10_000, 10)]

    def case(who, *job):
        python = sys.executable if who.startswith("ours") else str(environments.python("smoothers"))
        return environments.ask_of(python, "gp", "--case", who, *map(str, job), limit=150)

    for task, n, terms in todo:
        ours = case("ours sequential", task, n, terms)
        same = {"what": f"{task}, {n} points, {terms} terms", "unit": "ms"}
        same |= {"ours": ours["run_ms"], "first": ours["compile_s"]}
        for who in ("tinygp", "smolgp sequential"):
            row = same | {"rival": who}
            try:
                theirs = case(who, task, n, terms)
                row |= {"theirs": theirs["run_ms"], "their_first": theirs["compile_s"]}
                row |= {"error": abs(ours["value"] / theirs["value"] - 1), "error_of": "relative, between the two"}
            except environments.RivalError as error:
                row |= {"note": str(error)}
            out.append(row)
    return out


def cases(fast):
    sizes = (1000,) if fast else (1000, 10_000, 100_000)
    yield from ((who, task, n, 1) for n in sizes for task in TASKS for who in WHO)
    yield from ((who, "likelihood", 1000 if fast else 10_000, 10) for who in WHO if "parallel" not in who)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="small sizes only")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for a case")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        who, task, n, terms = args.case
        with jax.enable_x64(True):
            print(json.dumps(measure(who, task, int(n), int(terms))))
        return
    results = []
    print(f"{'':12}{'n':>8}{'terms':>6}  {'':20}{'compile s':>10}{'run ms':>10}{'':4}value")
    for who, task, n, terms in cases(args.fast):
        name = who.split()[0]
        if name != "ours" and importlib.util.find_spec(name) is None:
            continue
        command = [sys.executable, __file__, "--case", who, task, str(n), str(terms)]
        try:
            run = subprocess.run(
                command, capture_output=True, text=True, check=True, env=os.environ, timeout=args.limit
            )
            found = json.loads(run.stdout.splitlines()[-1])
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            print(f"{task:12}{n:8}{terms:6}  {who:20}  {type(error).__name__}")
            continue
        results.append({"who": who, "task": task, "n": n, "terms": terms, **found})
        measured = f"{found['compile_s']:10.2f}{found['run_ms']:10.2f}    {found['value']:.12g}"
        print(f"{task:12}{n:8}{terms:6}  {who:20}{measured}", flush=True)
        if args.output:
            args.output.write_text(json.dumps(results, indent=1))
    reference = {(r["task"], r["n"], r["terms"]): r["run_ms"] for r in results if r["who"] == "ours sequential"}
    for r in results:
        case = r["task"], r["n"], r["terms"]
        if case in reference:
            ratio = r["run_ms"] / reference[case]
            print(f"{case[0]:12}{case[1]:8}{case[2]:6}  {r['who']:20}{ratio:8.2f} x ours sequential")


if __name__ == "__main__":
    main()
