"""Rows in, one JSON line out per observation as soon as it is in; everything else goes to stderr."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from rich.console import Console

from smcssm.cli import catalogue, output, tables
from smcssm.cli.clock import Grid
from smcssm.cli.lines import opened
from smcssm.cli.resume import Folder, Start, Terminated, same, termination
from smcssm.cli.rows import Columns, Row, count, format_of, rows
from smcssm.core import AbstractModel, AbstractPrior
from smcssm.engine import Engine
from smcssm.errors import (
    CheckpointError,
    ImpossibleObservationError,
    InputError,
    JournalError,
    ModelError,
    SmcssmError,
)
from smcssm.grid import told, written
from smcssm.record import StepInfo, StepInfos
from smcssm.schedules import Immediate, Jitter, Paced
from smcssm.stamps import unit_of

HELD_BACK = 20
SCHEDULES = {"immediate": Immediate, "paced": Paced, "jitter": Jitter}


class Settings(NamedTuple):
    """What the user asked for."""

    model: str
    columns: Columns
    on_error: str = "skip"
    scale: float | None = None
    initial_mean: float | None = None
    initial_sd: float | None = None
    particles: int = 1000
    seed: int = 0
    schedule: str = "immediate"
    journal: Path | None = None
    ahead: int = 1
    """How many forecasts stand in the summary."""
    forecast: Path | None = None
    time_unit: str | None = None
    follow: bool = False
    board: Callable[[Console], AbstractContextManager[Any]] | None = None
    """Shows the stream, as ``Board`` does."""
    record: int | None = None


class Rejected(Exception):
    """A line that cannot be taken, where that ends the run; the text says why it does."""


class Session:
    """One run over one stream."""

    def __init__(self, settings: Settings, out: IO[str] | None = None) -> None:
        self.settings = settings
        self.out = sys.stdout if out is None else out
        self.err = Console(stderr=True, soft_wrap=True, highlight=False)
        self.build = catalogue.parse(settings.model)
        blank = self.build(catalogue.Start())
        self.columns = settings.columns._replace(inputs=blank.input_names)
        self.grid = Grid(blank.continuous_time, _unit(settings, blank))
        self._remedies: set[str] = set()
        self.engine: Engine | None = None
        self.log_evidence, self.missing, self.rejected, self.moves = 0.0, 0, 0, 0
        self.lines, self.lost = 0, 0
        self.board = None if settings.board is None else self._board(settings.board)
        self.fed, self.resumed_at = 0, 0
        self.folder = None if settings.journal is None else Folder(settings.journal, _fixed(settings))
        _check(settings, blank)

    def _board(self, board: Callable[[Console], Any]) -> Any:
        """What shows the stream; on a terminal it takes the place of the lines."""
        if self.out.isatty():
            self.out = open(os.devnull, "w", encoding="utf-8")
        return board(self.err)

    def run(self, path: Path, kind: str) -> int:
        """Read to the end, to an interrupt, or until nobody reads what is written; the exit code."""
        try:
            return self._run(path, kind)
        finally:
            if self.engine is not None:
                self.engine.close()

    def _run(self, path: Path, kind: str) -> int:
        start, code, stopped = time.perf_counter(), 0, None
        try:
            with termination(), opened(path, self.settings.follow) as lines:
                first = next(lines, b"")
                found = rows(itertools.chain([first], lines), format_of(path, kind, first), self.columns)
                with self.board or contextlib.nullcontext():
                    for row in self._begin(self._accepted(found)):
                        self._take(row)
                    self._stop_where_most_are_lost()
                    self._check_end()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered has no reader either
            return 0
        except (KeyboardInterrupt, Terminated) as signal:
            code = 130 if isinstance(signal, KeyboardInterrupt) else 143
        except Rejected as reason:
            code, stopped = 1, reason
        if self.engine is None or self.engine.t == 0:
            self._tell_end(stopped)
            self.err.print("no observation was taken")
            return code or 1
        if self.folder is not None:
            self.engine.checkpoint()
        self.err.print(output.summary(self, time.perf_counter() - start))
        if self.settings.forecast is not None:
            output.write_forecast(self, self.settings.forecast)
        self._tell_end(stopped)
        return code

    def _tell_end(self, stopped: Rejected | None) -> None:
        """Why it ended, and what those who read only the end should know."""
        if stopped is None and self.lost and self.columns.time is None:
            self.err.print("rejected lines were left out as if no time had passed; --on-error missing counts the step")
        if stopped is not None:
            self.err.print(f"stopped: {stopped}", markup=False)

    def _accepted(self, found: Iterable[Row]) -> Iterator[Row]:
        """Rows that were understood; the others are reported, and left out or counted as missing."""
        for row in found:
            self.lines += 1
            if row.complaint is None:
                yield row
            else:
                self._reject(row.line, row.complaint)
                if self._as_missing():
                    yield row

    def _begin(self, found: Iterator[Row]) -> Iterator[Row]:
        """Hold back as many rows as prior and grid need, build the engine, let them go."""
        if self.folder is not None and self.folder.told is not None:
            self._resume(self.folder)
            yield from found
            return
        want, held, stop = self.settings, [], None
        enough = HELD_BACK if want.scale is None else int(want.initial_mean is None)
        values: list[tuple[float, ...]] = []
        moments: list[Any] = []
        try:
            while len(values) < enough or self._waits(moments):
                held.append(row := next(found))
                values += [] if any(map(math.isnan, row.values)) else [row.values]
                moments += [] if row.time is None else [row.time]
        except StopIteration:
            pass
        except Rejected as reason:  # what is good before it is taken first
            stop = reason
        if held or enough == 0:
            self._learn(moments)
            try:
                self.engine = self._engine(np.reshape(values, (-1, len(self.columns.channels))))
            except ModelError as error:
                raise stop or error from None
        yield from held
        if stop is not None:
            raise stop
        yield from found

    def _waits(self, moments: list[Any]) -> bool:
        """Whether the step from one time to the next is still to be found."""
        return self.columns.time is not None and len(moments) < HELD_BACK and not any(map(self.grid.free, moments))

    def _learn(self, moments: list[Any]) -> None:
        self.grid.learn(moments)
        if self.grid.step is not None:
            self.err.print(f"step {told(self.grid.step)}: from the first {len(moments)} times", markup=False)

    def _engine(self, values: np.ndarray) -> Engine:
        """An engine whose prior has the scale of the data."""
        want, scale = self.settings, self.settings.scale
        if scale is None:
            scale = spread(values)
            self.err.print(f"scale {tables.number(scale)}: a robust sd of the first {len(values)} values (--scale)")
        if want.initial_mean is None and len(values) == 0:
            raise ModelError("no value to start from: give --initial-mean")
        means = np.median(values, axis=0) if want.initial_mean is None else [want.initial_mean] * values.shape[1]
        sd = scale if want.initial_sd is None else want.initial_sd
        start = Start(float(scale), tuple(map(float, means)), float(sd))
        options: dict[str, Any] = dict(schedule=SCHEDULES[want.schedule](), record=want.record)
        if self.grid.unit is not None:
            options["time_unit"] = self.grid.unit
        if self.folder is not None:
            options |= dict(journal=self.folder.new(start, self.grid.step), record=1)
        engine = Engine(*self._model(start), n_particles=want.particles, seed=want.seed, **options)
        if self.board is not None:
            self.err.print("compiling: up to a minute the first time", markup=False)
        with contextlib.nullcontext() if self.board else self.err.status("compiling"):  # seen on a terminal only
            engine.warmup()
        return engine

    def _model(self, start: Start) -> tuple[AbstractModel, AbstractPrior]:
        model = self.build(catalogue.Start(start.means, start.sd))
        return model, model.default_prior(start.scale)

    def _resume(self, folder: Folder) -> None:
        """The engine where the last run left it; rows that it has taken already are passed over."""
        start, self.grid.step = folder.start()
        self.engine = Engine.open(folder.path, *self._model(start))
        self.resumed_at = self.engine.t
        self.err.print(f"resumed after {count(self.engine.t, 'observation')} from {folder.path}", markup=False)

    def _pass_over(self, row: Row) -> None:
        """A row that was taken by an earlier run; of the last one the line may not have been written: once more."""
        self.fed += 1
        self.grid.accept(row.time)
        self.missing += all(map(math.isnan, row.values))
        if self.fed < self.resumed_at:
            return
        assert self.engine is not None
        last = self.engine.snapshot().record or {}
        if not same(row.values, last["y"][-1]):
            raise ModelError(
                f"line {row.line} is not observation {self.fed} of the journal, {last['y'][-1].tolist()}: is this the "
                "stream that it was written with, from its start?"
            )
        self.log_evidence = self.engine.log_evidence
        self._write(row, StepInfos(**{f.name: last[f.name] for f in fields(StepInfos)})[-1])

    def _check_end(self) -> None:
        if self.fed < self.resumed_at:
            raise ModelError(
                f"the stream ended after {count(self.fed, 'observation')}, the journal has {self.resumed_at}: is this "
                "the stream that it was written with, from its start?"
            )

    def _take(self, row: Row) -> None:
        """One row, after the missing values for the steps that were left out before it."""
        try:
            filled = [] if row.time is None else self.grid.skipped(row.time)
            if filled:
                self._note(row.line, f"{count(len(filled), 'step')} before {row.stamp} left out: taken as missing")
            for moment in filled:
                self._step(Row(None, (math.nan,) * len(row.values), row.inputs, moment, written(moment)))
            self._step_or_refuse(row)
        except (JournalError, CheckpointError, ModelError):
            raise
        except SmcssmError as error:
            self._reject(row.line, str(error).partition(". The engine is unchanged")[0])  # the rest is for Python
            if self._as_missing():
                self._step(row._replace(values=(math.nan,) * len(row.values)))

    def _step_or_refuse(self, row: Row) -> None:
        """What the engine refuses, a later run has to know of, for the engine will not tell again."""
        if self.folder is None:
            return self._step(row)
        if row.line in self.folder.refused:
            raise InputError("refused, as in an earlier run")
        try:
            self._step(row)
        except (InputError, ImpossibleObservationError):
            assert self.engine is not None
            self.folder.refuse(row.line, self.engine)
            raise

    def _step(self, row: Row) -> None:
        if self.fed < self.resumed_at:
            return self._pass_over(row)
        assert self.engine is not None
        y = row.values[0] if len(row.values) == 1 else list(row.values)
        time = row.time if self.grid.free(row.time) else None  # on the grid one step is one observation
        info = self.engine.step(y, time=time, inputs=list(row.inputs) or None)
        self.fed += 1
        self.grid.accept(row.time)
        self.log_evidence = self.engine.log_evidence
        self.missing += all(map(math.isnan, row.values))
        self.moves += info.moved
        self._write(row, info)

    def _write(self, row: Row, info: StepInfo) -> None:
        self.out.write(json.dumps(output.report(row, info, self.log_evidence), allow_nan=False) + "\n")
        self.out.flush()
        if self.board is not None and self.engine is not None:
            self.board.update(self.engine, info, row, self.log_evidence)

    def _as_missing(self) -> bool:
        """With a column of times the next row shows what was left out."""
        return self.settings.on_error == "missing" and self.columns.time is None

    def _reject(self, line: int | None, complaint: str) -> None:
        self.rejected += 1
        self.lost += not self._as_missing()
        self._note(line, complaint)
        if self.settings.on_error == "fail":
            raise Rejected("--on-error fail")
        if self.lines >= HELD_BACK:
            self._stop_where_most_are_lost()

    def _stop_where_most_are_lost(self) -> None:
        if 2 * self.lost > self.lines:
            raise Rejected(f"{self.lost} of {count(self.lines, 'line')} could not be taken")

    def _note(self, line: int | None, text: str) -> None:
        """About a line. What follows a semicolon is what to do about it, and is told once."""
        what, _, remedy = text.partition("; ")
        self.err.print(f"line {line}: {what if remedy in self._remedies else text}", markup=False)
        self._remedies.add(remedy)


def _fixed(settings: Settings) -> dict[str, Any]:
    """What has to be the same in every run of a stream, as JSON has it."""
    names = ("model", "on_error", "scale", "initial_mean", "initial_sd", "particles", "seed", "schedule", "time_unit")
    columns = {"column": list(settings.columns.channels), "time": settings.columns.time}
    return {name: getattr(settings, name) for name in names} | columns


def spread(values: np.ndarray) -> float:
    """A standard deviation that outliers do not spoil, of values ``[t, y]``.

    Raises:
        ModelError: if the values do not vary.
    """
    off = np.abs(values - np.median(values, axis=0)) if len(values) else values
    robust = float(np.mean(1.4826 * np.median(off, axis=0))) if len(values) else 0.0
    scale = robust or (float(np.mean(off)) if len(values) else 0.0)
    if not scale > 0:
        raise ModelError(f"the first {len(values)} values do not vary: give --scale, how much the data will")
    return scale


def _unit(settings: Settings, model: AbstractModel) -> np.timedelta64 | None:
    """The unit of time of dates that need not lie on a grid."""
    if settings.time_unit is None:
        return None
    if settings.columns.time is None:
        raise ModelError("--time-unit: give --time, the column of the times, as well")
    if not model.continuous_time:
        raise ModelError(
            f"--time-unit: one step of model {settings.model!r} is one observation; leave it out for a grid of times, "
            "or take a model that holds for any gap (level+noise, say)"
        )
    return unit_of(settings.time_unit)


def _check(settings: Settings, model: AbstractModel) -> None:
    """Options that do not fit the model or make no sense."""
    channels = model.channel_names
    if len(settings.columns.channels) != len(channels):
        raise ModelError(
            f"model {settings.model!r} observes {len(channels)} ({', '.join(channels)}): give --column that often, "
            f"in this order; got {', '.join(settings.columns.channels)}"
        )
    if model.input_names and (settings.forecast is not None or settings.ahead > 1):
        raise ModelError(
            f"{'--ahead' if settings.forecast is None else '--forecast'}: model {settings.model!r} needs the inputs of "
            "the steps to come. Append lines that have them and no value: what the lines that are written say of these "
            "(predictive_mean, predictive_sd) is the forecast"
        )
    for name in ("scale", "initial_mean", "initial_sd"):
        value = getattr(settings, name)
        option = "--" + name.replace("_", "-")
        if value is None:
            continue
        if name != "scale" and not catalogue.has_start(settings.model):
            raise ModelError(f"{option}: model {settings.model!r} has no level")
        if not math.isfinite(value) or (name != "initial_mean" and value <= 0):
            expected = "a finite" if name == "initial_mean" else "a positive"
            raise ModelError(f"{option} {value:g}: expected {expected} number")
