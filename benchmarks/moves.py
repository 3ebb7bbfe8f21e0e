"""What a move costs and how well it mixes: Metropolis, MALA, HMC, NUTS and WasteFree on the same streams.

The unit is one replay: one pass of the filter over history for the whole population, timed in the same run. CPU
seconds of the process, the least of several, so that a busy machine disturbs little. ``--json FILE`` keeps the figures.
``--solvers`` tells what one sweep of Metropolis takes on a local level, by length, particles and solver, instead.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import smcssm as ss
from smcssm.smc2.adapt import compiled, move_key
from smcssm.smc2.challengers import replay
from smcssm.smc2.kernels.metropolis import draw, fitting
from smcssm.smc2.target import value_and_gradient

MODELS = {
    "local level": lambda: ss.models.LocalLevel(0.0, 10.0),
    "trend": lambda: ss.models.LocalLinearTrend(initial_sd=(10.0, 1.0)),
    "AR(2) + noise": lambda: ss.models.AR(2) + ss.models.Noise(),
    "level + AR(4) + noise": lambda: ss.models.Level(0.0, 10.0) + ss.models.AR(4) + ss.models.Noise(),
}
MOVES = {
    "Metropolis": ss.moves.Metropolis,
    "random walk": lambda: ss.moves.Metropolis("random_walk"),
    "MALA": ss.moves.MALA,
    "HMC": ss.moves.HMC,
    "NUTS": ss.moves.NUTS,
    "WasteFree": ss.moves.WasteFree,
}


def stream(t: int) -> np.ndarray:
    """A drifting level, a stationary AR(2) and noise; every 17th value missing."""
    rng = np.random.default_rng(0)
    u = np.zeros(t)
    for i in range(2, t):
        u[i] = 0.9 * u[i - 1] - 0.3 * u[i - 2] + 0.7 * rng.standard_normal()
    y = np.cumsum(0.2 * rng.standard_normal(t)) + u + 0.5 * rng.standard_normal(t)
    y[::17] = np.nan
    return y


def least(f, repeats: int = 7) -> float:
    """CPU seconds; of the clock on a GPU."""
    jax.block_until_ready(f())
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    times = []
    for _ in range(repeats):
        start = clock()
        jax.block_until_ready(f())
        times.append(clock() - start)
    return min(times)


def run(model: str, move: str, t: int, n: int, runs: int) -> dict[str, float]:
    """Figures of one move on one stream."""
    engine = ss.Engine(MODELS[model](), n_particles=n, runs=runs, move=MOVES[move](), record=None, seed=1)
    y, moves = stream(t), []
    for value in y:
        if engine.step(value).moved:
            moves.append(engine._runtime.state.last_move)
    sweeps = np.concatenate([m.sweeps[m.due] for m in moves])
    acceptance = np.concatenate([m.acceptance[m.due] for m in moves])
    slow = np.concatenate([m.status[m.due] == ss.Status.SLOW_MIXING for m in moves])
    smc, population, history = engine._runtime.smc, engine._runtime.state.population, engine._runtime.history
    with jax.enable_x64(True):
        since, due, counters = np.full(runs, t), np.ones(runs, bool), (np.int64(0), np.int64(0))
        proposal = ss.moves.Metropolis("independent").proposals[0]
        tuning = fitting(smc, proposal, population)
        start = compiled(draw, smc, proposal)(tuning, population, history.first, *counters)[0]
        unit = least(lambda: replay(smc, population, start, history, since, *counters).log_lik)
        view = jax.device_put(history.view(since))
        at = move_key(population, *counters), view, population.phi, population.z
        gradient = least(lambda: compiled(value_and_gradient, smc)(*at))
        whole = least(lambda: smc.kernel.move(smc, population, history, since, due, rung=0, max_sweeps=1)[0].z, 3)
    return {
        "d": smc.prior.size,
        "replay_ms": 1e3 * unit,
        "gradient": gradient / unit,
        "one_sweep": whole / unit,
        "moves": len(sweeps) / runs,
        "sweeps": float(sweeps.mean()),
        "acceptance": float(acceptance.mean()),
        "slow": float(slow.mean()),
        "spread": float(engine.snapshot().log_evidence().std(ddof=1)),
    }


def by_solver(lengths: list[int], particles: list[int]) -> list[dict[str, Any]]:
    """Milliseconds of one sweep of a move, resampling and fitting included, either way through history."""
    out = []
    for n in particles:
        for solver in ("sequential", "parallel"):
            options = {"ess_threshold": 1e-9, "schedule": ss.Immediate(tempering=False), "record": None, "seed": 1}
            engine = ss.Engine(MODELS["local level"](), n_particles=n, solver=solver, **options)
            for t in lengths:
                engine.update(stream(t)[engine.t :])
                smc, state, history = engine._runtime.smc, engine._runtime.state, engine._runtime.history
                since, due, sweeps = np.full(1, t), np.ones(1, bool), {"rung": 0, "max_sweeps": 1}
                with jax.enable_x64(True):
                    move = partial(smc.kernel.move, smc, state.population, history, since, due, **sweeps)
                    ms = 1e3 * least(lambda move=move: move()[0].z, 3)
                out.append({"t": t, "n": n, "solver": solver, "ms": ms})
                print(f"T = {t:6d}  N = {n:5d}  {solver:10s}  {ms:10.1f} ms", flush=True)
    return out


def rows(quick: bool) -> list[dict[str, Any]]:
    models, moves, size = (list(MODELS), list(MOVES), (500, 256, 8))
    if quick:
        models, moves, size = (["local level"], ["Metropolis", "random walk", "HMC"], (200, 128, 4))
    out = []
    for model in models:
        for move in moves:
            f = run(model, move, *size)
            out.append(
                {"what": f"{model}, {move}: one sweep", "unit": "replays of history", "ours": f["one_sweep"]}
                | {"note": f"{f['moves']:.1f} moves of {f['sweeps']:.1f} sweeps, acceptance {f['acceptance']:.2f}"}
                | {"error": f["spread"], "error_of": "sd of log evidence over runs, nats"}
            )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--moves", nargs="+", default=list(MOVES))
    parser.add_argument("--length", type=int, default=500)
    parser.add_argument("--particles", type=int, default=256)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--solvers", action="store_true")
    given, out = parser.parse_args(), []
    if given.solvers:
        out = by_solver([256, 1024, 4096, 16384], [64, 1024])
        if given.json:
            given.json.write_text(json.dumps(out, indent=1))
        return
    for model in given.models:
        for move in given.moves:
            figures = run(model, move, given.length, given.particles, given.runs)
            out.append({"model": model, "move": move, **figures})
            print(f"{model:22s} {move:12s}", "  ".join(f"{k} {v:.3g}" for k, v in figures.items()), flush=True)
    if given.json:
        given.json.write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
