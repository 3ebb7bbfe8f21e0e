"""The journal on disk: the same rows as in memory, whole after every kind of end, refused when they were altered."""

import errno
import itertools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import small
import smcssm as ss
from interrupts import interrupted
from rows import block, cut, take_in
from smcssm import assemble, files, journal
from smcssm.checkpoint import Folder
from smcssm.container import Contents
from smcssm.durable import Keeper, Moment
from smcssm.files import LOCK, Lock
from smcssm.history import CHUNK, SEGMENT, History
from smcssm.journal import HEADER, ROWS, Disk, Journal
from smcssm.records import RecordFile
from smcssm.runtime import alone
from smcssm.smc2.kernels import metropolis

Y = np.where(np.arange(60) % 7 == 3, np.nan, small.walk(60))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_array_equal(x, y)


KINDS = [
    {},
    dict(series=2),
    dict(series=2, channels=3, noise=True),
    dict(inputs=2, dtype=np.float32),
]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_a_history_in_memory(tmp_path, kind):
    """Over the boundaries of chunks and segments, before and after a commit, in the folder and read back from it."""
    t = SEGMENT + 2 * CHUNK + 70
    rows, marks = block(t, **kind)
    memory, disk = History(), journal.create(Journal(tmp_path / "new" / "j"), {})
    start, sizes = 0, itertools.cycle([1, 64, 255, 3, 500])
    while start < t - 20:
        stop = min(start + next(sizes), t - 20)
        for history in (memory, disk):
            take_in(history, (rows, marks), start, stop)
        start = stop
    read = journal.read(tmp_path / "new" / "j").history
    for history in (memory, disk):
        history.append(cut(rows, start, t), t - start, marks[start:])
        assert_reads(history, rows, marks)
        assert_reads(history.copy(), rows, marks)
        history.truncate(start)
    for history in (memory, disk, read):
        assert_reads(history, *cut((rows, marks), 0, start))


def assert_reads(history, rows, marks):
    """All ways to read it give these rows."""
    t, series = marks.shape
    assert len(history) == t
    assert_equal(history.rows(), rows)
    assert_equal(history.first, jax.tree.map(lambda leaf: leaf[0], rows))
    for a, b in [(0, 1), (200, 300), (SEGMENT - 5, SEGMENT + 5), (t - 30, t - 5), (t - 12, t + 9), (5, 5)]:
        assert_equal(history.rows(a, b), cut(rows, a, b))
    since = t - 300 - np.arange(series)
    pooled = marks & (np.arange(t)[:, None] >= since)
    for i, chunk in enumerate(history.chunks(since)):
        assert len(chunk.pooled) == CHUNK
        assert_equal(cut(chunk[:2], 0, chunk.length), cut((rows, pooled), i * CHUNK, (i + 1) * CHUNK))
    assert i == (t - 1) // CHUNK
    following = cut(rows, 50, 80)
    numbers = np.sort(np.random.default_rng(2).integers(0, t + 30, (40, series)), axis=0)
    unmarked = np.zeros((30, series), bool)
    every = jax.tree.map(lambda *parts: np.concatenate(parts), (rows, pooled), (following, unmarked))
    own = [jax.tree.map(lambda leaf, s=s: leaf[numbers[:, s], ..., s], every) for s in range(series)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves, axis=-1), *own)
    assert_equal(history.take(numbers, since, following), expected)


@pytest.mark.parametrize(("kind", "size"), [*zip(KINDS, (30, 56, 140, 30), strict=True)])
def test_a_row_costs_its_own_size_whatever_came_before(tmp_path, monkeypatch, kind, size):
    """8 bytes per number, channel and series, 1 for whether it is missing, 17 per series for its time, and 4."""
    written, write = [], RecordFile.write

    def watched(self, at, data):
        written.append((at, len(data)))
        write(self, at, data)

    monkeypatch.setattr(RecordFile, "write", watched)
    rows = block(300, **kind)
    history = journal.create(Journal(tmp_path), {})
    for i in range(300):
        take_in(history, rows, i, i + 1)
    assert written == [(i * size, size) for i in range(300)]
    assert os.path.getsize(tmp_path / ROWS) == 300 * size
    assert sorted(os.listdir(tmp_path)) == [HEADER, LOCK, ROWS]


def test_an_engine_with_a_journal_is_an_engine(tmp_path):
    plain, kept = small.level(), small.level(journal=tmp_path / "j")
    assert os.listdir(tmp_path / "j") == [LOCK]
    for engine in (plain, kept):
        engine.update(Y[:40])
        before = engine.snapshot()
        for y in Y[40:]:
            engine.step(y)
        assert_equal(before.data().y, engine._runtime.history.rows(0, 40).y)
    assert kept.record["moved"].sum() > 2
    assert_equal(plain._runtime.state.population, kept._runtime.state.population)
    assert plain.log_evidence == kept.log_evidence
    xr_testing = pytest.importorskip("xarray").testing
    xr_testing.assert_identical(plain.to_arviz()["observed_data"].dataset, kept.to_arviz()["observed_data"].dataset)


@pytest.fixture
def kept(tmp_path):
    engine = small.level(journal=tmp_path / "j")
    engine.update(Y[:20])
    return engine, tmp_path / "j"


def test_what_was_recorded_gives_the_same_engine_again(kept):
    engine, path = kept
    engine.step(Y[20])
    header, history, unfinished = recorded = journal.read(str(path))
    assert unfinished == 0
    assert header["hyperparameters"] == ["sigma_level", "sigma_obs"]
    assert [column["name"] for column in header["columns"]] == ["y", "mask", "dt", "index", "surprising"]
    assert header["columns"][0] == {"name": "y", "dtype": "<f8", "shape": [1, 1]}
    again, rows = small.level(), recorded.rows
    again.update(np.where(rows.mask, rows.y, np.nan)[..., 0])
    assert again.log_evidence == engine.log_evidence
    assert_equal(again._runtime.state.population, engine._runtime.state.population)
    assert_equal(again._runtime.history.rows(), history.rows())


def test_copies_write_nothing_and_reset_is_refused(kept):
    engine, path = kept
    before = (path / ROWS).read_bytes()
    with alone(engine._runtime):
        copy = engine.copy()  # as a signal handler may, in the middle of a call
    copy.update(Y[20:])
    with pytest.raises(ss.errors.ModelError, match="build a new engine"):
        engine.reset()
    assert (path / ROWS).read_bytes() == before
    engine.update(Y[20:])
    assert copy.log_evidence == engine.log_evidence
    assert (path / ROWS).read_bytes()[: len(before)] == before
    evidence, early = copy.log_evidence, copy.snapshot()
    copy.reset()
    copy.update(Y[::-1])
    assert copy.log_evidence != evidence
    copy.reset()
    copy.update(Y)
    assert copy.log_evidence == evidence
    copy.reset()
    copy.update(Y[::-1])
    assert_equal(early.data(), engine.snapshot().data())


@pytest.mark.parametrize("inside", ["file", "folder", "journal"])
def test_only_an_empty_folder_will_do(kept, tmp_path, inside):
    engine, path = kept
    place = {"file": path / ROWS, "folder": tmp_path, "journal": path}[inside]
    with pytest.raises(ss.errors.ModelError, match="not empty" if inside != "file" else "cannot be used"):
        small.level(journal=place)
    with pytest.raises(ss.errors.ModelError, match="journal=3"):
        assemble.history(3, engine._runtime.smc, 1)
    with pytest.raises(ss.errors.ModelError, match="fsync"):
        Journal(path, fsync=float("nan"))
    assert len(journal.read(path).history) == 20


def test_two_engines_do_not_share_a_folder(tmp_path):
    first = journal.create(Journal(tmp_path), {})
    for _ in range(2):  # before and after the first commit
        with pytest.raises(ss.errors.JournalError, match="by an engine of this process: one engine at a time"):
            Lock(tmp_path)
        take_in(first, block(5), 0, 5)
    with pytest.raises(ss.errors.JournalError, match="one engine at a time"):
        journal.reopened(Journal(tmp_path))
    assert len(journal.read(tmp_path).history) == 10
    other = "import sys; from smcssm.files import *; Lock(Path(sys.argv[1]))"
    said = subprocess.run([sys.executable, "-c", other, tmp_path], capture_output=True, text=True, check=False)
    assert f"is being written to by process {os.getpid()}" in said.stderr
    del first
    _, again = journal.reopened(Journal(tmp_path))
    assert len(again) == 10


def failing(patch, owner, name, error, share=1.0):
    """From now on a method does its work, or writes a share of its bytes, then fails."""
    work = getattr(owner, name)

    def fails(self, *arguments):
        if name == "write":
            arguments = (arguments[0], arguments[1][: int(share * len(arguments[1]))])
        work(self, *arguments)
        raise error

    patch.setattr(owner, name, fails)


ENDS = {
    "an impossible value": (None, None, ss.errors.ImpossibleObservationError),
    "an interrupt in a move": (metropolis, "replay", KeyboardInterrupt),
    "an interrupt after writing": (RecordFile, "write", KeyboardInterrupt),
    "an interrupt after the commit": (Disk, "commit", KeyboardInterrupt),
    "a disk that is full": (RecordFile, "write", ss.errors.JournalError),
}


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", ENDS)
def test_of_a_call_that_fails_nothing_is_committed(kept, monkeypatch, end):
    engine, path = kept
    owner, name, error = ENDS[end]
    before, stored = engine._runtime.state, (path / ROWS).read_bytes()
    for _ in range(2):
        with monkeypatch.context() as patch:
            if owner is metropolis:
                patch.setattr(owner, name, interrupt)
            elif error is KeyboardInterrupt:
                failing(patch, owner, name, KeyboardInterrupt())
            elif owner is RecordFile:
                failing(patch, owner, name, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 0.7)
            with pytest.raises(error, match="No space" if error is ss.errors.JournalError else None):
                engine.update([*Y[20:40], 1e300] if owner is None else Y[20:])
        assert engine._runtime.state is before
        assert (path / ROWS).read_bytes() == stored
    engine.update(Y[20:])
    clean = small.level()
    clean.update(Y[:20])
    clean.update(Y[20:])
    assert_equal(engine._runtime.state.population, clean._runtime.state.population)
    assert_equal(journal.read(path).rows, clean._runtime.history.rows())


@pytest.mark.parametrize(("owner", "name"), [(journal, "whole"), (RecordFile, "write")])
def test_a_first_call_that_cannot_be_written_leaves_the_folder_usable(tmp_path, monkeypatch, owner, name):
    def fails(*_):
        raise OSError(errno.ENOSPC, "full")

    history = journal.create(Journal(tmp_path), {})
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fails)
        with pytest.raises(ss.errors.JournalError, match="full"):
            take_in(history, block(5, noise=True), 0, 5)
    history.truncate(0)
    take_in(history, block(5), 0, 5)  # other columns, as nothing was committed
    assert_equal(journal.read(tmp_path).rows, block(5)[0])


def test_rows_that_are_taken_back_do_not_return(tmp_path):
    """A call is interrupted when it has written, and once more when it takes its rows back."""
    rows, history = block(9), journal.create(Journal(tmp_path, fsync=1e9), {})
    take_in(history, rows, 0, 5)
    for line in itertools.count(1):
        take_in(history, rows, 5, 9)
        again = interrupted(lambda: history.truncate(5), line, journal)
        history.truncate(5)
        take_in(history, rows, 5, 6)
        assert len(journal.read(tmp_path).history) == 6
        history.truncate(5)
        if not again:
            break
    assert line > 8


def test_a_first_call_that_is_interrupted_at_its_end_never_was(tmp_path, monkeypatch):
    engine = small.level(journal=tmp_path)
    with monkeypatch.context() as patch:
        failing(patch, Disk, "commit", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            engine.update(Y[:9], time=np.arange(9.0))
    assert (engine.t, len(journal.read(tmp_path).history)) == (0, 0)
    engine.update(Y[:20])
    assert len(journal.read(tmp_path).history) == 20
    assert "when" not in engine.record.coords


def test_after_a_sync_that_failed_no_call_is_taken(kept, monkeypatch):
    engine, path = kept
    engine._runtime.history._store._fsync = 0.0
    with monkeypatch.context() as patch:
        failing(patch, RecordFile, "sync", OSError(errno.EIO, "I/O error"))
        with pytest.raises(ss.errors.JournalError, match="I/O error"):
            engine.step(1.0)
    with pytest.raises(ss.errors.JournalError, match="go on with a copy"):
        engine.step(1.0)
    assert engine.t == len(journal.read(path).history) == 20
    assert engine.copy().step(1.0).t == 21


def test_the_names_of_new_folders_are_brought_to_the_disk(tmp_path, monkeypatch):
    synced, sync = [], files.sync_folder
    monkeypatch.setattr(files, "sync_folder", lambda path: (synced.append(path), sync(path)))
    files.folder(tmp_path / "a" / "b")
    assert sorted(synced) == [tmp_path, tmp_path / "a"]
    files.folder(tmp_path / "a" / "b")
    assert len(synced) == 2


@pytest.mark.parametrize(("fsync", "syncs"), [(0.0, 20), (1e9, 1), (float("inf"), 1)])
def test_how_often_the_disk_is_waited_for(tmp_path, monkeypatch, fsync, syncs):
    calls, rows = [], block(20)
    history = journal.create(Journal(tmp_path, fsync), {})
    monkeypatch.setattr(RecordFile, "sync", lambda self: calls.append(self))
    for i in range(20):
        take_in(history, rows, i, i + 1)
    assert len(calls) == syncs


def written(path):
    """A journal of three calls: rows 0 to 3, row 4, rows 5 to 9."""
    history, rows = journal.create(Journal(path), {"channels": ["z"]}), block(10)
    for start, stop in ((0, 4), (4, 5), (5, 10)):
        take_in(history, rows, start, stop)
    return rows[0], (path / ROWS).read_bytes()


def test_a_file_cut_anywhere_holds_the_calls_that_were_whole(tmp_path):
    rows, data = written(tmp_path)
    for size in range(len(data) + 1):
        (tmp_path / ROWS).write_bytes(data[:size])
        read = journal.read(tmp_path)
        n = max(n for n in (0, 4, 5, 10) if n * 30 <= size)
        assert len(read.history) == n
        assert read.unfinished == size - n * 30
        if n:
            assert_equal(read.rows, cut(rows, 0, n))
    (tmp_path / ROWS).write_bytes(data[:120] + bytes(180))  # space that a file system gave but never filled
    assert len(journal.read(tmp_path).history) == 4


def test_an_altered_byte_is_noticed(tmp_path):
    rows, data = written(tmp_path)
    for i in range(len(data)):
        altered = bytearray(data)
        altered[i] ^= 0x10
        (tmp_path / ROWS).write_bytes(altered)
        with pytest.raises(ss.errors.JournalError, match=r"rows\.bin was altered: rows \d to \d"):
            journal.read(tmp_path)
        whole = max(n for n in (0, 4, 5) if n * 30 <= i)
        saved = journal.read(tmp_path, salvage=True).history
        assert len(saved) == whole
        if whole:
            assert_equal(saved.rows(), cut(rows, 0, whole))
    swapped = data[120:150] + data[:120] + data[150:]
    for changed in (swapped, data[120:], data[:120] + data[150:], data[:150] + data[120:]):
        (tmp_path / ROWS).write_bytes(changed)
        with pytest.raises(ss.errors.JournalError, match="altered"):
            journal.read(tmp_path)


def test_what_cannot_be_opened_is_not_kept_from_others(tmp_path):
    _, data = written(tmp_path)
    (tmp_path / ROWS).write_bytes(data[:50] + b"x" + data[51:])
    with pytest.raises(ss.errors.JournalError, match="altered") as looked_at:
        journal.reopened(Journal(tmp_path))
    (tmp_path / ROWS).write_bytes(data)
    assert len(journal.reopened(Journal(tmp_path))[1]) == 10
    assert looked_at


def test_a_checkpoint_that_fails_does_not_fail_a_call(tmp_path):
    """Whatever it is: the rows are committed. It is told with the next one."""
    keeper = Keeper(Journal(tmp_path, checkpoint_rows=1, keep=1), tmp_path, 0)
    keeper.after(1, lambda: 1 // 0)
    with pytest.warns(ss.errors.SmcssmWarning, match="no checkpoint was written: ZeroDivisionError"):
        keeper.after(2, lambda: Moment(2, lambda: None, lambda: 1 // 0))
    keeper.wait()
    with pytest.warns(ss.errors.SmcssmWarning, match="no checkpoint was written: ZeroDivisionError"):
        keeper.after(2, lambda: None)
    for t in (9, 5, 6):  # the journal was put back to an earlier one, and 9 is of rows that are gone
        keeper.now(lambda t=t: Moment(t, lambda: None, lambda: Contents({}, {})))
    assert [int(file.stem) for file in keeper.folder.files()] == [9, 6]


def test_a_checkpoint_does_not_bring_back_a_journal_that_was_removed(tmp_path):
    gone = tmp_path / "gone"
    with pytest.raises(ss.errors.CheckpointError, match="cannot be used as a folder"):
        Folder(gone / "checkpoints").write(1, Contents({}, {}))
    assert not gone.exists()


def test_a_header_that_is_not_its_own_is_refused(tmp_path):
    written(tmp_path)
    text = (tmp_path / HEADER).read_bytes()
    for i in range(len(text)):
        altered = bytearray(text)
        altered[i] ^= 1
        (tmp_path / HEADER).write_bytes(altered)
        with pytest.raises(ss.errors.JournalError, match=r"header\.json|format"):
            journal.read(tmp_path)
    header = json.loads(text)
    for change, message in [({"format": 2}, "format 2"), ({"channels": ["y"]}, "does not match")]:
        (tmp_path / HEADER).write_text(json.dumps(header | change))
        with pytest.raises(ss.errors.JournalError, match=message):
            journal.read(tmp_path)
    (tmp_path / "other").mkdir()
    journal.create(Journal(tmp_path / "other" / "j"), {"channels": ["w"]})
    take_in(journal.create(Journal(tmp_path / "other" / "j"), {"channels": ["w"]}), block(10), 0, 10)
    (tmp_path / HEADER).write_bytes((tmp_path / "other" / "j" / HEADER).read_bytes())
    with pytest.raises(ss.errors.JournalError, match="rows 0 to 3"):
        journal.read(tmp_path)
    (tmp_path / HEADER).write_bytes(text)
    with pytest.raises(ss.errors.JournalError, match=r"channels is \['z'\], expected \['y'\]; n_series is None"):
        journal.read(tmp_path, about={"channels": ["y"], "n_series": 1})
    (tmp_path / ROWS).unlink()
    with pytest.raises(ss.errors.JournalError, match="cannot be read"):
        journal.read(tmp_path)
    (tmp_path / HEADER).unlink()
    with pytest.raises(ss.errors.JournalError, match="nothing was committed"):
        journal.read(tmp_path)


def test_a_journal_that_was_read_is_not_written_to(tmp_path):
    _, data = written(tmp_path)
    history = journal.read(tmp_path).history
    with pytest.raises(ss.errors.JournalError, match="cannot be written"):
        take_in(history, block(10), 0, 1)
    assert (tmp_path / ROWS).read_bytes() == data


@pytest.mark.skipif(os.name != "posix", reason="limits and kill -9")
def test_a_full_disk(tmp_path):
    import resource

    history, rows = journal.create(Journal(tmp_path), {}), block(100)
    take_in(history, rows, 0, 50)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1750, limits[1]))  # in the middle of a record
    try:
        with pytest.raises(ss.errors.JournalError, match="too large"):
            take_in(history, rows, 50, 60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.path.getsize(tmp_path / ROWS) == 1750
    read = journal.read(tmp_path)
    assert (len(read.history), read.unfinished) == (50, 250)
    history.truncate(50)
    assert os.path.getsize(tmp_path / ROWS) == 1500
    take_in(history, rows, 50, 100)
    assert_equal(journal.read(tmp_path).rows, rows[0])


STREAM = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[2])
from rows import block, take_in
from smcssm import journal
rows, root = block(20_000), sys.argv[1]
random.seed(1)
for n in range(6):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        history, size = journal.create(journal.Journal(f"{root}/{n}"), {}), (1, 3000)[n % 2]
        for start in range(0, 20_000, size):
            take_in(history, rows, start, min(start + size, 20_000))
            os.write(write, len(history).to_bytes(4, "little"))
        time.sleep(60)
    os.read(read, 4)
    time.sleep(random.uniform(0.0, 0.02 if n % 2 else 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(write)
    told = b"".join(iter(lambda: os.read(read, 4096), b""))
    print(int.from_bytes(told[-4:], "little"))
"""


@pytest.mark.skipif(os.name != "posix", reason="limits and kill -9")
def test_what_a_killed_process_had_committed_is_there(tmp_path):
    command = [sys.executable, "-c", STREAM, str(tmp_path), os.path.dirname(__file__)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    rows, _ = block(20_000)
    lengths = []
    for n, told in enumerate(map(int, said.stdout.split())):
        history = journal.read(tmp_path / str(n)).history
        lengths.append(len(history))
        assert len(history) >= told
        assert len(history) % (1, 3000)[n % 2] == 0 or len(history) == 20_000
        assert_equal(history.rows(), cut(rows, 0, len(history)))
    assert len(lengths) == 6
    assert min(lengths) < 20_000
