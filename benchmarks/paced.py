"""What does bounded work cost in accuracy? `Paced` against `Immediate` with 2, 5, 10 and 20 hyperparameters.

A level seen with d - 1 noise levels in turn. The truth is importance sampling with exact likelihoods in NumPy, its own
effective sample size beside it. Both schedules see the same data with the same seeds. Prints root mean square errors
of the log evidence (nats) and of means and sds (posterior sds) over the seeds; ``--json FILE`` keeps them.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
from scipy import stats
from scipy.special import logsumexp

import smcssm as ss

SCALE, INITIAL_SD = 1.0, 5.0


def problem(d: int, length: int) -> tuple:
    """Model, prior, observations and inputs."""
    names = ("sigma_level", *(f"sigma_{k}" for k in range(d - 1)))

    def matrices(theta, step):
        noise = sum(theta[name] * step.inputs[k] for k, name in enumerate(names[1:]))
        return dict(
            chol_P0=[[INITIAL_SD]], F=[[1.0]], chol_Q=[[theta["sigma_level"]]], H=[[1.0]], chol_R=[[noise]]
        )

    with pm.Model() as prior:
        for name in names:
            pm.HalfNormal(name, SCALE)
    rng = np.random.default_rng(d)
    season = np.arange(length) % (d - 1)
    noise = np.linspace(0.4, 1.2, d - 1)[season]
    y = np.cumsum(0.3 * rng.standard_normal(length)) + noise * rng.standard_normal(length)
    model = ss.models.LinearGaussian(matrices, names, n_inputs=d - 1)
    return model, prior, names, y, np.eye(d - 1)[season], season


def log_target(z: np.ndarray, y: np.ndarray, season: np.ndarray) -> np.ndarray:
    """Log prior + log likelihood of log hyperparameters [n, d], Jacobian included."""
    theta = np.exp(z)
    log_p = np.sum(np.log(2) + stats.norm.logpdf(theta, scale=SCALE) + z, axis=1)
    m, P, Q = np.zeros(len(z)), np.full(len(z), INITIAL_SD**2), theta[:, 0] ** 2
    for t, (value, k) in enumerate(zip(y, season, strict=True)):
        P = P + (Q if t else 0.0)
        R = theta[:, 1 + k] ** 2
        S, v = P + R, value - m
        log_p -= 0.5 * (np.log(2 * np.pi * S) + v * v / S)
        m, P = m + P / S * v, P * R / S
    return log_p


def truth(draws: np.ndarray, y: np.ndarray, season: np.ndarray, n: int = 100_000) -> tuple:
    """Mean, sd and log evidence by importance sampling from a Student-t fitted to draws of log hyperparameters."""
    q = stats.multivariate_t(draws.mean(axis=0), 1.2 * np.cov(draws.T), df=9, seed=1)
    z = np.concatenate([q.rvs(n // 10) for _ in range(10)])
    log_w = np.concatenate([log_target(part, y, season) - q.logpdf(part) for part in np.split(z, 10)])
    w = np.exp(log_w - logsumexp(log_w))
    theta = np.exp(z)
    mean = w @ theta
    return mean, np.sqrt(w @ (theta - mean) ** 2), logsumexp(log_w) - np.log(n), 1 / np.sum(w**2)


def runs(schedule, problem_: tuple, seeds: int, n: int) -> tuple:
    """Of each seed mean, sd and log evidence; draws of log hyperparameters, acceptance, moves, median CPU seconds."""
    model, prior, names, y, inputs, _ = problem_
    out, draws, seconds, moves, acceptance = [], [], [], 0, []
    for seed in range(seeds):
        engine = ss.Engine(model, prior, n_particles=n, seed=seed, schedule=schedule)
        prior = engine.prior  # compiled programs are shared
        engine.update(y[:1], inputs=inputs[:1])
        start = time.process_time()
        infos = engine.update(y[1:], inputs=inputs[1:])
        seconds.append(time.process_time() - start)
        moves, acceptance = moves + infos.moved.sum(), [*acceptance, np.nanmean(infos.acceptance)]
        table = engine.summary().loc[list(names)]
        out.append(np.r_[table["mean"], table["sd"], engine.log_evidence])
        posterior = engine.posterior(500)
        draws.append(np.log(np.stack([posterior[name].values.ravel() for name in names], axis=1)))
    return np.array(out), np.concatenate(draws), np.mean(acceptance), moves / seeds, float(np.median(seconds))


def study(
    paced: ss.Paced, dimensions: list[int], length: int, seeds: int, n: int
) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Schedule, number of hyperparameters, figures."""
    for d in dimensions:
        case, exact = problem(d, length), None
        for name, schedule in (("immediate", ss.Immediate()), ("paced", paced)):
            values, draws, acceptance, moves, seconds = runs(schedule, case, seeds, n)
            exact = exact or truth(draws, case[3], case[5])
            mean, sd, log_evidence, ess = exact
            errors = np.c_[(values[:, :d] - mean) / sd, values[:, d : 2 * d] / sd - 1]
            row = {
                "log evidence rms": np.sqrt(np.mean((values[:, -1] - log_evidence) ** 2)),
                "log evidence bias": np.mean(values[:, -1] - log_evidence),
                "means rms": np.sqrt(np.mean(errors[:, :d] ** 2)),
                "sds rms": np.sqrt(np.mean(errors[:, d:] ** 2)),
                "sds bias": np.mean(errors[:, d:]),
                "acceptance": acceptance,
                "moves": moves,
                "seconds": seconds,
                "ESS of the truth": ess,
            }
            print(f"{name:10s} d = {d:2d}  " + "  ".join(f"{k} {v:.3g}" for k, v in row.items()), flush=True)
            yield name, d, {k: float(v) for k, v in row.items()}


def rows(quick: bool) -> list[dict[str, Any]]:
    sizes = ([2], 300, 8, 500) if quick else ([2, 5, 10, 20], 1000, 16, 1000)
    found = {(name, d): row for name, d, row in study(ss.Paced(), *sizes)}
    units = {"log evidence rms": "nats", "means rms": "posterior sds", "sds rms": "relative", "seconds": "CPU s"}
    return [
        {"what": f"{d} hyperparameters: {what}", "unit": unit, "ours": found["paced", d][what]}
        | {"rival": "Immediate (ours as well)", "theirs": found["immediate", d][what]}
        for d in sizes[0]
        for what, unit in units.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--budget", type=int)
    a = parser.parse_args()
    paced = ss.Paced() if a.budget is None else ss.Paced(budget=a.budget)
    rows = study(paced, a.dimensions, a.length, a.seeds, a.particles)
    found = {f"{name} d={d}": row for name, d, row in rows}
    if a.json:
        a.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
