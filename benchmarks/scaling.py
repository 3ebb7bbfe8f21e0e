"""What an engine costs by size, fitted to measurements, and what that says of sizes that were not run: docs/scaling.md.

    python -m benchmarks scaling [page] [--quick]

Local linear trends in float64. Steps are those of blocks of missing values: the filter does the same work, and nothing
has to move. Replays are timed as moves run them.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.records import RESULTS, ROOT, about

PATH = RESULTS / "scaling.json"
ROWS = 256  # of a block


def least(f: Callable[[], Any], repeats: int = 5) -> float:
    """Seconds, the first call left out."""
    f()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


def of_size(series: int, n: int) -> dict[str, float]:
    """Seconds of a row in a block and alone, of one row of a replay, of a fit; and bytes."""
    import jax

    import smcssm as ss
    from smcssm.smc2.adapt import compiled
    from smcssm.smc2.challengers import replay
    from smcssm.smc2.kernels.metropolis import draw, fit

    model = ss.models.LocalLinearTrend(initial_sd=(10.0, 1.0))
    engine = ss.Engine(model, n_particles=n, runs=series, record=None)
    nothing = np.full(ROWS, np.nan)
    block = least(lambda: engine.update(nothing, progress=False), 3) / ROWS
    alone = least(lambda: engine.step(np.nan), 20)
    runtime = engine._runtime
    smc, population, history = runtime.smc, runtime.state.population, runtime.history
    with jax.enable_x64(True):
        proposal, counters = smc.kernel.proposals[0], (np.int64(0), np.int64(0))
        fitted = compiled(fit, smc, proposal)
        tuning = fitted(population)
        fits = least(lambda: jax.block_until_ready(fitted(population)))
        start, _ = compiled(draw, smc, proposal)(tuning, population, history.first, *counters)
        since = np.full(series, len(history))
        end = (history, since, *counters)
        replays = least(lambda: jax.block_until_ready(replay(smc, population, start, *end).log_lik))
        per_particle = sum(a.nbytes for a in jax.tree.leaves(population) if a.ndim >= 2) / series / n
    rows = {"series": series, "n": n, "block": block, "alone": alone, "fit": fits, "bytes": per_particle}
    return rows | {"replay": replays / len(history)}


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """y = a + b x with least relative errors, a >= 0."""
    A = np.stack([1 / y, x / y], axis=1)
    a, b = np.linalg.lstsq(A, np.ones(len(y)), rcond=None)[0]
    return (float(a), float(b)) if a > 0 else (0.0, float(np.mean(y / x)))


def measure(quick: bool) -> dict[str, Any]:
    sizes = [(1, 1000), (1, 8000), (64, 256)] if quick else [(1, 1000), (1, 16_000), (64, 256), (256, 256), (1024, 256)]
    found = [of_size(*size) for size in sizes]
    x = np.array([r["series"] * r["n"] for r in found], float)
    fits = {k: line(x, np.array([r[k] for r in found])) for k in ("block", "alone", "replay", "fit")}
    gaps = {
        k: max(abs((a + b * size) / r[k] - 1) for size, r in zip(x, found, strict=True)) for k, (a, b) in fits.items()
    }
    return {"found": found, "fits": fits, "gaps": gaps}


def seconds(x: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{1e9 * x:.3g} ns"


def amount(x: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if x >= size:
            return f"{x / size:.3g} {unit}"
    return f"{x:.0f} bytes"


def page() -> None:
    stored = json.loads(PATH.read_text())
    told, m = stored["about"], stored["found"]
    fits, size = m["fits"], np.mean([r["bytes"] for r in m["found"]])
    quick = " --quick" if told["sizes"] == "quick" else ""
    names = {
        "block": "a row, within a block",
        "alone": "a row by itself, `engine.step`",
        "replay": "a row of history, in a sweep of a move",
        "fit": "a fit of a proposal, in a sweep",
    }
    out = [
        "# Scaling\n",
        "What an engine costs by size: cost = a + b × series × particles, fitted to measurements of local linear "
        "trends (three hyperparameters, two states, float64), and what the fit says of sizes that were not run.\n",
        "| | a | b, per particle | largest gap of the fit |",
        "|---|---|---|---|",
        *(f"| {names[k]} | {seconds(a)} | {seconds(b)} | {m['gaps'][k]:.0%} |" for k, (a, b) in fits.items()),
        f"\nA particle takes {size:.0f} bytes. Measured at (series, particles) = "
        + ", ".join(f"({r['series']}, {r['n']})" for r in m["found"])
        + f". *`python -m benchmarks scaling{quick}`, {told['date'][:10]}, {told['cpu']}, {told['cores']} cores, load "
        f"{told['load']:.1f}.*\n",
        "## What that predicts, on this machine\n",
        "256 particles a series, a block of rows; a sweep goes over all of history once.\n",
        "| | one row of all | memory | one sweep over 1,000 rows | the bottleneck |",
        "|---|---|---|---|---|",
    ]
    for count in (1e5, 1e7):
        particles = 256 * count
        row, sweep = (fits[k][0] + fits[k][1] * particles for k in ("block", "replay"))
        memory, least_bytes = size * particles, "memory" if size * particles > 64e9 else "arithmetic and bandwidth"
        out.append(
            f"| {count:.0e} series | {seconds(row)} | {amount(memory)} | "
            f"{seconds(1000 * sweep)} | {least_bytes} |"
        )
    a, b = fits["replay"]
    for n in (1000, 10_000):
        sweep = 1e6 * (a + b * n)
        out.append(
            f"| one series, 1e6 rows, {n} particles | {seconds(fits['block'][0] + fits['block'][1] * n)} | "
            f"{amount(size * n)} | {seconds(sweep)} over 1e6 rows | moves: rows come one after the other |"
        )
    out.append(
        "\nMemory beyond that of one machine is what `Fleet` and several workers are for: series share nothing, so "
        "that both columns divide by the number of workers. A sweep over a history of t rows costs t times a row; "
        "moves come at about geometrically growing t, so that they add up to a bounded number of such sweeps.\n"
    )
    (ROOT / "docs" / "scaling.md").write_text("\n".join(out))


def main(chosen: list[str], quick: bool) -> None:
    if chosen != ["page"]:
        told = about(quick)
        RESULTS.mkdir(exist_ok=True)
        PATH.write_text(json.dumps({"about": told, "found": measure(quick)}, indent=1) + "\n")
    page()
