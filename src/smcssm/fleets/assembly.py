"""What a fleet can be made of; every complaint about its options is made here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from smcssm import assemble, clock
from smcssm.clock import Timing
from smcssm.core import AbstractKernel, AbstractModel, AbstractSchedule
from smcssm.errors import ModelError
from smcssm.history import Store
from smcssm.late import Refuse
from smcssm.smc2.kernels.metropolis import Metropolis
from smcssm.smc2.population import SMC2
from smcssm.smc2.schedules import Immediate, Jitter, Paced


def names_of(series: int | Iterable[Any]) -> tuple[Any, ...]:
    """Names, all different; of a count they are 0, 1, ..."""
    if isinstance(series, (str, bytes)):
        raise ModelError(f"series={series!r} is one text: expected a list of names, or how many series there are")
    if isinstance(series, (int, np.integer)) and not isinstance(series, bool):
        names = tuple(range(int(series)))
    elif isinstance(series, Iterable):
        names = tuple(name.item() if isinstance(name, np.generic) else name for name in series)
    else:
        raise ModelError(f"series={series!r}: expected names, or how many series there are")
    if not names:
        raise ModelError("series: a fleet has at least one")
    check_different(names)
    return names


def some_of(series: Any) -> tuple[Any, ...]:
    """The names that were given: one, several, or none."""
    if series is None:
        return ()
    return (series,) if isinstance(series, (str, bytes, int, np.integer)) else tuple(series)


def check_different(names: tuple[Any, ...]) -> None:
    """Every name is there once."""
    seen: set[Any] = set()
    for name in names:
        if name in seen:
            raise ModelError(f"series: {name!r} is there twice")
        seen.add(name)


def configured(  # noqa: PLR0913
    model: AbstractModel,
    prior: Any,
    *,
    n_particles: int,
    move: AbstractKernel | None,
    schedule: AbstractSchedule | None,
    ess_threshold: float,
    impossible: str,
    time_unit: Any,
    dtype: str,
    seed: int,
) -> tuple[SMC2, Timing]:
    """The parts of a fleet from its options, checked against each other."""
    assemble.check_counts(n_particles=n_particles, seed=seed)
    if impossible not in ("quarantine", "missing"):
        raise ModelError(f'impossible={impossible!r}: expected "quarantine" or "missing"')
    timing = clock.timing(getattr(model, "continuous_time", False), time_unit, None, Refuse())
    smc = assemble.smc2(
        model,
        prior,
        filter=None,
        move=move,
        schedule=schedule,
        solver="sequential",
        ess_threshold=ess_threshold,
        impossible="error" if impossible == "quarantine" else impossible,
        record=False,
        dtype=dtype,
        n_particles=n_particles,
        series=1,
        resampling="systematic",
        forgetting=1.0,
        late=Refuse(),
    )
    check_supported(smc)
    return smc, timing


def check_supported(smc: SMC2) -> None:
    """The parts that work on some of many series at a time."""
    if not smc.filter.exact:
        raise ModelError(
            f"a fleet needs an exact filter; {type(smc.filter).__name__} estimates the likelihood, with a number of "
            "inner particles that differs from series to series. Use an Engine for each series"
        )
    if not isinstance(smc.schedule, (Immediate, Paced, Jitter)):
        raise ModelError(f"schedule={smc.schedule!r}: a fleet has Immediate(), Paced() or Jitter()")
    if not isinstance(smc.kernel, Metropolis):
        raise ModelError(f"move={smc.kernel!r}: a fleet has moves.Metropolis() so far")


def check_may_change(store: Store | None) -> None:
    """The series of a journal are those it began with."""
    if store is not None:
        raise ModelError(
            f"{store.path} is the journal of the series it began with: add to, or remove from, fleet.copy(), which has "
            "none; or begin another fleet for the new series"
        )
