"""From a user's arguments to a configuration that fits together; every complaint about options is made here."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcssm.arguments import number
from smcssm.core import (
    AbstractConditionallyGaussian,
    AbstractFilter,
    AbstractHiddenMarkov,
    AbstractKernel,
    AbstractLinearGaussian,
    AbstractModel,
    AbstractNonlinear,
    AbstractPrior,
    AbstractSchedule,
)
from smcssm.errors import ModelError, SmcssmWarning
from smcssm.filters import Discrete, Kalman, Particle, RaoBlackwell
from smcssm.history import CHUNK, SEGMENT, History
from smcssm.journal import Journal, create
from smcssm.kalman import parallel
from smcssm.late import Revise
from smcssm.smc2.kernels import Metropolis
from smcssm.smc2.kernels.gradient import AbstractGradient
from smcssm.smc2.population import SMC2
from smcssm.smc2.schedules import Immediate
from smcssm.snapshot import Snapshot
from smcssm.timeline import Timeline

LONG = 2000  # observations, from which on a bar is shown
FEW = 4096  # particles, up to which "auto" has blocks side by side on what is no CPU
MANY = 0.1  # of the prior's draws
TRIED = 128  # draws from the prior, at one of which functions must make sense


def smc2(  # noqa: PLR0913
    model: AbstractModel,
    prior: Any,
    *,
    filter: AbstractFilter | None,
    move: AbstractKernel | None,
    schedule: AbstractSchedule | None,
    solver: str,
    ess_threshold: float,
    impossible: str,
    record: bool,
    dtype: str,
    n_particles: int,
    series: int,
    resampling: str,
    forgetting: float,
    late: Any,
) -> SMC2:
    """The parts of an engine, checked against each other."""
    check_model(model, prior)
    check_parts(filter=filter, move=move, schedule=schedule)
    number("ess_threshold", ess_threshold, "a share of the particles between 0 and 1", lambda v: 0 < v < 1)
    if impossible not in ("error", "missing"):
        raise ModelError(f'impossible={impossible!r}: expected "error" or "missing"')
    if resampling not in ("systematic", "multinomial"):
        raise ModelError(f'resampling={resampling!r}: expected "systematic" or "multinomial"')
    if str(dtype) not in ("float64", "float32"):
        raise ModelError(f'dtype={dtype!r}: expected "float64" or "float32"')
    chosen = model.default_prior(1.0) if prior is None else as_prior(prior)
    check_names(model, chosen)
    check_functions(model, chosen)
    inner = solved_by(solver, filter_for(model) if filter is None else bound(filter, model), n_particles * series)
    kernel, when = Metropolis() if move is None else move, Immediate() if schedule is None else schedule
    when.check(move, inner)
    check_forgetting(forgetting, when)
    check_late(late, model, when, kernel, forgetting)
    check_random(inner, late, kernel, forgetting)
    groups = groups_for(n_particles, chosen.size)
    smc = SMC2(
        prior=chosen,
        filter=inner,
        kernel=kernel,
        schedule=when,
        ess_threshold=float(ess_threshold),
        groups=groups,
        folds=groups if groups > 1 else 1 + (n_particles % 2 == 0),
        resampling=resampling,
        forgetting=float(forgetting),
        impossible=impossible,
        record=record,
        dtype=str(dtype),
        horizon=int(late.horizon) if isinstance(late, Revise) else 0,
        chunk=rows_at_once(inner),
    )
    smc.kernel.check(smc, n_particles)
    return smc


def check_forgetting(forgetting: float, schedule: AbstractSchedule) -> None:
    """A factor in (0, 1], and a schedule that can bear one below 1."""
    told = "a factor in (0, 1], such as 0.999; 1 forgets nothing"
    number("forgetting", forgetting, told, lambda v: 0 < v <= 1)
    if forgetting < 1 and schedule.tempering:
        raise ModelError(
            f"forgetting={forgetting} with schedule={schedule!r}: what is forgotten cannot stay pending. Use "
            "schedule=Immediate(tempering=False)"
        )
    if forgetting < 1 and schedule.remembers is not None:
        raise ModelError(
            f"forgetting={forgetting} with schedule={schedule!r}: jittered particles do not spread out again when the "
            "past is forgotten, so hyperparameters that drift are not followed. Use schedule=Immediate(tempering=False)"
        )


def check_late(
    late: Any, model: AbstractModel, schedule: AbstractSchedule, kernel: AbstractKernel, forgetting: float
) -> None:
    """Late rows are put in their place by filtering anew under the present hyperparameters, from a known past."""
    if not isinstance(late, Revise):
        return
    why = None
    if schedule.remembers is not None:
        why = f"schedule={schedule!r}: its beliefs are not those of a replay, and it keeps no history"
    elif forgetting < 1:
        why = f"forgetting={forgetting}: how much a row still counts would depend on when it arrived"
    elif isinstance(kernel, AbstractGradient):
        why = f"move={kernel!r}: the gradient of what a late surprise leaves pending is not known. Use Metropolis()"
    elif "t" in getattr(model, "reads", ()):
        why = "a model that reads step.t: rows count as they arrive, so that t would not tell a row's place in time"
    if why is not None:
        raise ModelError(f"late={late!r} cannot be combined with {why}")


def check_random(filter: AbstractFilter, late: Any, kernel: AbstractKernel, forgetting: float) -> None:
    """What a likelihood that is only estimated can bear: everything that takes the estimate once, as it is."""
    why = None
    if filter.exact:
        return
    if isinstance(kernel, AbstractGradient):
        why = f"move={kernel!r}: an estimate has no useful gradient. Use moves.Metropolis()"
    elif isinstance(late, Revise):
        why = f"late={late!r}: the estimate would have to be made anew. Use late.Drop() or late.Refuse()"
    elif forgetting < 1:
        why = f"forgetting={forgetting}: the power of an estimate without bias has one"
    if why is not None:
        raise ModelError(f"{type(filter).__name__} estimates the likelihood, and cannot be combined with {why}")


def check_warm_start(smc: SMC2) -> None:
    """A target that draws of the ordinary posterior are draws of, and a history to check them with."""
    if not smc.filter.exact:
        raise ModelError(f"a warm start needs the likelihood of each draw; {type(smc.filter).__name__} estimates it")
    if smc.forgetting < 1:
        raise ModelError(f"forgetting={smc.forgetting}: draws of the whole posterior are none of a forgetful one")
    if smc.schedule.remembers is not None:
        raise ModelError(f"schedule={smc.schedule!r} keeps no history: start warm with Immediate() or Paced()")


def history(journal: Any, smc: SMC2, n_series: int, timeline: Timeline | None = None) -> History:
    """Where observations are kept: in memory, or in a folder."""
    if journal is None:
        return History(timeline=timeline)
    new = create(policy(journal), about(smc, n_series))
    new.timeline = timeline
    return new


def policy(journal: Any) -> Journal:
    """A folder as a journal with the usual options, or a journal as it is."""
    if isinstance(journal, (str, os.PathLike)):
        journal = Journal(journal)
    if not isinstance(journal, Journal):
        raise ModelError(f"journal={journal!r}: expected a folder, or an ss.journal.Journal")
    return journal


def about(smc: SMC2, n_series: int) -> dict[str, Any]:
    """What the observations in a journal are of."""
    model = smc.filter.model
    return {
        "model": type(model).__name__,
        "hyperparameters": list(model.names),
        "states": list(model.state_names),
        "channels": list(model.channel_names),
        "inputs": list(model.input_names),
        "dtype": smc.dtype,
        "n_series": n_series,
    }


def check_model(model: Any, prior: Any) -> None:
    """A model, in its place."""
    if isinstance(prior, AbstractModel):
        raise ModelError("model and prior are swapped: write Engine(model, prior)")
    if not isinstance(model, AbstractModel):
        remedy = "call it" if callable(model) else "a component alone is no model: add Noise()"
        raise ModelError(f"model: expected a model of smcssm.models, got {model!r}; {remedy}")


PARTS = {
    "filter": (AbstractFilter, "or nothing: it is chosen from the model"),
    "move": (AbstractKernel, 'such as move=ss.moves.Metropolis("random_walk")'),
    "schedule": (AbstractSchedule, "such as schedule=ss.Immediate() or ss.Paced()"),
}


def check_parts(**parts: Any) -> None:
    """Objects, not their names or classes; None stands for the default."""
    for name, part in parts.items():
        kind, example = PARTS[name]
        if isinstance(part, type) and issubclass(part, kind):
            raise ModelError(f"{name}={part.__name__} is a class: call it, {name}={part.__name__}()")
        if part is not None and not isinstance(part, kind):
            raise ModelError(f"{name}={part!r}: expected an object of smcssm.{name}s, {example}")


def groups_for(n_particles: int, size: int) -> int:
    """How many groups show the Monte Carlo error: 8 to 4 of equal size, each large enough to stand for itself, or 1."""
    least = max(250, 20 * size)
    return next((g for g in range(8, 3, -1) if n_particles % g == 0 and n_particles // g >= least), 1)


def filter_for(model: AbstractModel) -> AbstractFilter:
    """The filter of a model: an exact one where there is one."""
    if isinstance(model, AbstractLinearGaussian):
        return Kalman(model)
    if isinstance(model, AbstractConditionallyGaussian):
        return RaoBlackwell(model)
    if isinstance(model, AbstractHiddenMarkov):
        return Discrete(model)
    if isinstance(model, AbstractNonlinear):
        return Particle(model)
    raise ModelError(f"no filter is known for {type(model).__name__}: give filter=")


def bound(filter: AbstractFilter, model: AbstractModel) -> AbstractFilter:
    """The filter with the engine's model, where it was given without one."""
    return replace(filter, model=model) if filter.model is None else filter


def solved_by(solver: str, filter: AbstractFilter, particles: int) -> AbstractFilter:
    """The filter with its way through history. "auto" keeps the filter's own, which is row by row on a CPU.

    There blocks paid for one particle alone, and not for 16 (benchmarks/history.py). Elsewhere a Kalman filter without
    blocks of its own gets them, up to ``FEW`` particles of all series (benchmarks/gpu.py).
    """
    if solver not in ("auto", "sequential", "parallel"):
        raise ModelError(f'solver={solver!r}: expected "auto", "sequential" or "parallel"')
    if not isinstance(filter, Kalman):
        if solver == "parallel":
            raise ModelError(f'solver="parallel" needs a Kalman filter, not {type(filter).__name__}: use "auto"')
        return filter
    if solver == "sequential":
        return replace(filter, blocks=1)
    if solver == "auto" and (filter.blocks > 1 or particles > FEW or jax.default_backend() == "cpu"):
        return filter
    return replace(filter, blocks=parallel.blocks_for(SEGMENT, particles))


def rows_at_once(filter: AbstractFilter) -> int:
    """How many rows of history a replay takes in one program: so many that blocks are as long as there are."""
    return SEGMENT if isinstance(filter, Kalman) and filter.blocks > 1 else CHUNK


def as_prior(prior: Any) -> AbstractPrior:
    """A prior of smcssm as it is; a ``pm.Model`` through its compiled log density."""
    if isinstance(prior, AbstractPrior):
        return prior
    if type(prior).__module__.split(".")[0] == "pymc":
        from smcssm.priors import pymc

        return pymc.as_prior(prior)
    raise ModelError(f"prior: expected a pm.Model or a prior of smcssm.priors, got {type(prior).__name__}")


def check_names(model: AbstractModel, prior: AbstractPrior) -> None:
    """Every hyperparameter of the model has a prior, of the shape that the model reads."""
    missing = [name for name in model.names if name not in prior.names]
    if missing:
        raise ModelError(
            f"the prior lacks {', '.join(missing)}: the model's hyperparameters are {', '.join(model.names)}; "
            f"the prior names {', '.join(prior.names)}"
        )
    with jax.enable_x64(True):
        theta = jax.eval_shape(prior.constrain, jax.ShapeDtypeStruct((prior.size,), jnp.float64))
    expected = {n: shape for n, shape in zip(model.names, model.shapes, strict=True) if shape is not None}
    wrong = {n: theta[n].shape for n, shape in expected.items() if theta[n].shape != shape}
    if wrong:
        told = "; ".join(f"{n} has shape {got}, the model reads {expected[n]}" for n, got in wrong.items())
        raise ModelError(f"prior and model disagree: {told}")


def check_functions(model: AbstractModel, prior: AbstractPrior) -> None:
    """A model of the user's own functions makes sense somewhere: what is wrong at every draw is wrong everywhere."""
    complaint = getattr(model, "complaint", None)
    if complaint is None:
        return
    with jax.enable_x64(True):
        draws = np.asarray(prior.sample(jax.random.key(0), TRIED)[0], float).T
        told = (complaint(prior.constrain(jnp.asarray(z))) for z in draws)
        first = next(told)
        if first and all(told):
            raise ModelError(f"{first}. So it was at every draw from the prior that was tried")


def warn_of_signs(snapshot: Snapshot) -> None:
    """Tell, before any observation, of standard deviations whose prior the model's support cuts off at zero."""
    if np.mean(np.isneginf(np.asarray(snapshot.population.log_weight))) <= MANY:
        return
    theta = snapshot.theta()
    for name in snapshot.smc.filter.model.names:
        if "sigma" in name and (share := np.mean(theta[name] < 0)) > MANY:
            warnings.warn(
                f"{name} is negative in {share:.0%} of the prior's draws; a standard deviation never is, so the prior "
                f'is cut off at zero. Better say what you mean: pm.HalfNormal("{name}", ...), say',
                SmcssmWarning,
                stacklevel=3,
            )


def check_counts(**counts: Any) -> None:
    """Sizes that make sense; record=None keeps none."""
    for name, value in counts.items():
        least = 2 if name == "n_particles" else 0 if name == "seed" else 1
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not (whole and value >= least) and not (name == "record" and value is None):
            raise ModelError(f"{name}={value!r}: expected a whole number >= {least}")


def check_smoothing(lag: Any, draws: Any, seed: Any) -> None:
    """Numbers of rows and draws, which may be 0; lag=None is all."""
    whole = {"lag": 0 if lag is None else lag, "draws": draws}
    for name, value in whole.items():
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 0:
            raise ModelError(f"{name}={value!r}: expected a whole number >= 0")
    check_counts(seed=seed)


def horizon(h: Any) -> int:
    """A number of steps to forecast."""
    check_counts(h=h)
    return int(h)


def check_paths(draws: Any, seed: Any) -> None:
    """How many paths to draw, none or more, and a seed or none."""
    if draws != 0:
        check_counts(draws=draws)
    if seed is not None:
        check_counts(seed=seed)


def check_beyond(draws: int) -> None:
    """Paths begin with the last observation."""
    if draws:
        raise ModelError(
            f"draws={draws} with times before the last observation: paths begin there. engine.smooth(draws=) has joint "
            "trajectories of the state at the observations, missing ones too; covariance=True is of all times"
        )


def levels(quantiles: Any) -> list[float]:
    """Levels of quantiles."""
    if np.ndim(quantiles) != 1:
        raise ModelError(f"quantiles={quantiles!r}: expected several levels; of one, write quantiles=({quantiles!r},)")
    if len(quantiles) == 0:
        raise ModelError("quantiles=(): expected one level or more, between 0 and 1")
    given = np.asarray(quantiles).tolist()
    return [number("quantiles", q, "levels between 0 and 1", lambda q: 0 < q < 1) for q in given]


@contextlib.contextmanager
def progress_bar(total: int, wanted: bool | None) -> Iterator[Callable[[int], None] | None]:
    """A function to report progress to; None when no bar is shown."""
    if wanted is False or (wanted is None and (total < LONG or not sys.stderr.isatty())):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("observations", total=total)
        yield lambda n: bar.update(task, advance=n)
