"""Gaussian processes: ss.gp beside smolgp and tinygp, one oscillator (SHO), or a sum of ten.

Log-likelihood, its gradient in the hyperparameters, and the posterior mean and variance at as many new times, float64,
irregular times. Each library has a process of its own, in which every case is compiled once; then they take turns, run
by run, and the best of ten counts. All seconds are of the processor, of all threads together, which other work on the
machine changes least. Memory is what the compiled program needs besides its arguments, and the largest size that the
process had while it compiled. The error is between the two log-likelihoods, relative.

    python -m benchmarks run gp [--quick]
"""

import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.records import peak_mib

REPEATS = 10
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




def serve():
    """Cases, one a line, compiled when they are new; then a run of each. For ``Library``."""
    programs = {}
    for line in sys.stdin:
        who, task, n, terms = json.loads(line)
        said = {}
        with jax.enable_x64(True):
            if (who, task, n, terms) not in programs:
                name, _, solver = who.partition(" ")
                likelihood, posterior = {"ours": ours, "smolgp": smolgp, "tinygp": tinygp}[name](solver)
                f = {"likelihood": likelihood, "gradient": jax.value_and_grad(likelihood), "posterior": posterior}[task]
                t, y, at = data(n)
                given, start = (theta(terms), jnp.asarray(y)), time.process_time()
                program = jax.jit(lambda th, y, f=f, t=t, at=at: f(th, t, y, at)).lower(*given).compile()
                said["compile_s"] = time.process_time() - start
                said["temporary_MB"] = program.memory_analysis().temp_size_in_bytes / 1e6
                said["peak_MB"] = peak_mib() * 2**20 / 1e6
                programs[who, task, n, terms] = program, given
            program, given = programs[who, task, n, terms]
            start = time.process_time()
            out = jax.block_until_ready(program(*given))
            said["run_ms"] = 1e3 * (time.process_time() - start)
            said["value"] = float(jax.tree.leaves(out)[0] if task != "posterior" else jnp.mean(out[1]))
        print(json.dumps(said), flush=True)


class Library:
    """A process that answers to cases."""

    def __init__(self, who, python):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.who, self.process = who, subprocess.Popen([str(python), "-m", "benchmarks.gp"], **pipes)

    def __call__(self, *case):
        self.process.stdin.write(json.dumps([self.who, *case]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.who}: its process ended")
        return json.loads(line)


def turns(libraries, *case):
    """The first answer of each, which tells of compiling too, with the best time of all."""
    first = [library(*case) for library in libraries]
    for _ in range(REPEATS):
        for answer, library in zip(first, libraries, strict=True):
            answer["run_ms"] = min(answer["run_ms"], library(*case)["run_ms"])
    return first


def rows(quick):
    from benchmarks import environments

    theirs = environments.python("smoothers")
    out, sizes = [], (1000,) if quick else (1000, 10_000, 100_000)
    several = 1000 if quick else 10_000
    todo = [("likelihood", n, 1) for n in sizes]
    todo += [("gradient", several, 1), ("posterior", 1000, 1), ("likelihood", several, 10)]  # tinygp: n²
    libraries = [Library(w, p) for w, p in (("ours sequential", sys.executable), ("tinygp", theirs))]
    libraries.append(Library("smolgp sequential", theirs))
    try:
        for task, n, terms in todo:
            ours, *others = turns(libraries, task, n, terms)
            for rival, found in zip(libraries[1:], others, strict=True):
                out.append(_row(f"{task}, {n} points, {terms} terms", "ms", "run_ms", ours, rival.who, found))
        libraries += [Library("ours parallel", sys.executable), Library("smolgp parallel", theirs)]
        units = {"run_ms": "ms", "compile_s": "s to compile", "temporary_MB": "MB", "peak_MB": "MB, process"}
        for n in sorted({several, sizes[-1]}):
            ours, found = turns(libraries[-2:], "likelihood", n, 1)
            for field, unit in units.items():
                out.append(_row(f"parallel likelihood, {n} points", unit, field, ours, "smolgp parallel", found))
    finally:
        for library in libraries:
            library.process.terminate()
            library.process.wait()
    return out


def _row(what, unit, field, ours, rival, theirs):
    row = {"what": what, "unit": unit, "ours": ours[field], "rival": rival, "theirs": theirs[field]}
    if field == "run_ms":
        row |= {"first": ours["compile_s"], "their_first": theirs["compile_s"]}
        row |= {"error": abs(ours["value"] / theirs["value"] - 1), "error_of": "relative, between the two"}
    return row


if __name__ == "__main__":
    serve()
