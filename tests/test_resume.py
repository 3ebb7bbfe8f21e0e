"""Streams and engines that end in every way, and go on as if they had not: nothing lost, nothing counted twice."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import small
import smcssm as ss
from smcssm import journal
from smcssm.cli import app
from smcssm.journal import Journal
from test_save import assert_equal, everything

pytestmark = pytest.mark.skipif(os.name != "posix", reason="locks, forks, signals and kill -9")

T = 60
Y = np.where(np.arange(T) % 13 == 5, np.nan, small.walk(T))
WORDS = [f"{v}" for v in Y]
WORDS[20:20] = ["bad", "1e300"]  # a line that is no number, and one that the engine refuses
WORDS[41:41] = ["1e300"]
MODEL = ss.models.LocalLevel(initial_sd=10.0)
OPTIONS = dict(n_particles=64, seed=3)
STREAM = ["--model", "local-level", "--column", "temp", "--particles", "64"]


def write(path, words):
    path.write_text("temp\n" + "".join(f"{w}\n" for w in words))
    return path


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The lines of the stream by number, without a journal."""
    result = run("stream", write(tmp_path_factory.mktemp("plain") / "in.csv", WORDS), *STREAM)
    assert result.exit_code == 0
    out = lines(result)
    assert len(out) == T
    assert sum(line["moved"] for line in out) > 1
    return out


@pytest.mark.parametrize("checkpoints", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_stream_that_ended_goes_on(tmp_path, undisturbed, checkpoints):
    folder, source = tmp_path / "j", tmp_path / "in.csv"
    seen = []
    for stop in (25, 45, len(WORDS)):
        result = run("stream", write(source, WORDS[:stop]), *STREAM, "--journal", folder)
        assert result.exit_code == 0, result.stderr
        seen.append(lines(result))
        if not checkpoints:
            for file in (folder / journal.CHECKPOINTS).glob("*"):
                file.unlink()
        else:
            assert (folder / journal.CHECKPOINTS).exists()
    for before, part in itertools.pairwise(seen):
        assert part[0] == before[-1]  # the last line once more: it may not have been written
    everything_said = seen[0] + [line for part in seen[1:] for line in part[1:]]
    assert everything_said == undisturbed
    assert "resumed after" in result.stderr
    assert (folder / "refused").read_text() == "23\n43\n"


def test_another_stream_is_refused(tmp_path):
    folder, source = tmp_path / "j", tmp_path / "in.csv"
    run("stream", write(source, WORDS[:12]), *STREAM, "--journal", folder)
    for words, arguments, match in (
        (WORDS, ["--seed", "5"], "seed was 0, now 5"),
        (WORDS[:11], [], "the stream ended after 11 observations, the journal has 12"),
        (WORDS[1:], [], "line 13 is not observation 12 of the journal"),
    ):
        result = run("stream", write(source, words), *STREAM, "--journal", folder, *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert match in " ".join(result.stderr.split())
    engine = ss.Engine(MODEL, journal=tmp_path / "mine", **OPTIONS)
    engine.step(1.0)
    result = run("stream", source, *STREAM, "--journal", tmp_path / "mine")
    assert "not of smcssm stream" in " ".join(result.stderr.split())


def test_inspect(tmp_path):
    engine = ss.Engine(MODEL, journal=tmp_path / "j", **OPTIONS)
    engine.update(Y[:9])
    engine.checkpoint()
    engine.save(tmp_path / "e")
    for path, said in ((tmp_path / "j", "journal of 9 observations: sound"), (tmp_path / "e", "state.population.z")):
        result = run("inspect", path)
        assert result.exit_code == 0
        assert said in result.stdout
        assert "checkpoint after 9 observations: sound" in result.stdout
        assert "hyperparameters: sigma_level, sigma_obs" in result.stdout
    (file,) = (tmp_path / "j" / journal.CHECKPOINTS).iterdir()
    for path in (file, tmp_path / "j" / journal.ROWS, tmp_path / "e"):
        data = bytearray(path.read_bytes())
        data[100] ^= 4
        path.write_bytes(data)
        result = run("inspect", path if path != tmp_path / "j" / journal.ROWS else path.parent)
        assert result.exit_code == 1
        assert "not sound" in result.stdout
    assert run("inspect", tmp_path / "nothing").exit_code == 1


def test_checkpoints_that_cannot_be_used_are_passed_over(tmp_path):
    policy = Journal(tmp_path / "j", checkpoint_rows=1, checkpoint_every=math.inf, keep=9)
    engine = ss.Engine(MODEL, journal=policy, **OPTIONS)
    for y in Y[:30]:
        engine.step(y)
        engine._keeper._background.wait()
    whole = everything(engine)
    engine.close()
    with pytest.raises(ss.errors.JournalError, match=r"let .* go: ss\.Engine\.open resumes it"):
        engine.step(1.0)
    files = sorted((tmp_path / "j" / journal.CHECKPOINTS).iterdir())
    assert len(files) == 9
    files[-1].write_bytes(files[-1].read_bytes()[:999])
    files[-2].write_bytes(b"")
    with pytest.warns(ss.errors.SmcssmWarning, match=r"029\.npz: .*cut off.*Nothing is lost"):
        engine = ss.Engine.open(policy, MODEL)
    assert_equal(everything(engine), whole)
    rows = (tmp_path / "j" / journal.ROWS).read_bytes()
    engine.close()
    (tmp_path / "j" / journal.ROWS).write_bytes(rows[: len(rows) // 2])  # a power cut took rows, not checkpoints
    with pytest.warns(ss.errors.SmcssmWarning, match="counts 28 rows and the journal has 15"):
        engine = ss.Engine.open(policy, MODEL, **OPTIONS)
    assert engine.t == 15
    engine.update(Y[15:30])
    assert_equal(everything(engine), whole)
    with pytest.raises(ss.errors.JournalError, match="one engine at a time"):
        ss.Engine.open(policy, MODEL)
    engine.close()
    other = MODEL.default_prior(9.0)
    with pytest.raises(ss.errors.CheckpointError, match="the prior is another one"):
        ss.Engine.open(policy, MODEL, other)
    with pytest.raises(ss.errors.ModelError, match=r"not empty.*Engine\.open resumes it"):
        ss.Engine(MODEL, journal=policy, **OPTIONS)


def test_a_checkpoint_that_cannot_be_written_stops_nothing(tmp_path):
    policy = Journal(tmp_path / "j", checkpoint_rows=1)
    engine = ss.Engine(MODEL, journal=policy, **OPTIONS)
    engine.step(1.0)
    engine._keeper._background.wait()
    folder = tmp_path / "j" / journal.CHECKPOINTS
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_bytes(b"in the way")
    engine.step(1.0)
    engine._keeper._background.wait()
    with pytest.warns(ss.errors.SmcssmWarning, match="The journal has all observations"):
        engine.step(1.0)
    with pytest.raises(ss.errors.CheckpointError, match="cannot be used as a folder"):
        engine.checkpoint()
    assert engine.t == 3


def test_threads_interrupts_and_forks():
    engine = ss.Engine(MODEL, **OPTIONS)
    engine.update(Y)

    def work():
        for _ in range(300):
            engine.step(0.0)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine.t == T + 600
    read, write_end = os.pipe()
    with pytest.warns(Warning, match="fork"):
        child = os.fork()
    if child == 0:
        try:
            engine.step(1.0)
        except BaseException as error:
            os.write(write_end, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write_end)
    assert b"belongs to the parent process: JAX does not survive a fork" in os.read(read, 4096)
    os.close(read)
    assert engine.step(1.0).t == T + 601


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the garbage collector swallows some
def test_an_interrupt_at_any_moment_leaves_the_engine_usable():
    engine, clean = (ss.Engine(MODEL, **OPTIONS) for _ in range(2))
    rng, taken = np.random.default_rng(5), 0
    engine.update(Y[:10])
    clean.update(Y[:10])
    start = time.perf_counter()
    for _ in range(5):
        engine.copy().step(0.0)
    usual = (time.perf_counter() - start) / 5

    class Interrupt(BaseException):
        """As a KeyboardInterrupt is, but one that stops no test run."""

    def interrupt(number, frame):
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for y in np.resize(Y, 150):
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.01, 4) * usual)
                engine.step(y, sequence=10 + taken)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                pass
            if engine.t == 11 + taken:  # committed, whether or not the call could say so
                clean.step(y)
                taken += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert 0 < taken < 150
    assert_equal(everything(engine), everything(clean))


CHILD = """
import json, os, random, signal, sys, time
sys.path[:0] = json.loads(sys.argv[2])
from smcssm.cli import app, session  # JAX is imported, and starts in each child
from smcssm import journal
folder, kills, seed = sys.argv[1], int(sys.argv[3]), int(sys.argv[4])
random.seed(seed)
policy = journal.Journal.__init__
def often(self, *a, **k):
    policy(self, *a, **{"checkpoint_rows": random.choice([1, 2, 7, 1000]), **k})
journal.Journal.__init__ = often
def start(n):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(f"{folder}/out", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os.dup2(os.open(f"{folder}/err{n}", os.O_WRONLY | os.O_CREAT), 2)
        random.seed(seed + n)
        app(["stream", f"{folder}/in.csv", *sys.argv[5:], "--journal", f"{folder}/j"])
    return child
def size():
    try:
        return os.path.getsize(f"{folder}/out")
    except FileNotFoundError:
        return 0
signals, codes = [signal.SIGKILL] * kills + [signal.SIGTERM, signal.SIGINT] * max(1, kills // 5), []
for n, number in enumerate(signals):
    child, said = start(n), size()
    if n % 3:  # in the midst of the stream; otherwise at any moment, compiling and resuming included
        while size() == said and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.01)
        time.sleep(random.uniform(0.0, 0.3))
    else:
        time.sleep(random.uniform(0.0, 8.0))
    os.kill(child, number)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
codes.append(os.waitstatus_to_exitcode(os.waitpid(start(len(signals)), 0)[1]))
print(json.dumps(codes))
"""


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_streams_that_are_killed(tmp_path, kills):
    """Each run is killed while it starts, streams or writes a checkpoint; the last one may end."""
    words = [f"{v:.6f}" for v in small.walk(60 * kills, seed=4)]
    words[33] = "1e300"
    write(tmp_path / "in.csv", words)
    arguments = [*STREAM, "--scale", "1", "--initial-mean", "0"]
    source = [str(Path(ss.__file__).parents[1]), str(Path(__file__).parent)]
    child = [sys.executable, "-c", CHILD, str(tmp_path), json.dumps(source), str(kills), "1", *arguments]
    codes = json.loads(subprocess.run(child, capture_output=True, text=True, check=True).stdout)
    said = {}
    for line in (tmp_path / "out").read_text().splitlines():
        with_line = json.loads(line) if line.endswith("}") and line.startswith("{") else None  # cut off by a kill
        if with_line is not None:
            assert said.setdefault(with_line["t"], with_line) == with_line
    clean = run("stream", tmp_path / "in.csv", *arguments)
    assert [said[t] for t in sorted(said)] == lines(clean)
    assert len(said) == len(words) - 1
    assert codes[-1] == 0
    assert set(codes[:kills]) <= {-9, 0}
    assert set(codes[kills:-1:2]) <= {143, -15, 0}
    assert set(codes[kills + 1 : -1 : 2]) <= {130, -2, 0}
    print(f"{codes.count(-9)} killed, exit codes of SIGTERM and SIGINT {codes[kills:-1]}, {len(said)} rows, each once")
    engine = ss.Engine.open(tmp_path / "j", *model_of(tmp_path / "j"))
    assert engine.t == len(said)


def model_of(folder):
    start = journal.header(folder)["note"]["start"]
    model = ss.models.LocalLevel(initial_mean=start["means"][0], initial_sd=start["sd"])
    return model, model.default_prior(start["scale"])
