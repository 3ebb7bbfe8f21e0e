"""Estimates that have no bias, whatever the number of particles: parts of `benchmarks.correctness`.

Of the likelihood at given hyperparameters, by inner filters run many times with nothing but other keys; the truth is a
filter on a grid, a Kalman filter, or a sum over all paths of regimes.

Of the evidence, by an engine that adapts nothing. A first run records when it moves, and for each sweep of each move
the proposal that it fitted; many runs with new keys then do the same, whatever becomes of their own particles.
Proposals are constants then, and the mean of the evidence is the truth, with few particles too. Evidences are those of
the particles alone: candidates, which correct them as a rule, do not where `resampling="multinomial"`. No observation
is taken for a surprise, so that there is no exponent to record.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import smcssm as ss
from smcssm.smc2.adapt import compiled, resample
from smcssm.smc2.kernels import metropolis
from smcssm.smc2.schedules.immediate import MoveReport

Sweeps = list[tuple[Any, Any]]
"""Proposals and their tuning."""


def mean_ratio(log_ratio: np.ndarray) -> dict[str, float]:
    """Of estimates over the truth; and the sd of their logarithm."""
    ratio = np.exp(log_ratio)
    se = ratio.std(ddof=1) / len(ratio) ** 0.5
    return {"ratio": float(ratio.mean()), "se": float(se), "sd": float(log_ratio.std(ddof=1)), "runs": len(ratio)}


# --- inner filters


def likelihoods(quick: bool) -> dict[str, Any]:
    """Of 20 observations, or of 9 of a model with regimes, missing values and repeated times among them."""
    import many_runs
    import test_particle as cases

    n, rows = 2000 if quick else 20_000, []
    with jax.enable_x64(True):
        for model, theta, (y, *_, log_lik), options in (
            (ss.models.StochasticVolatility(), cases.SV, cases.sv_oracle()[:3:2], {}),
            (ss.models.StochasticVolatility(), cases.SV, cases.sv_oracle()[:3:2], {"resampling": "sorted"}),
            (ss.models.PoissonCounts(), cases.POISSON, cases.poisson_oracle()[:3:2], {}),
            (cases.LINEAR_MODEL, cases.LINEAR, cases.linear_oracle()[:2], {"method": "bootstrap", "dt": cases.DT}),
            (cases.LINEAR_MODEL, cases.LINEAR, cases.linear_oracle()[:2], {"method": "auxiliary", "dt": cases.DT}),
        ):
            dt = options.pop("dt", None)
            filter = ss.filters.Particle(model, n_particles=64, **options)
            info, *_ = many_runs.runs(filter, theta, y, n, dt=dt)
            told = ", ".join(f"{k}={v!r}" for k, v in options.items())
            estimate = np.asarray(info.log_lik)[:, 0].sum(axis=0) - np.sum(log_lik)
            rows.append({"model": type(model).__name__, "filter": f"Particle(64{', ' * bool(told)}{told})"})
            rows[-1] |= mean_ratio(estimate)
        rows += [regimes(resampling, n) for resampling in ("optimal", "systematic")]
    return {"rows": rows}


def regimes(resampling: str, n: int) -> dict[str, Any]:
    import enumeration
    import test_rao_blackwell as cases
    from filtering import block

    inner, (_, rows) = ss.filters.RaoBlackwell(cases.MODEL, 16, resampling=resampling), block(cases.Y, dt=cases.DT)
    _, info = cases.run(inner, cases.keys(), cases.many(cases.THETA, 0, n), rows)
    estimate = np.asarray(info.log_lik.sum(axis=0))[0] - enumeration.log_likelihood(cases.exact(0, 0))
    return {"model": "Switching", "filter": f"RaoBlackwell(16, resampling={resampling!r})", **mean_ratio(estimate)}


# --- the evidence


class Frozen(ss.Immediate):
    """The moves that another run has made: ``plan`` has, by time, the sweeps of each of its moves."""

    times: tuple[int, ...] = ()

    def due(self, smc: Any, pending: Any, population: Any) -> Any:
        return jnp.isin(population.t, jnp.asarray(self.times))

    def act(self, smc: Any, pending: Any, population: Any, history: Any, due: Any) -> Any:
        since = np.full(due.shape, len(history))
        for rung, sweeps in enumerate(PLAN[len(history)]):
            population = compiled(resample, smc)(population, due, np.int64(rung))
            for number, (proposal, tuning) in enumerate(sweeps):
                each = jax.tree.map(lambda a: jnp.concatenate([a] * len(due)), tuning)
                counters = np.int64(rung), np.int64(number)
                population, *_ = metropolis.sweep_once(smc, proposal, each, population, history, since, due, counters)
        return pending, population, MoveReport.start(population, due).end()


PLAN: dict[int, list[Sweeps]] = {}


def recorded(engine: ss.Engine, y: np.ndarray) -> dict[int, list[Sweeps]]:
    """The moves of one run."""
    sweep, plan = metropolis.sweep_once, {}

    def noting(smc: Any, proposal: Any, tuning: Any, population: Any, history: Any, *rest: Any) -> Any:
        moves, (rung, number) = plan.setdefault(len(history), []), rest[-1]
        if len(moves) == rung:
            moves.append([])
        assert (len(moves), len(moves[rung])) == (rung + 1, number)
        moves[rung].append((proposal, tuning))
        return sweep(smc, proposal, tuning, population, history, *rest)

    with mock.patch.object(metropolis, "sweep_once", noting):
        engine.update(y, progress=False)
    return plan


def frozen(quick: bool) -> dict[str, Any]:
    """The evidence over the truth, adapting nothing and adapting as usual."""
    import posteriors as cases

    rows, runs, length = [], 256 if quick else 2048, 100
    for name in ("local level", "AR(1) + noise"):
        case = cases.CASES[name]
        y = case.simulate(length, 1)
        truth = case.answer(y).log_evidence
        for n in (50,) if quick else (50, 200):
            options = dict(n_particles=n, resampling="multinomial", record=None)
            plain = ss.Immediate(tempering=False)
            plan = recorded(ss.Engine(case.model, case.prior, schedule=plain, seed=1, **options), y)
            PLAN.clear()
            PLAN.update(plan)
            row = {"case": name, "n": n, "moves": len(plan)}
            row["sweeps"] = sum(len(sweeps) for moves in plan.values() for sweeps in moves)
            for what, schedule in (("frozen", Frozen(tempering=False, times=tuple(plan))), ("adaptive", plain)):
                engine = ss.Engine(case.model, case.prior, schedule=schedule, runs=runs, seed=2, **options)
                engine.update(y, progress=False)
                row[what] = mean_ratio(engine.snapshot().log_evidence() - truth)
            rows.append(row)
            print(row, flush=True)
    return {"length": length, "rows": rows}


# --- the page


def told(found: dict[str, float]) -> str:
    return f"{found['ratio']:.4f} ± {found['se']:.4f}"


def of_likelihoods(found: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """Title and text, and a table."""
    text = (
        "## Likelihoods of inner filters\n\nAt given hyperparameters, few inner particles, many runs; the mean of the "
        "estimate over the truth, which is that of a filter on a grid, of a Kalman filter or of a sum over all paths "
        "of regimes. 1 is without bias.\n"
    )
    rows = [[r["model"], f"`{r['filter']}`", f"{r['runs']}", told(r), f"{r['sd']:.2f}"] for r in found["rows"]]
    return text, ["model", "filter", "runs", "mean of likelihood / truth", "sd of its log"], rows


def of_frozen(found: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """The same."""
    text = (
        "## The evidence of an engine that adapts nothing\n\n"
        f"{found['length']} observations. One run records the times of its moves and the proposal of each sweep; "
        "others repeat them with new keys: then the mean of the evidence is the truth for any number of particles N. "
        "Beside it the engine as it is, adapting. Both without the correction by candidates.\n"
    )
    rows = []
    for r in found["rows"]:
        counts = [str(n) for n in (r["n"], r["moves"], r["sweeps"], r["frozen"]["runs"])]
        both = [text for way in ("frozen", "adaptive") for text in (told(r[way]), f"{r[way]['sd']:.2f}")]
        rows.append([r["case"], *counts, *both])
    heads = ["posterior", "N", "moves", "sweeps", "runs", "recorded: evidence / truth", "sd of log"]
    return text, [*heads, "adapting: evidence / truth", "sd of log"], rows
