"""What engines and fleets cost by size, fitted to measurements, and what that says of sizes that were not run.

    python -m benchmarks scaling [page] [--quick]     writes benchmarks/results/scaling.json and docs/scaling.md

Local linear trends in float64, processor seconds. Rows are missing values: the filter does the same work, and nothing
has to move. Replays and sweeps are timed as moves run them. Beyond some number of particles each costs more, for caches
and fresh memory; on Linux the process has large pages, as docs/fleet.md recommends. The largest size is left out of the
fit, and predicted.
"""

import functools
import json
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np

from benchmarks.records import RESULTS, ROOT, about, machine_of

PATH = RESULTS / "scaling.json"
ROWS = 256  # of a block
SIZES = [(1, 1000), (1, 16_000), (256, 64), (256, 256), (512, 256), (1024, 256)]  # series, particles
LAST = {True: (2048, 256), False: (4096, 256)}
MANY = 2**16  # particles beyond which each costs more
TERMS = {"row": (1, 1, 1, 1), "block": (1, 0, 1, 1), "replay": (1, 0, 1, 1), "sweep": (1, 1, 1, 1)}
NAMES = {
    "row": "a row of a fleet, `fleet.step`",
    "block": "a row of an engine, within a block",
    "replay": "a row of history, in a sweep of a move",
    "sweep": "the rest of a sweep: fit, draw, accept",
}
GROWTH = 2000  # observations after which moves have become rare
MEMORY = 64e9  # of a machine


def least(f: Callable[[], Any], repeats: int) -> float:
    """Processor seconds, the first call left out."""
    f()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        f()
        times.append(time.process_time() - start)
    return min(times)


@functools.cache
def trend() -> tuple[Any, Any]:
    """Model and prior: the same for all, which then share programs."""
    import smcssm as ss

    model = ss.models.LocalLinearTrend(initial_sd=(10.0, 1.0))
    return model, model.default_prior(1.0)


def of_size(series: int, n: int) -> dict[str, float]:
    """Seconds of one thing of each kind, and bytes."""
    import jax

    import smcssm as ss
    from smcssm.smc2.adapt import compiled
    from smcssm.smc2.challengers import replay
    from smcssm.smc2.kernels.metropolis import draw, fitting, judge

    fleet = ss.Fleet(*trend(), series=series, n_particles=n)
    engine = ss.Engine(*trend(), n_particles=n, runs=series, record=None)
    nothing = np.full(ROWS, np.nan)
    row = least(lambda: fleet.step(nothing[:1].repeat(series)), 9)
    block = least(lambda: engine.update(nothing, progress=False), 2) / ROWS
    runtime = engine._runtime
    smc, population, history = runtime.smc, runtime.state.population, runtime.history
    since, due, counters = np.full(series, len(history)), np.ones(series, bool), (np.int64(0), np.int64(0))
    with jax.enable_x64(True):
        proposal, ready = smc.kernel.proposals[0], jax.block_until_ready
        tuning = fitting(smc, proposal, population)
        drawing, judging = compiled(draw, smc, proposal), compiled(judge, smc, proposal.independent)
        start, *log_q = drawing(tuning, population, history.first, *counters)
        end = (history, since, *counters)
        replays = least(lambda: ready(replay(smc, population, start, *end).log_lik), 3)
        rest = (
            lambda: fitting(smc, proposal, population),
            lambda: drawing(tuning, population, history.first, *counters)[1],
            lambda: judging(population, start, tuple(log_q), due, *counters)[1],
        )
        sweep = sum(least(lambda f=f: ready(f()), 5) for f in rest)
    held = sum(a.nbytes for a in jax.tree.leaves(population) if a.ndim >= 2) / series / n
    kept = sum(a.nbytes for a in history.columns(0, len(history)).values()) / series / len(history)
    found = {"series": series, "n": n, "row": row, "block": block, "replay": replays / len(history)}
    return found | {"sweep": sweep, "bytes": held, "history_bytes": kept}


def of_driver(series: int, shards: int = 8) -> dict[str, float]:
    """What the driver of a `RayFleet` does itself with a row: read, pickle, unpickle, join; and the bytes it sends."""
    import smcssm as ss
    from smcssm.fleets.rows import block_of_one

    (model, prior), names, y = trend(), tuple(range(series)), np.zeros(series)
    info = ss.Fleet(model, prior, series=SIZES[-1][0], n_particles=SIZES[-1][1]).step(y[: SIZES[-1][0]])
    answer = {f.name: getattr(info, f.name) for f in fields(info) if f.name != "names"}
    few = series // shards
    answer = {k: np.resize(v, (few, *v.shape[1:])) for k, v in answer.items()}
    sent = pickle.dumps(answer)

    def row() -> Any:
        block = block_of_one(model, names, y, None)
        for i in range(shards):
            part = slice(i * few, (i + 1) * few)
            pickle.dumps((block.y[:, part], block.reported[:, part]))
        parts = [pickle.loads(sent) for _ in range(shards)]
        return {k: np.concatenate([part[k] for part in parts]) for k in answer}

    return {"seconds": least(row, 9) / series, "bytes": len(sent) / few + 9}


def of_moves() -> dict[str, float]:
    """By what factor history grows from one move to the next, and sweeps of a move, of one long stream."""
    import smcssm as ss

    rng = np.random.default_rng(0)
    slope = np.cumsum(0.02 * rng.standard_normal(GROWTH))
    y = np.cumsum(slope + 0.3 * rng.standard_normal(GROWTH)) + rng.standard_normal(GROWTH)
    engine, at, sweeps = ss.Engine(*trend(), n_particles=1000, record=None), [], []
    for t, value in enumerate(y, 1):
        if engine.step(value).moved:
            at.append(t)
            sweeps.append(int(engine._runtime.state.last_move.sweeps.max()))
    late = [(t, k) for t, k in zip(at, sweeps, strict=True) if t >= 50]
    growth = (late[-1][0] / late[0][0]) ** (1 / (len(late) - 1))
    return {"growth": growth, "sweeps": float(np.mean([k for _, k in late])), "moves": len(late)}


def terms(series: float, n: float) -> list[float]:
    """Of a cost: constant, series, particles of all, and those of them beyond ``MANY``."""
    return [1.0, series, series * n, max(series * n - MANY, 0.0)]


def measure(quick: bool) -> dict[str, Any]:
    from scipy.optimize import nnls

    found = [of_size(*size) for size in (*SIZES, LAST[quick])]
    sizes, fits, gaps = [(r["series"], r["n"]) for r in found], {}, {}
    for kind in TERMS:
        y = np.array([r[kind] for r in found])
        A = np.array([terms(*size) for size in sizes]) * TERMS[kind]
        fits[kind] = nnls(A[:-1] / y[:-1, None], np.ones(len(y) - 1))[0].tolist()  # relative errors
        gaps[kind] = (A @ fits[kind] / y - 1).tolist()
    return {"found": found, "fits": fits, "gaps": gaps, "driver": of_driver(8192), "moves": of_moves()}


# --- the page


def seconds(x: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{1e9 * x:.3g} ns" if x else "–"


def amount(x: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x:.0f} bytes"


def page() -> None:
    stored = json.loads(PATH.read_text())
    told, m = stored["about"], stored["found"]
    size, fits = float(np.mean([r["bytes"] for r in m["found"]])), m["fits"]
    kept = float(np.mean([r["history_bytes"] for r in m["found"]]))

    def cost(kind: str, series: float, n: float) -> float:
        return float(np.dot(fits[kind], terms(series, n)))

    parts = [_fitted(told, m, size), _many(cost, size, kept, m["driver"]), _long(cost, kept, m["moves"])]
    (ROOT / "docs" / "scaling.md").write_text("\n".join(line for part in parts for line in part) + "\n")


def _fitted(told: dict[str, Any], m: dict[str, Any], size: float) -> list[str]:
    quick, last = " --quick" if told["sizes"] == "quick" else "", m["found"][-1]
    versions = ", ".join(f"{k} {v}" for k, v in told["versions"].items() if k in ("smcssm", "jax"))
    rows = []
    for kind, name in NAMES.items():
        (a, b, c, more), gaps = m["fits"][kind], m["gaps"][kind]
        costs = " | ".join(map(seconds, (a, b, c, c + more)))
        rows.append(f"| {name} | {costs} | {max(map(abs, gaps[:-1])):.0%} | {gaps[-1]:+.0%} |")
    measured = ", ".join(f"{r['series']} x {r['n']}" for r in m["found"][:-1])
    worst = {kind: max(map(abs, gaps)) for kind, gaps in m["gaps"].items()}
    return [
        "# Scaling\n",
        "What engines and fleets cost by size: processor seconds = a + b × series + c × series × particles, c a larger "
        f"one for those beyond the first {MANY:,}, where memory is slower; fitted to measurements of local linear "
        "trends (three hyperparameters, two states, float64) over missing values, which are as much work as others and "
        "let nothing move, on Linux with [large pages](fleet.md#what-it-costs); and what the fit says of sizes that "
        "were not run.\n",
        f"| | a | b, per series | c, per particle | beyond {MANY:,} | largest gap of the fit | "
        f"predicted / measured at {last['series']} x {last['n']}, not in the fit |",
        "|---|---|---|---|---|---|---|",
        *rows,
        f"\nA particle takes {size:.0f} bytes. Measured at series x particles = {measured}. *`python -m benchmarks "
        f"scaling{quick}`, {told['date'][:10]}, {machine_of(told)}; {versions}.*\n",
        f"“–” is a fit of zero, or a term left out. The fit is off by up to {worst['row']:.0%} for a row of a fleet, "
        f"{worst['replay']:.0%} for replays and {worst['sweep']:.0%} for the rest of a sweep (which costs one large "
        "series more than many small ones of as many particles): what follows is not better than that.\n",
    ]


def _many(cost: Callable[..., float], size: float, kept: float, driver: dict[str, float]) -> list[str]:
    """Fleets: one core, then as many as it takes."""
    out = [
        "## Many series\n",
        "256 particles a series, rows one by one. A sweep of all series is 256 rows of history replayed, and the rest "
        "of it.\n",
        "| series | one row, one core | a sweep over 256 rows | particles in memory | history, a row | the bottleneck "
        "| cores for a row a second |",
        "|---|---|---|---|---|---|---|",
    ]
    for series in (1e3, 1e5, 1e7):
        row, per_series = cost("row", series, 256), cost("row", series, 0) / cost("row", series, 256)
        sweep, memory = cost("sweep", series, 256) + 256 * cost("replay", series, 256), size * series * 256
        where = f"particles, {1 - per_series:.0%} of a row: arithmetic and memory's speed"
        machines = math.ceil(2 * memory / MEMORY)
        where = f"memory: {machines} machines of 64 GB; then {where}" if machines > 1 else where
        out.append(
            f"| {series:.0e} | {seconds(row)} | {seconds(sweep)} | {amount(memory)} | {amount(kept * series)} | "
            f"{where} | {max(row, 1.0):.0f} |"
        )
    per_core = cost("row", 1e5, 256) / 1e5
    alone = driver["seconds"]
    return [
        *out,
        "\nA step holds old and new particles, so that memory is at least twice that while it runs: machines are "
        "counted by that. **By node:** series share nothing, so that both columns of seconds divide by the machines of "
        "a `RayFleet`, and by the cores of one as far as they do not wait for the same memory. What does not "
        f"divide is its driver, which reads every row, and joins what shards answer: {seconds(alone)} per series "
        f"and row for {driver['bytes']:.0f} bytes over the network (pickling included, Ray's own messages not). "
        f"A core takes {seconds(per_core)} for the particles of the same series, so that one driver keeps "
        f"{per_core / alone:.0f} cores busy at most (reckoned, not run), and more do not help: at 1e7 series the "
        f"driver needs {seconds(1e7 * alone)} for a row, whatever is behind it. Beyond that, several fleets with a "
        "driver each.\n",
    ]


def _long(cost: Callable[..., float], kept: float, moves: dict[str, float]) -> list[str]:
    """One series with a long history."""
    growth, sweeps = moves["growth"], moves["sweeps"]
    out = [
        "## Long histories\n",
        f"Moves get rarer: of {GROWTH} observations of a trend with 1,000 particles, {moves['moves']:.0f} of the moves "
        f"came after the 50th, each when history had grown by a factor of {growth:.2f} on average, with {sweeps:.1f} "
        f"sweeps. The rows that all moves together have replayed up to t are then t × sweeps × "
        f"{growth / (growth - 1):.1f}: a constant per observation on average, and t × sweeps at the worst step.\n",
        "| one series, 1e6 rows | a row by itself | a sweep | a move at the end | all moves together "
        "| rows kept | the bottleneck |",
        "|---|---|---|---|---|---|---|",
    ]
    for n in (1000, 10_000):
        sweep = cost("sweep", 1, n) + 1e6 * cost("replay", 1, n)
        out.append(
            f"| {n:,} particles | {seconds(cost('row', 1, n))} | {seconds(sweep)} | {seconds(sweeps * sweep)} | "
            f"{seconds(sweeps * sweep * growth / (growth - 1))} | {amount(kept * 1e6)} | replays: rows come one after "
            "the other |"
        )
    return [
        *out,
        "\nA surprise takes several such moves in one step, of up to 30 sweeps each: [Schedules](schedules.md) has "
        "what was measured. That is what `Paced` is for: a step replays `budget` rows for each set of challengers and "
        "no more, at any t. Replays side by side (`solver=\"parallel\"`) pay on a GPU only "
        "([figures](performance.md#on-a-gpu)).\n",
    ]


def main(chosen: list[str], quick: bool) -> None:
    if chosen != ["page"]:
        told = about(quick)
        RESULTS.mkdir(exist_ok=True)
        PATH.write_text(json.dumps({"about": told, "found": measure(quick)}, indent=1) + "\n")
    page()
