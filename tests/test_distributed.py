"""A fleet in shards whose workers are lost at any moment: nothing lost or doubled, the same numbers to the last bit.

Here workers are objects in this process, and end as they are told to; on Ray they are processes (`test_ray.py`).
"""

import contextlib
import itertools
import random
import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

import smcssm as ss
import test_fleet
from smcssm.distributed import crew, driver, handover, line
from smcssm.distributed.crew import Crew
from smcssm.distributed.pool import Lost, Pool
from smcssm.distributed.shard import FencedError, incarnations
from smcssm.distributed.worker import Worker
from smcssm.errors import CheckpointError, InputError, JournalError, ModelError
from smcssm.fleets.infos import joined
from smcssm.journal import Journal
from smcssm.records import RecordFile
from test_fleet import MODEL

OPTIONS = dict(**test_fleet.OPTIONS, seed=5)  # shards of 8: its programs are compiled once for all these files
ROWS, NAMES = 24, tuple(range(16))


def streams():
    rng = np.random.default_rng(7)
    y = np.cumsum(rng.normal(size=(ROWS, 16)), axis=0) + rng.normal(size=(ROWS, 16))
    y[rng.random(y.shape) < 0.1] = np.nan
    y[6, 11] = 1e300
    reported = rng.random(y.shape) < 0.8
    reported[6, 11] = True
    return y, reported


Y, REPORTED = streams()


class Call:
    def __init__(self, worker, said):
        self.worker, self.said = worker, said


class Objects(Pool):
    """A pool of workers in this process. ``ends`` says how the n-th call ends, for each kind of end."""

    ends: ClassVar = {}

    def __init__(self, setup, storage, resources):
        self.made, self.calls = (setup, storage), itertools.count()

    def start(self):
        return Worker(*self.made)

    def call(self, worker, method, *arguments):
        end = self.ends.get(next(self.calls))
        worker.gone = getattr(worker, "gone", False) or end == "before"
        if worker.gone:
            return Call(worker, None)
        try:
            call = Call(worker, getattr(worker, method)(*arguments))
        except Exception as error:
            call = Call(worker, error)
        worker.gone = end == "after"  # it did it, and was killed before it could say so
        return call

    def wait(self, calls, seconds):
        return calls[:1]

    def result(self, call):
        if call.worker.gone:
            raise Lost("it was killed")
        if isinstance(call.said, Exception):
            raise call.said
        return call.said

    def stop(self, worker):
        worker.gone = True


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr(driver, "Pool", Objects)
    monkeypatch.setattr(Objects, "ends", {})
    return Objects


def made(path, **options):
    given = dict(series=NAMES, storage=path, n_workers=2, n_shards=2) | OPTIONS | options
    return ss.RayFleet(MODEL, **given)


def feed(fleet, start, stop):
    """Some rows one by one, some in blocks; before row 16 series 11 is released."""
    told, i = [], start
    while i < stop:
        if i == 16:
            fleet.release(11)
        rows = 1 if i % 8 < 4 else 4
        told.append(fleet.update(Y[i : i + rows], reported=REPORTED[i : i + rows]))
        i += rows
    return told


def assert_same(fleet, told, whole):
    assert fleet.rows == ROWS
    np.testing.assert_array_equal(fleet.t, REPORTED.sum(axis=0) - (REPORTED[6:16, 11].sum() * (np.arange(16) == 11)))
    assert fleet.log_evidence.tobytes() == whole[1].tobytes()
    assert fleet.summary().equals(whole[2])
    for one, other in zip(told, whole[0], strict=True):
        for name in ("t", "log_predictive", "pit", "ess", "moved", "status"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.fixture(scope="module")
def whole():
    """What fleets that were never interrupted say: one for each half of the series."""
    halves = [ss.Fleet(MODEL, series=NAMES[a : a + 8], first=a, **OPTIONS) for a in (0, 8)]

    class Both:
        def update(self, y, reported):
            parts = enumerate(zip(np.split(y, 2, axis=1), np.split(reported, 2, axis=1), strict=True))
            return joined([halves[i].update(v, reported=r) for i, (v, r) in parts], NAMES, 1)

        def release(self, name):
            halves[1].release(name)

    import pandas as pd

    told = feed(Both(), 0, ROWS)
    return told, np.concatenate([h.log_evidence for h in halves]), pd.concat([h.summary() for h in halves])


def test_workers_that_end_at_any_moment(tmp_path, pool, whole):
    rng = np.random.default_rng(3)
    ends = {int(n): str(rng.choice(["before", "after"])) for n in rng.choice(np.arange(2, 60), 9, replace=False)}
    pool.ends = ends
    fleet = made(tmp_path / "s", buffer=4, journal=Journal("", fsync=1e9, checkpoint_rows=3))
    left = tmp_path / "s" / "shard-00001" / "000000.tmp"  # by a worker that was killed as it copied
    (left / "checkpoints").mkdir(parents=True)
    told = feed(fleet, 0, ROWS)
    pool.ends = {}
    assert_same(fleet, told, whole)
    assert fleet.lost >= 7
    assert not left.exists()
    assert max(line.incarnation for line in fleet._crew.lines) > 3
    assert all(len(incarnations(tmp_path / "s" / f"shard-{i:05d}")) <= 2 for i in range(2))
    assert all(len(line.unsaved) <= 4 for line in fleet._crew.lines)


def full(*_):
    raise OSError(28, "No space left on device")


def test_the_dead_may_come_back(tmp_path, pool, whole, monkeypatch):
    """A worker that was given up goes on writing: into a folder that nobody reads."""
    fleet = made(tmp_path / "s")
    told = feed(fleet, 0, 8)
    workers = fleet._crew
    zombie, before = workers.workers[0], workers.lines[0].incarnation
    with monkeypatch.context() as patch:
        patch.setattr(handover, "_copy", full)
        with pytest.raises(JournalError, match=r"000001 cannot be copied to .*000002: No space"):
            workers._replace({0}, "thought to be lost")
    assert len(list((tmp_path / "s" / "shard-00000").iterdir())) == 1
    workers._open()
    shard = zombie._shards[0]
    with pytest.raises(FencedError, match="incarnation 3 has taken over from 1"):
        zombie.take(0, before, 8, _rows(8), False)
    shard.fleet.update(Y[8:12, :8])  # had it looked a moment earlier
    told += feed(fleet, 8, ROWS)
    assert_same(fleet, told, whole)
    with pytest.raises(FencedError, match="does not serve incarnation 1"):
        workers.workers[0].ask(0, before, len)


def test_a_sync_that_fails(tmp_path, pool, whole, monkeypatch):
    """What it has kept is not known: the shard goes on from what the driver knows."""
    policy, sync, calls = Journal("", fsync=1e9, checkpoint_every=1e9), RecordFile.sync, itertools.count()
    fleet = made(tmp_path / "s", buffer=1, journal=policy)

    def sometimes(self):
        if next(calls) in (5, 10):
            raise OSError(5, "Input/output error")
        sync(self)

    told = feed(fleet, 0, 4)
    monkeypatch.setattr(RecordFile, "sync", sometimes)
    told += feed(fleet, 4, ROWS)
    assert [line.incarnation for line in fleet._crew.lines] != [1, 1]
    assert fleet.lost == 0
    assert_same(fleet, told, whole)


def test_rescale_close_and_open(tmp_path, pool, whole, monkeypatch):
    fleet = made(tmp_path / "s", n_workers=1)
    told, close = feed(fleet, 0, 4), Worker.close

    def in_vain(*arguments):
        close(*arguments)
        raise CheckpointError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "close", in_vain)
        with pytest.raises(CheckpointError, match="disk is full"):
            fleet.rescale(2)
    fleet.rescale(2)
    assert [line.worker for line in fleet._crew.lines] == [0, 1]
    told += feed(fleet, 4, 12)
    fleet.rescale(1)
    assert "16 series in 2 shards on 1 workers" in repr(fleet)
    fleet._crew.lines[0].accept(_rows(12), 1)
    fleet._crew.run()  # the driver ends while one shard has a row more than the other: nobody was told of it
    again = ss.RayFleet.open(tmp_path / "s", MODEL, n_workers=2, **OPTIONS)
    assert again.rows == 12
    with pytest.raises(FencedError, match="has taken over"):
        fleet.step(Y[12])
    fleet._crew.workers[0].gone = True
    for _ in range(2):
        with pytest.raises(FencedError, match="another driver has taken over"):
            fleet.step(Y[13])
    again.close()
    again.close()
    with pytest.raises(JournalError, match=r"has let .* go: ss.RayFleet.open"):
        again.summary()
    last = ss.RayFleet.open(tmp_path / "s", MODEL, n_workers=2, **OPTIONS)
    told += feed(last, 12, ROWS)
    assert_same(last, told, whole)
    assert tuple(last.state()["mean"].coords["series"].values) == NAMES
    assert len(last.scores()) == 2 * len(last.status()) == 32


def _rows(i):
    block = driver.block_of_one(MODEL, NAMES, Y[i], None)
    return driver._cut(block, slice(None), slice(0, 8))


def test_errors_change_nothing(tmp_path, pool, monkeypatch):
    from smcssm import journal

    fleet = made(tmp_path / "s")
    feed(fleet, 0, 4)
    t = fleet.t
    for call, kind, match in (
        (lambda: fleet.step(Y[4][:3]), InputError, r"expected \(16,\)"),
        (lambda: fleet.step(Y[4], time=2.0), InputError, "came with no time, this one with numbers"),
        (lambda: fleet.step(Y[4], noise_sd=1.0), InputError, "earlier without it"),
        (lambda: fleet.release("x"), ModelError, "no series 'x'"),
        (lambda: fleet.rescale(3), ModelError, "n_workers=3: expected between 1 and 2"),
        (lambda: made(tmp_path / "s"), ModelError, "RayFleet.open resumes it"),
        (lambda: made(tmp_path / "n", n_shards=17), ModelError, "n_shards=17: expected between 1 and 16"),
        (lambda: made(tmp_path / "n", particles=3), ModelError, "particles: no options of a fleet"),
        (lambda: made(tmp_path / "n", buffer=0), ModelError, "buffer=0"),
        (lambda: ss.RayFleet.open(tmp_path / "none", MODEL), JournalError, "has no fleet"),
    ):
        with pytest.raises(kind, match=match):
            call()
    np.testing.assert_array_equal(fleet.t, t)
    with monkeypatch.context() as patch:
        patch.setattr(journal.RecordFile, "write", full)
        with pytest.raises(JournalError, match="No space"):
            fleet.step(Y[4])
    assert fleet.rows == 5  # it waits in the buffer
    np.testing.assert_array_equal(fleet.t, t + 1)
    take, calls = Worker.take, itertools.count()

    def dies(*arguments):
        if next(calls) < 10:
            raise Lost("it was killed")
        return take(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "take", dies)
        with pytest.raises(JournalError, match=r"4 times in a row these shards were lost .*: 0 \(record 5\)"):
            fleet.step(Y[5])
    np.testing.assert_array_equal(fleet.t, t + 2)
    wait, inside = pool.wait, []

    def asked(self, calls, seconds):
        with pytest.raises(RuntimeError, match="cannot be called from within") as told:
            fleet.summary()
        inside.append(told)
        return wait(self, calls, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(pool, "wait", asked)
        fleet.step(Y[6])
    assert inside
    assert fleet.rows == 7


def test_what_ray_says_of_a_process_that_is_gone():
    """Out of memory, say, which is no error of actors: all but an exception of the call itself means so."""
    names = ("RayTaskError", "OutOfMemoryError", "RuntimeEnvSetupError")
    base = type("RayError", (Exception,), {"cause": InputError("of the call")})
    kinds = {name: type(name, (base,), {}) for name in names}

    def get(call):
        raise kinds[call]("said so\nand more")

    pool = object.__new__(Pool)
    pool._ray = SimpleNamespace(exceptions=SimpleNamespace(RayError=base, **kinds), get=get)
    with pytest.raises(InputError, match="of the call"):
        pool.result(names[0])
    for name in names[1:]:
        with pytest.raises(Lost, match=r"^said so$"):
            pool.result(name)


class Interrupts:
    """Ctrl-C at some line of the driver's files; ``seen`` are the lines where it was pressed."""

    def __init__(self):
        self.files, self.seen = {module.__file__ for module in (driver, crew, line)}, set()
        self.random = random.Random(1)

    def attempt(self, call):
        self.left = self.random.randrange(250)
        sys.settrace(self.trace)
        with contextlib.suppress(KeyboardInterrupt):
            call()
        sys.settrace(None)

    def trace(self, frame, event, _):
        if frame.f_code.co_filename not in self.files:
            return None
        self.left -= event == "line"
        if self.left == 0:
            self.seen.add((frame.f_code.co_name, frame.f_lineno))
            raise KeyboardInterrupt
        return self.trace


def test_a_driver_that_is_interrupted_anywhere(tmp_path, pool, whole):
    """``fleet.rows`` says whether a row was taken: by all shards or by none."""
    fleet, interrupts = made(tmp_path / "s", buffer=4, journal=Journal("", fsync=1e9)), Interrupts()
    for i in range(ROWS):
        if i == 16:
            interrupts.attempt(lambda: fleet.release(11))
            fleet.release(11)
        while fleet.rows == i:
            interrupts.attempt(lambda i=i: fleet.step(Y[i], REPORTED[i]))
            said = fleet.rows
            interrupts.attempt(lambda i=i: fleet.rescale(1 + i % 2))
            assert len(fleet.status()) == 16
            assert fleet.rows == said
    assert fleet.rows == ROWS
    assert fleet.log_evidence.tobytes() == whole[1].tobytes()
    assert fleet.summary().equals(whole[2])
    assert len(interrupts.seen) > 20


def test_a_driver_that_is_interrupted_as_workers_come_and_go(tmp_path, pool, monkeypatch):
    fleet = made(tmp_path / "s")

    def interrupted(call, owner, name):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *_: sys.exit())
            with pytest.raises(SystemExit):
                call()

    for i, (owner, name) in enumerate(((Crew, "_leave"), (pool, "start"))):
        interrupted(lambda: fleet._crew._replace({0}, "thought to be lost"), owner, name)
        fleet.step(Y[i])
    interrupted(fleet.close, pool, "stop")
    fleet.close()
    assert ss.RayFleet.open(tmp_path / "s", MODEL, **OPTIONS).rows == 2
