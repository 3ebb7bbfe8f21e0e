"""The fleet of a cluster: series in shards on Ray actors, with the methods of ``Fleet``, and nothing lost.

Shards are fixed when the fleet begins, workers come and go: so what a series does hangs on the series beside it in its
shard, never on where that runs, and is equal bit for bit whatever was lost, replaced or moved meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smcssm.core import AbstractModel
from smcssm.distributed.crew import Crew, Given
from smcssm.distributed.pool import Pool
from smcssm.distributed.question import engine_bytes, engine_from, seen
from smcssm.distributed.shard import Part, Setup, incarnations
from smcssm.distributed.storage import begin, claim, folder_of, known
from smcssm.engine import Engine
from smcssm.errors import InputError, JournalError, ModelError
from smcssm.fleets.assembly import configured, names_of, some_of
from smcssm.fleets.durable import in_words
from smcssm.fleets.frames import block_of_many
from smcssm.fleets.infos import FleetInfo, columns, joined, stacked
from smcssm.fleets.rows import Block, block_of_one
from smcssm.fleets.times import Seen, check_kind, times_passed
from smcssm.ingest import Layout
from smcssm.journal import Journal
from smcssm.runtime import alone
from smcssm.trees import rebuilt

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

ROWS = 64  # in one call


class RayFleet:
    """Many series over many processes and machines: ``Fleet`` in shards, each with its journal on shared storage.

    Ray is found as ``ray.init`` left it; without any it is started on this machine.

    Args:
        model: as for ``Fleet``; it is sent to the workers, as are ``prior`` and options.
        prior: likewise; a ``pm.Model`` is translated by each worker.
        series: names, or how many there are.
        storage: a new folder that every machine sees under this path.
        n_workers: how many processes (Ray actors) there are.
        n_shards: how many parts the series are in, for good: no more than that many workers will ever be of use.
        journal: how the journals are kept; its path does not matter.
        resources: of each worker, as for ``ray.remote(...).options``: ``{"num_cpus": 2}``, ``{"num_gpus": 1}``.
        buffer: how many rows may be under way that are not durable. The driver keeps them; when it is full, it waits
            until the storage has synced.
        patience: seconds without an answer after which a worker counts as lost. It has to be longer than compiling.
        **options: of ``Fleet``: ``n_particles``, ``move``, ``schedule``, ``seed``, ...

    Raises:
        ModelError: if model, prior and options do not fit each other, or the folder is not empty.
    """

    def __init__(  # noqa: PLR0913
        self,
        model: AbstractModel,
        prior: Any = None,
        *,
        series: int | Iterable[Any],
        storage: str | os.PathLike[str],
        n_workers: int = 2,
        n_shards: int | None = None,
        journal: Journal | None = None,
        resources: dict[str, Any] | None = None,
        buffer: int = 1024,
        patience: float = 600.0,
        **options: Any,
    ) -> None:
        names, path = names_of(series), Path(storage).resolve()
        n_shards = min(len(names), 4 * n_workers) if n_shards is None else n_shards
        check_counts(n_workers, n_shards, len(names), buffer)
        edges = np.linspace(0, len(names), n_shards + 1).astype(int).tolist()
        told = {"series": in_words(names), "edges": edges}
        self._prepare(model, prior, options)
        begin(path, told)
        self._start(names, edges, path, n_workers, journal, resources or {}, buffer, patience)

    @classmethod
    def open(
        cls,
        storage: str | os.PathLike[str],
        model: AbstractModel,
        prior: Any = None,
        *,
        n_workers: int = 2,
        journal: Journal | None = None,
        resources: dict[str, Any] | None = None,
        buffer: int = 1024,
        patience: float = 600.0,
        **options: Any,
    ) -> RayFleet:
        """Resume the fleet of a folder, whatever ended its driver: workers it has left behind are fenced off.

        ``fleet.rows`` says from where the source is read on. Arguments as for a new one; options once more.

        Raises:
            JournalError, CheckpointError: there is no such fleet, or it is another one.
        """
        new, path = object.__new__(cls), Path(storage).resolve()
        told = known(path)
        names = rebuilt({"tuple": told["series"]}, {}, {})
        check_counts(n_workers, len(told["edges"]) - 1, len(names), buffer)
        new._prepare(model, prior, options)
        new._start(names, told["edges"], path, n_workers, journal, resources or {}, buffer, patience)
        return new

    def _prepare(self, model: AbstractModel, prior: Any, options: dict[str, Any]) -> None:
        """Check the options here, before anything is begun elsewhere."""
        usual: dict[str, Any] = dict(n_particles=256, move=None, schedule=None, ess_threshold=0.5)
        usual |= dict(impossible="quarantine", time_unit=None, dtype="float64", seed=0)
        if unknown := sorted(set(options) - set(usual)):
            raise ModelError(f"{', '.join(unknown)}: no options of a fleet; it has {', '.join(usual)}")
        _, self._timing = configured(model, prior, **(usual | options))
        self.model, self._given = model, (model, prior, usual | options)

    def _start(
        self, names: tuple, edges: list[int], path: Path, n_workers: int, journal: Journal | None,
        resources: dict[str, Any], buffer: int, patience: float,
    ) -> None:  # fmt: skip
        setup = Setup(*self._given, journal or Journal(path), claim(path))
        parts = [Part(i, names[a:b], a) for i, (a, b) in enumerate(itertools.pairwise(edges))]
        last = [max(incarnations(folder_of(path, part.number)), default=0) for part in parts]
        self.names, self._edges, self.path = names, edges, path
        self._crew = Crew(Pool(setup, str(path), resources), parts, n_workers, last, buffer, patience)
        self._look()

    def _look(self) -> None:
        """See what the shards know that new rows are checked against."""
        taken, last, zone, layout, rows, quarantine = zip(*self._crew.ask(seen), strict=True)
        known = [a for a in last if a is not None]
        self._seen = Seen(np.concatenate(taken), np.concatenate(last) if known else None, zone[0])
        self._quarantine, self._layout, self._crew.given = np.concatenate(quarantine), layout[0], Given(rows[0])
        self._timed: str | bool | None = bool(self.rows) and (known[0].dtype.kind if known else None)
        self._unsure = False  # whether a call was interrupted since

    @contextlib.contextmanager
    def _working(self) -> Iterator[Crew]:
        """Its shards, for one call at a time."""
        with alone(self._crew):
            if not self._crew.workers:
                raise JournalError(f"this fleet has let {self.path} go: ss.RayFleet.open resumes it")
            if self._unsure:
                self._look()
            yield self._crew

    def _ask(self, question: Callable[[Any], Any]) -> list[Any]:
        """What a function of a fleet gives for each shard."""
        with self._working() as crew:
            return crew.ask(question)

    def __repr__(self) -> str:
        crew = self._crew
        return f"RayFleet({len(self)} series in {len(crew.lines)} shards on {len(crew.workers)} workers; {self.path})"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def rows(self) -> int:
        """How many rows it was given: from there on a source is read after ``RayFleet.open``."""
        return self._crew.given.rows

    @property
    def lost(self) -> int:
        """How many workers were lost, and replaced, so far."""
        return self._crew.lost

    @property
    def t(self) -> np.ndarray:
        """How many observations each series has taken, missing ones included."""
        return np.concatenate(self._ask(operator.attrgetter("t")))

    @property
    def log_evidence(self) -> np.ndarray:
        """log p(y_1:t) of each series."""
        return np.concatenate(self._ask(operator.attrgetter("log_evidence")))

    def step(
        self, ys: Any, reported: Any = None, *, time: Any = None, inputs: Any = None, noise_sd: Any = None
    ) -> FleetInfo:
        """See ``Fleet.step``."""
        given = dict(time=time, inputs=inputs, noise_sd=noise_sd)
        infos = self._take(block_of_one(self.model, self.names, ys, reported, **given))
        return FleetInfo(self.names, **{name: column[0] for name, column in columns(infos).items()})

    def update(
        self,
        ys: Any,
        *,
        series: str | None = None,
        reported: Any = None,
        time: Any = None,
        inputs: Any = None,
        noise_sd: Any = None,
    ) -> FleetInfo:
        """See ``Fleet.update``. All rows are checked before any is sent; they are taken in calls of 64."""
        given = dict(series=series, reported=reported, time=time, inputs=inputs, noise_sd=noise_sd)
        return self._take(block_of_many(self.model, self.names, ys, **given))

    def _take(self, block: Block) -> FleetInfo:
        """Check that every shard can take all of it, then send it."""
        with self._working():
            self._check(block)
            told = [self._send(_cut(block, slice(i, i + ROWS), slice(None))) for i in range(0, len(block.y), ROWS)]
        return joined(told, self.names, 0) if told else stacked([], self.names, len(self.model.channel_names))

    def _send(self, block: Block) -> FleetInfo:
        """Rows that count from now on, whatever happens to workers or disks."""
        seen, before, self._unsure = self._check(block), self._quarantine, True
        self._seen = seen
        self._layout = Layout(block.noise_sd is not None, exposure=False)
        self._timed = None if block.stamps is None else block.stamps.dtype.kind
        parts = [_cut(block, slice(None), slice(a, b)) for a, b in itertools.pairwise(self._edges)]
        told = joined(self._crew.send(parts, len(block.y), self.rows + len(block.y)), self.names, 1)
        refused = (block.reported & (before == 0) & ~told.taken).any(axis=0)
        self._quarantine = np.where(refused, told.status[-1], before)
        self._seen = seen._replace(taken=told.t[-1])
        self._unsure = False
        return told

    def _check(self, block: Block) -> Seen:
        """What is known of time once the rows are taken; nothing is sent yet.

        Rows after one that will put a series into quarantine are checked as if they were to be taken.
        """
        given = Layout(block.noise_sd is not None, exposure=False)
        if self._layout is not None and self._layout != given:
            was = "with" if self._layout.noise_sd else "without"
            raise InputError(f"noise_sd is given with every observation of a fleet or with none: earlier {was} it")
        kind = None if block.stamps is None else block.stamps.dtype.kind
        check_kind(self._timed, kind, self._seen.zone, block.zone)
        state = self._seen
        for i in range(len(block.y)):
            reported = block.reported[i] & (self._quarantine == 0)
            stamps = None if block.stamps is None else block.stamps[i]
            _, last = times_passed(self._timing, state, stamps, block.zone, reported, self.names)
            state = Seen(state.taken + reported, last, state.zone if stamps is None else block.zone)
        return state

    def release(self, series: Any = None) -> None:
        """Take observations again of series in quarantine: see ``Fleet.release``."""
        chosen = np.full(len(self), series is None)
        chosen[[self._place(name) for name in some_of(series)]] = True
        with self._working() as crew:
            if (chosen & (self._quarantine != 0)).any():
                self._unsure = True
                crew.send([chosen[a:b] for a, b in itertools.pairwise(self._edges)], 1, self.rows)
                self._look()

    def _place(self, name: Any) -> int:
        if name not in self.names:
            raise ModelError(f"the fleet has no series {name!r}")
        return self.names.index(name)

    def summary(self) -> pd.DataFrame:
        """See ``Fleet.summary``."""
        return self._table("summary")

    def scores(self) -> pd.DataFrame:
        """See ``Fleet.scores``."""
        return self._table("scores")

    def status(self) -> pd.DataFrame:
        """See ``Fleet.status``."""
        return self._table("status")

    def _table(self, name: str) -> pd.DataFrame:
        import pandas as pd

        return pd.concat(self._ask(operator.methodcaller(name)))

    def state(self) -> xr.Dataset:
        """See ``Fleet.state``."""
        return self._data(operator.methodcaller("state"))

    def forecast(self, h: int, *, quantiles: Sequence[float] = (0.05, 0.5, 0.95), **given: Any) -> xr.Dataset:
        """See ``Fleet.forecast``; ``inputs`` and ``noise_sd`` are rows for all series, (h, input) and (h, channel)."""
        return self._data(operator.methodcaller("forecast", h, quantiles=tuple(quantiles), **given))

    def _data(self, question: Callable[[Any], Any]) -> xr.Dataset:
        import xarray as xr

        parts: list[xr.Dataset] = self._ask(question)
        return xr.concat(parts, "series")

    def engine(self, name: Any) -> Engine:
        """See ``Fleet.engine``: an engine here, with the past of one series."""
        place = self._place(name)
        found = next(part for part in self._ask(partial(engine_bytes, name=self.names[place])) if part is not None)
        model, prior, _ = self._given
        return engine_from(found, model, prior)

    def checkpoint(self) -> None:
        """Have every shard write a checkpoint now, and wait for them."""
        self._ask(operator.methodcaller("checkpoint"))

    def rescale(self, n_workers: int) -> None:
        """Go on with more workers or fewer: shards move with a checkpoint; no number changes."""
        with self._working() as crew:
            check_counts(n_workers, len(crew.lines), len(self), crew.limit)
            crew.rescale(n_workers)

    def close(self) -> None:
        """Leave everything safe in the storage, and stop the workers. ``RayFleet.open`` resumes it."""
        if self._crew.workers:
            with self._working() as crew:
                crew.stop()


def check_counts(n_workers: int, n_shards: int, n_series: int, buffer: int) -> None:
    """Whole numbers that fit."""
    if not 1 <= n_shards <= n_series:
        raise ModelError(f"n_shards={n_shards}: expected between 1 and {n_series}, the number of series")
    if not 1 <= n_workers <= n_shards:
        raise ModelError(f"n_workers={n_workers}: expected between 1 and {n_shards}, the number of shards")
    if not buffer >= 1 or math.isinf(buffer):
        raise ModelError(f"buffer={buffer!r}: expected a whole number of rows, at least 1")


def _cut(block: Block, rows: slice, series: slice) -> Block:
    """Some rows of some series, without the others behind them."""

    def part(a: np.ndarray | None) -> Any:
        return None if a is None else np.array(a[rows, series])

    arrays = (part(a) for a in (block.y, block.reported, block.inputs, block.noise_sd, block.stamps))
    return Block._make((*arrays, block.zone))
