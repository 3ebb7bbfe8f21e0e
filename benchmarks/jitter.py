"""How far off is `Jitter`, and does it help to add particles or harm to go on?

A local level model whose posterior is known by quadrature. Independent runs lie on the series axis. For each kernel and
number of particles: root mean square error of the means and of the log evidence over the runs, and the posterior sd
over the right one, after 1,000, 10,000 and 100,000 observations. Prints a table; ``--json FILE`` keeps it.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import logsumexp

import smcssm as ss

NAMES = ("sigma_level", "sigma_obs")


def data(length: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.cumsum(0.3 * rng.standard_normal(length)) + rng.standard_normal(length)


def truth(y: np.ndarray, times: list[int], size: int = 80) -> dict[int, tuple]:
    """Mean, sd and log evidence at some times, on a grid that is drawn around the mass of the one before."""
    out, boxes = {}, [(0.05, 1.0), (0.4, 2.0)]
    for t in times:
        for _ in range(2):
            grids = [a + (np.arange(size) + 0.5) * (b - a) / size for a, b in boxes]
            level, obs = np.meshgrid(*grids, indexing="ij")
            log_p = 2 * np.log(2) + stats.norm.logpdf(level) + stats.norm.logpdf(obs, scale=2.0)
            m, P = np.zeros_like(level), np.full_like(level, 100.0)
            for i in range(t):
                P = P + (level**2 if i else 0.0)
                S, v = P + obs**2, y[i] - m
                log_p -= 0.5 * (np.log(2 * np.pi * S) + v * v / S)
                m, P = m + P / S * v, P * obs**2 / S
            cell = sum(np.log((b - a) / size) for a, b in boxes)
            w = np.exp(log_p - logsumexp(log_p))
            marginals = (w.sum(axis=1), w.sum(axis=0))
            mean = np.array([p @ g for p, g in zip(marginals, grids, strict=True)])
            sd = np.sqrt([p @ (g - c) ** 2 for p, g, c in zip(marginals, grids, mean, strict=True)])
            boxes = [(c - 7 * s, c + 7 * s) for c, s in zip(mean, sd, strict=True)]
        out[t] = (mean, sd, logsumexp(log_p) + cell)
    return out


def study(particles: list[int], times: list[int], runs: int) -> Iterator[tuple[str, int, int, dict[str, float]]]:
    """Kernel, number of particles, time, figures."""
    y = data(times[-1])
    exact = truth(y, times)
    prior = ss.priors.Independent({"sigma_level": ss.priors.HalfNormal(1.0), "sigma_obs": ss.priors.HalfNormal(2.0)})
    for kernel in (ss.schedules.CrisanMiguez(), ss.schedules.LiuWest(0.98)):
        for n in particles:
            schedule = ss.Jitter(kernel)
            model = ss.models.LocalLevel(0.0, 10.0)
            engine = ss.Engine(model, prior, n_particles=n, runs=runs, schedule=schedule, record=None)
            start = 0
            for t in times:
                engine.update(y[start:t])
                start, (mean, sd, log_evidence) = t, exact[t]
                snapshot = engine.snapshot()
                w, theta = snapshot.weights(), snapshot.theta()
                means = np.stack([np.sum(w * theta[k], axis=-1) for k in NAMES], axis=-1)
                squares = np.stack([np.sum(w * theta[k] ** 2, axis=-1) for k in NAMES], axis=-1)
                figures = {
                    "means rms": np.sqrt(np.mean(((means - mean) / sd) ** 2)),
                    "sd ratio": np.mean(np.sqrt(squares - means**2) / sd),
                    "log evidence rms": np.sqrt(np.mean((snapshot.log_evidence() - log_evidence) ** 2)),
                }
                yield type(kernel).__name__, n, t, {k: float(v) for k, v in figures.items()}


def rows(quick: bool) -> list[dict[str, Any]]:
    sizes = ([1000], [1000], 4) if quick else ([1_000, 4_000, 16_000], [1_000, 10_000, 100_000], 8)
    units = {"means rms": "posterior sds", "sd ratio": "1 is right", "log evidence rms": "nats"}
    return [
        {"what": f"{kernel}, N = {n}, t = {t}: {name}", "unit": units[name], "ours": value}
        for kernel, n, t, figures in study(*sizes)
        for name, value in figures.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--particles", type=int, nargs="+", default=[1_000, 4_000, 16_000])
    parser.add_argument("--times", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--runs", type=int, default=8)
    a = parser.parse_args()
    found = {}
    for kernel, n, t, row in study(a.particles, a.times, a.runs):
        found[f"{kernel} N={n} t={t}"] = row
        figures = "  ".join(f"{k} {v:.3g}" for k, v in row.items())
        print(f"{kernel:13s} N = {n:6d}  t = {t:7d}  {figures}", flush=True)
    if a.json:
        a.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
