"""How often the alarms of ``ss.monitor`` are false, and how soon true ones come: data from the model itself.

Each series is a local level whose two standard deviations are drawn from the prior of the engine that watches it, so
that model and prior are right, hyperparameters unknown. Then the same with a fault in the second half: the share of
series in which it is noticed, and after how many observations (median). river's detectors see the same normal scores,
where river is installed. Prints a table; ``--json FILE`` keeps it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import smcssm as ss
from smcssm.monitor import Change, Monitor
from smcssm.priors import HalfNormal, Independent

MODEL = ss.models.LocalLevel(initial_sd=3.0)
PRIOR = Independent({name: HalfNormal(1.0) for name in MODEL.names})
FAULTS = ("none", "jump by 5 sigma_obs", "sigma_obs times 2", "sigma_level times 3", "drift by sigma_obs / 2 a step")


def simulate(rng: np.random.Generator, length: int, fault: str) -> np.ndarray:
    """A series with the engine's own prior; the fault begins in the middle."""
    level, obs = abs(rng.normal(size=2))
    late = np.arange(length) >= length // 2
    level_sd = level * np.where(late & (fault == FAULTS[3]), 3.0, 1.0) * (np.arange(length) > 0)
    obs_sd = obs * np.where(late & (fault == FAULTS[2]), 2.0, 1.0)
    x = 3.0 * rng.normal() + np.cumsum(level_sd * rng.normal(size=length))
    x += 5 * obs * late * (fault == FAULTS[1]) + 0.5 * obs * np.cumsum(late) * (fault == FAULTS[4])
    return x + obs_sd * rng.normal(size=length)


def watchers(run_length: int) -> dict[str, Monitor]:
    """Ours, and river's with the settings it comes with and some for standard normal numbers."""
    found = {"Monitor": Monitor(run_length)}
    try:
        from river import drift
    except ImportError:
        return found
    found["Page-Hinkley, river's defaults"] = Monitor(run_length, drift.PageHinkley)
    tuned = dict(delta=0.5, threshold=9.0, alpha=1.0)
    found["Page-Hinkley(delta=0.5, threshold=9)"] = Monitor(run_length, lambda: drift.PageHinkley(**tuned))
    found["ADWIN, river's defaults"] = Monitor(run_length, drift.ADWIN)
    return found


def one(y: np.ndarray, engine: ss.Engine, forgetful: ss.Engine, run_length: int) -> dict[str, list[int]]:
    """Times of the alarms of each watcher; those of kind "surprise" are left to ``Monitor``."""
    for e in (engine, forgetful):
        e.reset()
    infos, others = engine.update(y, progress=False), forgetful.update(y, progress=False)
    times = {}
    for name, monitor in watchers(run_length).items():
        kinds = ("location", "scale") + (("surprise",) if name == "Monitor" else ())
        times[name] = [a.t for a in monitor.update(infos) if a.kind in kinds]
    return times | {"Change": [a.t for a in Change(run_length).update(infos, others)]}


def study(series: int, length: int, run_length: int, particles: int) -> list[dict[str, Any]]:
    """A row for each fault and watcher."""
    options = dict(n_particles=particles, record=None, impossible="missing", seed=0)
    engine = ss.Engine(MODEL, PRIOR, **options)
    forgetful = ss.Engine(MODEL, PRIOR, forgetting=0.98, schedule=ss.Immediate(tempering=False), **options)
    rng, half, table = np.random.default_rng(0), length // 2, []
    for fault in FAULTS:
        found = [one(simulate(rng, length, fault), engine, forgetful, run_length) for _ in range(series)]
        for name in found[0]:
            if fault == "none":
                alarms = sum(len(f[name]) for f in found)
                table.append({"fault": fault, "watcher": name, "false": alarms, "of": series * length})
                print(f"{name}: {alarms} false alarms in {series * length:,} observations", flush=True)
                continue
            first = [min((t for t in f[name] if t > half), default=None) for f in found]
            delays = [t - half for t in first if t is not None]
            row = {"fault": fault, "watcher": name, "noticed": len(delays) / len(found)}
            delay = float(np.median(delays)) if delays else None
            table.append(row | {"median_delay": delay})
            print(f"{fault}: {name}: noticed {row['noticed']:.0%}, median delay {delay}", flush=True)
    return table


def rows(quick: bool) -> list[dict[str, Any]]:
    out, sizes = [], (8, 200, 100, 128) if quick else (40, 500, 250, 200)
    asked = {"Monitor": f"asked for {1000 / sizes[2]:.0f}", "Change": f"asked for {1000 / sizes[2]:.0f} at most"}
    for r in study(*sizes):
        what = f"{r['watcher']}, fault: {r['fault']}"
        if r["fault"] == "none":
            what = f"{r['watcher']}, no fault" + (f", {asked[r['watcher']]}" if r["watcher"] in asked else "")
            out.append({"what": what, "unit": "false alarms per 1000", "ours": 1000 * r["false"] / r["of"]})
            continue
        delay = "" if r["median_delay"] is None else f", median delay {r['median_delay']:.0f} observations"
        out.append({"what": what + delay, "unit": "share of series in which it is noticed", "ours": r["noticed"]})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=40)
    parser.add_argument("--length", type=int, default=500)
    parser.add_argument("--run-length", type=int, default=250)
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    table = study(args.series, args.length, args.run_length, args.particles)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
