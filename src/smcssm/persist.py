"""An engine as a checkpoint, and back: everything that is committed, so that going on is going on, bit for bit.

What the file says of an engine must be what the engine says of itself: its options, what the observations are of, the
log density of the prior at a point, and what the model foretells from the state. Versions and devices decide only
whether later numbers are equal to the last bit; where they differ there is a warning.
"""

from __future__ import annotations

import copy
import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smcssm import assemble, container, filters, late, schedules
from smcssm.clock import Clock, Timing
from smcssm.container import Contents
from smcssm.core import AbstractFilter
from smcssm.errors import CheckpointError, ModelError, SmcssmWarning
from smcssm.history import History
from smcssm.ingest import Layout
from smcssm.record import Ring
from smcssm.runtime import Committed
from smcssm.smc2 import kernels, proposals
from smcssm.smc2.challengers import Challengers
from smcssm.smc2.cycle import Cycle, Twins
from smcssm.smc2.population import SMC2, Lag, Population
from smcssm.smc2.schedules.immediate import MoveReport
from smcssm.smc2.sweeps import Variance
from smcssm.stamps import NAIVE, OFFSET
from smcssm.trees import Words, classes_of, described, named, rebuilt

Engine = Any
"""``smcssm.engine.Engine``, which delegates to here."""

STATE = named((Population, Lag, Cycle, Twins, Challengers, MoveReport, Variance, Clock, Layout, Committed))
PARTS = named(
    part
    for module in (schedules, kernels, proposals, filters, late)
    for part in vars(module).values()
    if isinstance(part, type)
)
OBJECTS = ("filter", "move", "schedule", "late")


class Frozen(NamedTuple):
    """An engine at one moment: nothing of it is altered later, so that it can be written while the stream goes on."""

    state: Committed
    record: dict[str, Any] | None
    told: list[str]
    words: dict[str, Any]


def options(engine: Engine) -> dict[str, Words]:
    """The options of an engine in words; what is no number, text or part of this package by its ``repr``."""
    runtime = engine._runtime
    return {
        "n_particles": runtime.n_particles,
        "runs": runtime.n_series,
        "seed": engine._seed,
        "record": None if engine._ring is None else engine._ring.capacity,
        **shared_options(runtime.smc, engine._timing),
    }


def shared_options(smc: SMC2, timing: Timing) -> dict[str, Words]:
    """What engines and fleets have in common."""
    parts = {
        "filter": _without_model(smc.filter),
        "move": smc.kernel,
        "schedule": smc.schedule,
        "late": timing.late,
    }
    return {
        **{n: getattr(smc, n) for n in ("dtype", "ess_threshold", "impossible", "resampling", "forgetting")},
        "time_unit": None if timing.unit is None else int(timing.unit.astype(np.int64)),
        "origin": _date(timing.origin),
        "zone": timing.zone,
        **{name: _part(part) for name, part in parts.items()},
    }


def _without_model(filter: AbstractFilter) -> AbstractFilter:
    """The model is told of elsewhere; ``assemble.bound`` gives it back."""
    new = copy.copy(filter)
    object.__setattr__(new, "model", None)
    return new


def _date(stamp: Any) -> Words:
    return {"ns": int(stamp.astype(np.int64))} if isinstance(stamp, np.datetime64) else stamp


def _part(part: Any) -> Words:
    arrays: dict[str, np.ndarray] = {}
    try:
        words = described(part, arrays, "part")
    except TypeError:
        return {"repr": repr(part)}
    return {"repr": repr(part)} if arrays else words


def arguments(told: Mapping[str, Words], given: Mapping[str, Any], objects: Sequence[str] = OBJECTS) -> dict[str, Any]:
    """Arguments for an engine with the options that were told; those given have to be the same."""
    if "journal" in given:
        raise ModelError("journal= is for a new engine: load keeps rows in memory, Engine.open resumes a journal")
    plain = {n: v for n, v in given.items() if isinstance(v, (int, float, str)) and n not in ("time_unit", "origin")}
    wrong = [n for n, v in plain.items() if n in told and told[n] != v]
    if wrong:
        raise CheckpointError(f"{'; '.join(f'{n}={given[n]!r}, and it was {told[n]!r}' for n in wrong)}")
    found = {n: v for n, v in told.items() if n not in (*OBJECTS, "time_unit", "origin", "zone")}
    for name in objects:
        if name not in given and not (name == "move" and told[name] == _part(kernels.Metropolis())):
            found[name] = _object(name, told[name])  # the usual move is not named: Jitter takes none
    if told["time_unit"] is not None:
        found["time_unit"] = np.timedelta64(told["time_unit"], "ns")
    found["origin"] = _origin(told["origin"], told["zone"])
    return found | dict(given)


def _object(name: str, words: Words) -> Any:
    kind = words.get("class", words.get("repr"))
    try:
        return rebuilt(words, {}, PARTS)
    except CheckpointError:
        raise CheckpointError(f"{name} was {kind}, which is not of this package: give {name}= once more") from None


def _origin(stamp: Words, zone: str | None) -> Any:
    if not isinstance(stamp, dict):
        return stamp
    if zone in (None, NAIVE):
        return np.datetime64(stamp["ns"], "ns")
    import pandas as pd

    moment = pd.Timestamp(stamp["ns"], tz="UTC")
    return moment if zone == OFFSET else moment.tz_convert(zone)


def check_options(own: Mapping[str, Words], told: Mapping[str, Words], where: str) -> None:
    """That an engine is what it is said to be."""
    wrong = [f"{n}: {_short(told.get(n))} there, {_short(v)} here" for n, v in own.items() if told.get(n) != v]
    if wrong:
        raise CheckpointError(f"{where} is of an engine with other options: {'; '.join(wrong)}")


def _short(words: Words) -> str:
    if not isinstance(words, dict):
        return repr(words)
    if "class" in words:
        return f"{words['class']}({', '.join(f'{n}={_short(v)}' for n, v in words['fields'].items() if n != 'model')})"
    return str(next(iter(words.values()), ""))


def freeze(engine: Engine) -> Frozen:
    """All of an engine but its rows. Under its lock."""
    runtime = engine._runtime
    state, ring, smc = runtime.state, engine._ring, runtime.smc
    record = None
    if ring is not None:
        record = {"unseen": ring.unseen, "columns": ring.columns(state.clock.taken)}
    words = {
        "t": state.clock.taken,
        "length": state.length,
        "options": options(engine),
        "about": assemble.about(smc, runtime.n_series),
        "built": built_with(),
        "prior": at_centre(smc, state.population),
        "seal": runtime.history.seal(state.length),
    }
    return Frozen(state, record, sorted(engine._told), words)


def contents(frozen: Frozen, foretold: np.ndarray, rows: dict[str, np.ndarray] | None = None) -> Contents:
    """What goes into the file; with the rows of history, unless a journal has them."""
    arrays: dict[str, np.ndarray] = {}
    trees = {"state": frozen.state, "record": frozen.record, "foretold": foretold, "rows": rows}
    words = {name: described(tree, arrays, name) for name, tree in trees.items()}
    return Contents({**frozen.words, "told": frozen.told, **words}, arrays)


def restore(engine: Engine, found: Contents, history: History | None = None) -> None:
    """Make a fresh engine the one of a checkpoint, rows from there or as given; on an error it stays as it was."""
    runtime, words = engine._runtime, found.words
    check_options(options(engine), words["options"], "the checkpoint")
    assert_same("the observations", words["about"], assemble.about(runtime.smc, runtime.n_series))
    with runtime.lock, jax.enable_x64(True):
        fresh = runtime.state
        classes = classes_of(fresh.population, fresh.pending) | STATE
        trees = {n: rebuilt(words[n], found.arrays, classes) for n in ("state", "record", "foretold", "rows")}
        state, record = trees["state"], trees["record"]
        check_state(runtime.smc, fresh, state)
        check_prior(words["prior"], at_centre(runtime.smc, state.population))
        before = runtime.history
        rows = history
        if rows is None:
            rows = before.blank()
            rows.restore(trees["rows"] or {})
        if len(rows) != state.length:
            raise CheckpointError(f"it counts {state.length} rows, and there are {len(rows)}")
        try:
            runtime.state, runtime.history = state, rows
            check_foretold(runtime.smc, trees["foretold"], runtime.foretold())
        except BaseException:
            runtime.state, runtime.history = fresh, before
            raise
    if record is not None and engine._ring is not None:
        engine._ring = Ring(engine._ring.capacity, record["unseen"])
        if record["columns"]:
            kept = len(next(iter(record["columns"].values())))
            engine._ring.write(state.clock.taken - kept, record["columns"])
    engine._told = set(words["told"])
    warn_of_differences(words["built"])


def check_state(smc: SMC2, fresh: Any, state: Any) -> None:
    """Population and pending state as in a fresh engine or fleet; only inner particles may be more."""
    same = jax.tree.structure(state.population) == jax.tree.structure(fresh.population)
    pending = jax.tree.structure(state.pending) == jax.tree.structure(fresh.pending)
    if not same or not (pending or isinstance(state.pending, Twins)):
        raise CheckpointError("its state is that of another kind of engine: are model, filter and schedule the same?")
    leaves = zip(jax.tree.leaves_with_path(state.population), jax.tree.leaves(fresh.population), strict=True)
    for (path, leaf), own in leaves:
        shape = leaf.shape if smc.filter.exact or len(leaf.shape) != len(own.shape) else _but_inner(leaf, own)
        if (shape, leaf.dtype) != (own.shape, own.dtype):
            raise CheckpointError(
                f"its state is that of another engine: {jax.tree_util.keystr(path)} is {leaf.dtype} {leaf.shape} "
                f"there, {own.dtype} {own.shape} here"
            )


def _but_inner(leaf: Any, own: Any) -> tuple[int, ...]:
    """The shape, were there as many inner particles."""
    return (*leaf.shape[:-3], *own.shape[-3:-2], *leaf.shape[-2:])


def at_centre(smc: SMC2, population: Population) -> list[str]:
    """Log density and hyperparameters of the prior at one point, exactly: what a prior is known by."""
    return _values(smc, tuple(np.asarray(population.centre)[:, 0, 0].tolist()))


@lru_cache(maxsize=64)
def _values(smc: SMC2, z: tuple[float, ...]) -> list[str]:
    with jax.enable_x64(True):
        at = jnp.asarray(z)
        theta = smc.prior.constrain(at)
        values = [smc.prior.log_prob(at), *(theta[name] for name in smc.filter.model.names)]
    return [float(v).hex() for a in values for v in np.ravel(a)]


def check_prior(told: list[str], own: list[str]) -> None:
    """The same density and hyperparameters at the same point."""
    a, b = ([float.fromhex(v) for v in values] for values in (told, own))
    if len(a) != len(b) or not np.allclose(a, b, rtol=1e-6, atol=1e-12, equal_nan=True):
        raise CheckpointError(
            "the prior is another one: at the same point its log density and hyperparameters were "
            f"{_numbers(a)}, and are {_numbers(b)} here"
        )


def check_foretold(smc: SMC2, told: np.ndarray, own: np.ndarray) -> None:
    """The model says the same of the next observation; draws of inner particles hang on rounding."""
    rtol = 0.1 if not smc.filter.exact else 1e-3 if smc.dtype == "float32" else 1e-6
    atol = rtol * float(np.nan_to_num(np.abs(told)).max())
    if told.shape != own.shape or not np.allclose(own, told, rtol, atol, equal_nan=True):
        raise CheckpointError(
            "the model is another one: from the same state the mean and sd of the next observation were "
            f"{_numbers(told.ravel())}, and are {_numbers(own.ravel())} here"
        )


def _numbers(values: Any) -> str:
    return ", ".join(f"{v:.6g}" for v in values)


def assert_same(what: str, told: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Words of two engines."""
    wrong = [f"{n} is {told.get(n)!r} there, {v!r} here" for n, v in own.items() if told.get(n) != v]
    if wrong:
        raise CheckpointError(f"{what} are of another engine: {'; '.join(wrong)}")


def built_with() -> dict[str, Words]:
    """What the last bits of results hang on."""
    packages = {name: version(name) for name in ("smcssm", "jax", "jaxlib", "numpy")}
    device = jax.devices()[0]
    kind = f"{device.platform} {device.device_kind}"
    return {**packages, "device": kind, "machine": platform.machine(), "cpus": os.cpu_count()}


def warn_of_differences(told: Mapping[str, Words]) -> None:
    """That results will not be equal to the last bit."""
    own = built_with()
    differ = [f"{n} {told.get(n)}, now {v}" for n, v in own.items() if told.get(n) != v]
    if differ:
        warnings.warn(
            f"the checkpoint was written with {'; '.join(differ)}: the engine goes on, but later numbers may differ in "
            "their last digits from those of the one that wrote it",
            SmcssmWarning,
            stacklevel=4,
        )


def whole_contents(engine: Engine) -> Contents:
    """All of an engine, rows included."""
    runtime = engine._runtime
    with runtime.lock:
        frozen, foretold = freeze(engine), runtime.foretold()
        return contents(frozen, foretold, runtime.history.columns(0, frozen.state.length))


def save(engine: Engine, path: Path, key: bytes | None) -> None:
    """Write all of an engine into one file."""
    with engine._runtime.lock:
        container.write(path, whole_contents(engine), key)


def load(
    kind: type, path: Path, model: Any, prior: Any, key: bytes | None, given: Mapping[str, Any]
) -> Engine:
    """The engine of a file."""
    return from_contents(kind, container.read(path, key), str(path), model, prior, given)


def from_contents(
    kind: type, found: Contents, name: str, model: Any, prior: Any, given: Mapping[str, Any] = MappingProxyType({})
) -> Engine:
    """The engine of what a file, or message, holds."""
    try:
        engine = kind(model, prior, **arguments(found.words["options"], given))
        restore(engine, found)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{name} is sound, but not the checkpoint of an engine: {error!r}") from error
    return engine
