"""A fleet with a journal that ended anyhow goes on as if it had not: bit for bit, histories and quarantine included."""

import contextlib
import errno
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import smcssm as ss
import test_fleet
from smcssm import journal
from smcssm.errors import CheckpointError, InputError, JournalError, ModelError, SmcssmWarning
from smcssm.journal import Journal, created
from test_fleet import MODEL

NAMES, ROWS = ("a", "b", "c", "d", "e", "f", "g", 7), 36
OPTIONS = dict(**test_fleet.OPTIONS, seed=2)  # its programs are compiled once for both files


def streams():
    rng = np.random.default_rng(1)
    y = np.cumsum(rng.normal(size=(ROWS, 8)), axis=0) + rng.normal(size=(ROWS, 8))
    y[rng.random(y.shape) < 0.1] = np.nan
    y[8, 1] = 1e300  # to quarantine, and released later
    reported = rng.random(y.shape) < 0.8
    reported[8, 1] = True
    return y, reported


Y, REPORTED = streams()


def fleet(**options):
    return ss.Fleet(MODEL, series=NAMES, **(OPTIONS | options))


def feed(made, start, stop, rows=1):
    """Rows one by one or in blocks; before row 20 series b is released."""
    for i in range(start, stop, rows):
        if i == 20:
            made.release("b")
        made.update(Y[i : i + rows], reported=REPORTED[i : i + rows])


def assert_same(a, b):
    """All of a fleet but room that nobody uses yet, to the last bit."""
    x, y = a._runtime.state, b._runtime.state
    assert (x.names, x.born, x.rows, x.length) == (y.names, y.born, y.rows, y.length)
    for one, other in zip(jax.tree.leaves((x, None)), jax.tree.leaves((y, None)), strict=True):
        if isinstance(one, (np.ndarray, jax.Array)):
            assert one.dtype == other.dtype
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    for i, length in enumerate(x.lengths.tolist()):
        for one, other in zip(*(jax.tree.leaves(f.histories.own(i, length)) for f in (x, y)), strict=True):
            assert one.tobytes() == other.tobytes()


@pytest.fixture(scope="module")
def whole():
    """Never interrupted, without a journal."""
    made = fleet()
    feed(made, 0, ROWS)
    assert made.status()["quarantine"].eq("").all()
    return made


def test_a_checkpoint_of_no_rows_is_a_sound_one(tmp_path):
    made = fleet(journal=tmp_path / "j")
    made.checkpoint()
    feed(made, 0, 1)
    made.close()
    again = ss.Fleet.open(tmp_path / "j", MODEL)  # without a warning
    assert_same(again, made)


def test_a_release_of_none_is_no_row(tmp_path):
    """A shard's record where the series to be released are all in other shards."""
    made = fleet(journal=Journal(tmp_path / "j", checkpoint_every=1e9))
    feed(made, 0, 4)
    made._release(np.zeros(len(NAMES), bool))
    feed(made, 4, 6)
    shutil.copytree(tmp_path / "j", tmp_path / "killed")
    again = ss.Fleet.open(tmp_path / "killed", MODEL)
    assert (again.rows, again._runtime.state.length) == (6, 7)
    assert_same(again, made)


LONGER = [pytest.param(c, marks=pytest.mark.slow) for c in ("sound", "none")]


@pytest.mark.parametrize("checkpoints", ["damaged", *LONGER])
def test_a_fleet_that_ended_goes_on(tmp_path, whole, checkpoints):
    policy = Journal(tmp_path / "j", checkpoint_rows=5, checkpoint_every=math.inf)
    made = fleet(journal=policy)
    feed(made, 0, 16, rows=4)
    made._keeper.wait()
    made.close()
    with pytest.raises(JournalError, match=r"has let .* go"):
        feed(made, 16, 17)
    files = sorted((tmp_path / "j" / journal.CHECKPOINTS).iterdir())
    assert len(files) > 1
    for file in files[-1:] if checkpoints == "damaged" else files if checkpoints == "none" else []:
        file.write_bytes(file.read_bytes()[:-70])
    told = pytest.warns(SmcssmWarning, match=r"cut off.*Nothing is lost")
    with contextlib.nullcontext() if checkpoints == "sound" else told:
        again = ss.Fleet.open(policy, MODEL)
    assert (again.rows, again.names) == (16, NAMES)
    feed(again, 16, 24)
    again.close()
    last = ss.Fleet.open(policy, MODEL, **OPTIONS)
    assert last.rows == 24
    feed(last, 24, ROWS)
    assert_same(last, whole)
    last.checkpoint()
    last.close()
    assert_same(ss.Fleet.open(policy, MODEL), whole)


def test_what_does_not_belong_together_is_refused(tmp_path):
    made = fleet(journal=tmp_path / "j")
    made.update(Y[:3])
    for call, match in (
        (lambda: made.add("new"), "the series it began with"),
        (lambda: made.remove("a"), "the series it began with"),
        (lambda: fleet(journal=tmp_path / "j"), "not empty"),
        (lambda: fleet().checkpoint(), "this fleet has no journal"),
        (lambda: ss.Fleet(MODEL, series=[1.5j], journal=tmp_path / "k", **OPTIONS), "texts or numbers"),
    ):
        with pytest.raises(ModelError, match=match):
            call()
    with pytest.raises(InputError, match="came with no time, this one with numbers"):
        made.step(Y[3], time=3.0)
    with pytest.raises(JournalError, match="one engine at a time"):
        ss.Fleet.open(tmp_path / "j", MODEL)
    other = made.copy()
    other.remove("a")
    assert (len(other), len(made)) == (7, 8)
    assert made.rows == 3
    made.close()
    for kind, options, match in (
        (ss.Fleet, dict(seed=5), "seed=5, and it was 2"),
        (ss.Fleet, dict(prior=MODEL.default_prior(9.0)), "the prior is another one"),
        (ss.Engine, {}, "is the journal of a fleet: ss.Fleet.open"),
    ):
        with pytest.raises((JournalError, CheckpointError), match=match):
            kind.open(tmp_path / "j", MODEL, **options)
    created(Journal(tmp_path / "e"), {}).close()
    with pytest.raises(JournalError, match="nothing was committed"):
        ss.Fleet.open(tmp_path / "e", MODEL)


def test_a_call_that_cannot_be_written_changes_nothing(tmp_path, whole, monkeypatch):
    made = fleet(journal=tmp_path / "j")
    feed(made, 0, 10)
    before = made._runtime.state
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(journal.RecordFile, "write", full)
        with pytest.raises(JournalError, match="the engine is unchanged: No space"):
            feed(made, 10, 11)
        with pytest.raises(JournalError, match="the engine is unchanged: No space"):
            made.release()
    with monkeypatch.context() as patch:
        write, truncate, written = journal.RecordFile.write, journal.Disk.truncate, []

        def interrupted(self, *arguments):
            write(self, *arguments)
            written.append(self)
            raise KeyboardInterrupt

        def again(self, length):
            if written:
                raise KeyboardInterrupt
            truncate(self, length)

        patch.setattr(journal.RecordFile, "write", interrupted)
        patch.setattr(journal.Disk, "truncate", again)
        with pytest.raises(KeyboardInterrupt):
            made.step(Y[11], REPORTED[11])
    assert made._runtime.state is before
    feed(made, 10, ROWS)
    assert_same(made, whole)
    made.close()
    assert_same(ss.Fleet.open(tmp_path / "j", MODEL), whole)


def test_parts_of_a_fleet_draw_what_the_fleet_does():
    """Series draw by their number among all: what a cluster rests on."""
    part, all_of_it = (fleet(first=k)._runtime.state.population for k in (3, 0))
    np.testing.assert_array_equal(part.z[:, :5], all_of_it.z[:, 3:])
    np.testing.assert_array_equal(part.key[:5], all_of_it.key[3:])
    with pytest.raises(ModelError, match="first=-1: expected the number of a series"):
        fleet(first=-1)


CHILD = """
import json, os, random, signal, sys, time
sys.path[:0] = json.loads(sys.argv[2])
import numpy as np
import smcssm as ss
import test_fleet_journal as t
folder, kills = sys.argv[1], int(sys.argv[3])
random.seed(2)
def serve(n):
    rows = random.Random(n).choice([1, 2, 7, 1000])
    policy = ss.journal.Journal(f"{folder}/j", checkpoint_rows=rows, checkpoint_every=1e9)
    begun = os.path.exists(f"{folder}/j/header.json")
    fleet = ss.Fleet.open(policy, t.MODEL) if begun else t.fleet(journal=policy)
    out = os.open(f"{folder}/out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for i in range(fleet.rows, kills * 6):
        if i == 60:
            fleet.release()
        info = fleet.step(t.Y[i % t.ROWS], t.REPORTED[i % t.ROWS])
        os.write(out, (json.dumps([i, *map(repr, info.log_predictive.tolist())]) + chr(10)).encode())
    fleet.close()
    os._exit(0)
def size():
    return os.path.getsize(f"{folder}/out") if os.path.exists(f"{folder}/out") else 0
codes = []
while not codes or codes[-1] != 0:
    said, child = size(), os.fork()
    if child == 0:
        try:
            serve(len(codes))
        finally:
            os._exit(1)
    if len(codes) < kills:
        while size() == said and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.2))
        os.kill(child, signal.SIGKILL)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert codes[-1] in (0, -9), codes
print(codes.count(-9))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_fleets_that_are_killed(tmp_path):
    """Up to twenty times in the midst of the stream, at whatever it then did; rows told twice were told the same."""
    source = json.dumps([str(Path(ss.__file__).parents[1]), str(Path(__file__).parent)])
    command = [sys.executable, "-c", CHILD, str(tmp_path), source, "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = {}
    for line in (tmp_path / "out").read_text().splitlines():
        row, *numbers = json.loads(line)
        assert said.setdefault(row, numbers) == numbers
    clean = fleet()
    for i in range(120):
        if i == 60:
            clean.release()
        told = clean.step(Y[i % ROWS], REPORTED[i % ROWS]).log_predictive
        if i in said:  # a kill may come between the commit and the word of it
            assert said[i] == [repr(v) for v in told.tolist()]
    again = ss.Fleet.open(tmp_path / "j", MODEL)
    assert again.rows == 120
    assert_same(again, clean)
    assert int(done.stdout) >= 5
    print(f"{done.stdout.strip()} kills, {len(said)} of 120 rows told, all of them once")
