"""On a GPU (or whatever JAX finds): populations, history and one engine, beside the bandwidth of a copy.

Needs jax, numpy and equinox only. A step of a population cannot be faster than its arrays are read and written once:
the ratio is the share of the measured copy bandwidth that it reaches, in bytes of beliefs, weights and likelihoods
read and written, and of parameters and hyperparameters read. History in blocks side by side stands beside row by row,
with the same likelihoods; a Gaussian process beside smolgp, where that is installed; and an engine with a prior from
functions takes a stream. Under 8 minutes on a GPU.

    python -m benchmarks run gpu [--quick]
"""

import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

import smcssm as ss
from benchmarks import gp, history
from smcssm.smc2.population import Population
from smcssm.smc2.step import observe, stepped, with_stepped

STEPS = 20  # in one program, so that launching it does not count


def timed(program: Callable, *arguments: Any, repeats: int = 7) -> tuple[float, float]:
    """First call, and median of the others; seconds."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        times.append(time.perf_counter() - start)
    return times[0], float(np.median(times[1:]))


def size_of(*trees: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(trees))


def copy_bandwidth(size: int) -> float:
    """Bytes per second, read and written."""
    x = jnp.zeros(size // 4, jnp.float32)
    many = jax.jit(lambda x: jax.lax.fori_loop(0, STEPS, lambda i, x: x + 1.0, x))
    return STEPS * 2 * x.nbytes / timed(many, x)[1]


def prior(names: tuple[str, ...]) -> ss.priors.FromFunctions:
    """Half-normal standard deviations, from functions."""

    def sample(key: jax.Array, n: int) -> dict[str, jax.Array]:
        draws = jnp.abs(jax.random.normal(key, (len(names), n)))
        return dict(zip(names, draws, strict=True))

    def log_prob(theta: Any) -> jax.Array:
        return sum(norm.logpdf(theta[name]) for name in names)

    return ss.priors.FromFunctions(names, sample, log_prob, dict.fromkeys(names, "positive"))


MODELS: dict[str, Callable[[], Any]] = {
    "local level (nx = 1)": lambda: ss.models.LocalLevel(0.0, 1.0),
    "local linear trend (nx = 2)": lambda: ss.models.LocalLinearTrend(initial_sd=(1.0, 1.0)),
    "position and velocity in two dimensions (nx = 4)": lambda: ss.models.ConstantVelocity(),
}


def population_step(name: str, series: int, n: int, dtype: str) -> dict[str, Any]:
    """First call and seconds of one observation of every series, and the bytes that it has to move."""
    model = MODELS[name]()
    engine = ss.Engine(model, prior(tuple(model.names)), n_particles=n, runs=series, record=None, dtype=dtype)
    runtime = engine._runtime
    smc, population, blank = runtime.smc, runtime.state.population, runtime.blank()

    def many(population: Population, obs: Any, noise: Any) -> Any:
        def step(i: Any, state: Any) -> Any:
            row = replace(obs, y=noise[i].astype(obs.y.dtype))
            new, told = observe(smc, with_stepped(population, state[0]), row)
            return stepped(new), told  # kept, or else it would not be computed

        _, told = jax.eval_shape(lambda: observe(smc, population, obs))
        return jax.lax.fori_loop(0, STEPS, step, (stepped(population), jax.tree.map(jnp.zeros_like, told)))

    with jax.enable_x64(True):
        obs = jax.tree.map(jnp.asarray, blank)
        obs = replace(obs, mask=jnp.ones_like(obs.mask), dt=jnp.ones_like(obs.dt))
        noise = jnp.asarray(np.random.default_rng(0).standard_normal((STEPS, *obs.y.shape)))
        first, seconds = timed(jax.jit(many), population, obs, noise)
        p = population
        moved = 2 * size_of(p.belief, p.log_weight, p.log_lik, p.pending) + size_of(p.params, p.z)
    return {"first": first, "seconds": seconds / STEPS, "bytes": moved}


def rows(quick: bool) -> list[dict[str, Any]]:
    device = jax.devices()[0]
    copy = copy_bandwidth(2**26 if quick else 2**30)
    out: list[dict[str, Any]] = [{"what": f"copy on {device.device_kind}", "unit": "GB/s", "ours": copy / 1e9}]
    shapes = [(1, 20_000), (64, 256)] if quick else [(1, 1_000_000), (100, 100), (1000, 128), (2048, 512)]
    for dtype in ("float32", "float64"):
        for name in list(MODELS)[: 2 if quick else None]:
            for series, n in shapes:
                found = population_step(name, series, n, dtype)
                what = f"{name}, {series} series of {n} particles, {dtype}: {1e3 * found['seconds']:.3g} ms a step"
                row = {"what": what, "unit": "GB/s", "ours": found["bytes"] / found["seconds"] / 1e9}
                row |= {"rival": "copy", "theirs": copy / 1e9, "more_is_better": True, "first": found["first"]}
                out.append(row)
    lengths = [] if quick else [(1000, 1), (1000, 4096), (10_000, 1024), (100_000, 1)]  # a CPU compiles for minutes
    for t, n in lengths:
        found = {way: history.one(f"ours {way}", t, n, 5) for way in ("sequential", "parallel")}
        error = abs(found["parallel"]["log_lik"] / found["sequential"]["log_lik"] - 1)
        row = {"what": f"history in blocks, t = {t}, {n} particles, nx = 4", "unit": "ms", "rival": "row by row"}
        row |= {"ours": 1e3 * found["parallel"]["run_s"], "theirs": 1e3 * found["sequential"]["run_s"]}
        row |= {"first": found["parallel"]["compile_s"], "their_first": found["sequential"]["compile_s"]}
        out.append(row | {"error": error, "error_of": "relative, between the two"})
    out += [process_row(n) for n in ([] if quick else [10_000, 100_000, 1_000_000])]
    return [*out, engine_row(500, 1000 if quick else 100_000)]


def process_row(n: int) -> dict[str, Any]:
    """The likelihood of a Gaussian process in blocks; smolgp's as well where that is installed."""
    t, y, _ = gp.data(n)
    ways, found = [gp.ours] + [gp.smolgp] * (find_spec("smolgp") is not None), []
    with jax.enable_x64(True):
        given = gp.theta(1), jnp.asarray(y)
        for way in ways:
            likelihood = way("parallel")[0]
            program = jax.jit(lambda th, y, likelihood=likelihood: likelihood(th, t, y, None))
            found.append((*timed(program, *given), float(program(*given))))
    row = {"what": f"likelihood of a Gaussian process (SHO), {n} points, in blocks", "unit": "ms"}
    row |= {"ours": 1e3 * found[0][1], "first": found[0][0]}
    if found[1:]:
        row |= {"rival": "smolgp parallel", "theirs": 1e3 * found[1][1], "their_first": found[1][0]}
        row |= {"error": abs(found[0][2] / found[1][2] - 1), "error_of": "relative, between the two"}
    return row


def engine_row(length: int, n: int) -> dict[str, Any]:
    """A whole stream, moves included."""
    rng = np.random.default_rng(0)
    y = np.cumsum(0.3 * rng.standard_normal(length)) + rng.standard_normal(length)
    seconds, model, law = [], ss.models.LocalLevel(0.0, 10.0), prior(("sigma_level", "sigma_obs"))
    for seed in range(2):
        engine = ss.Engine(model, law, n_particles=n, seed=seed, record=None)
        start = time.perf_counter()
        engine.update(y, progress=False)
        seconds.append(time.perf_counter() - start)
    what = f"an engine, {length} observations, {n} particles, float64, moves included"
    return {"what": what, "unit": "ms an observation", "ours": 1e3 * seconds[1] / length, "first": seconds[0]}
