"""The live view: what it shows is what the engine says, it keeps up, asks for nothing outside, and stays small.

The page is looked at through the server's own protocol; in a real browser where there is one (Debian: chromium).
"""

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import xarray as xr

import small
import smcssm as ss
from smcssm.cli import app
from smcssm.cli.lines import opened
from smcssm.errors import InputError, ModelError
from smcssm.monitor import Monitor
from smcssm.watching.frames import Reader

pytest.importorskip("panel", reason="the extra `live`")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

from bokeh.client import pull_session  # noqa: E402
from bokeh.models import ColumnDataSource, Title  # noqa: E402

import browser  # noqa: E402
from smcssm.watching.page import Page  # noqa: E402
from smcssm.watching.view import _heard  # noqa: E402

T = 60
Y = small.walk(T + 10)
Y[[7, 30]] = math.nan


@pytest.fixture(scope="module")
def engine():
    engine = small.level()
    engine.update(Y[:T], progress=False)
    return engine


@pytest.fixture(scope="module")
def view(engine):
    with ss.live(engine, last=40, h=3, every=0.05, title="a walk") as view:
        view.refresh()
        yield view


def columns(document, name):
    """Of the one source that has a column of this name."""
    (source,) = [s for s in document.select({"type": ColumnDataSource}) if name in s.data]
    return {key: np.asarray(value) for key, value in source.data.items()}


def eventually(what, seconds=60.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_frame_is_what_the_engine_says(engine, view):
    frame = view.frame
    record = engine.record.isel(time=slice(-40, None))
    assert frame.t == T and frame.steps.identical(record)
    np.testing.assert_array_equal(frame.x, np.arange(21, 61))
    np.testing.assert_array_equal(frame.ahead_x, [61, 62, 63])
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    np.testing.assert_array_equal(frame.ahead, engine.forecast(3, quantiles=levels)["quantiles"])
    assert frame.log_evidence == engine.log_evidence
    assert frame.floors == (small.N / 2, 20.0, small.N)


def test_the_page_is_served_and_keeps_up(engine, view):
    url = view.serve()
    assert view.serve() == url  # one server is enough
    html = urllib.request.urlopen(url, timeout=30).read().decode()
    addresses = [a for a in re.findall(r"https?://[\w.-]+", html) if not a.endswith(("localhost", "w3.org"))]
    assert "a walk" in html and addresses == []
    session = pull_session(url=url)
    (served,) = [s for s in view._server.server.get_sessions("/") if s.id == session.id]
    eventually(lambda: len(columns(served.document, "mean")["t"]) == 40)
    past = columns(served.document, "mean")
    np.testing.assert_array_equal(past["t"], np.arange(21, 61))
    np.testing.assert_array_equal(past["y"], Y[20:T])
    np.testing.assert_array_equal(past["mean"], engine.record["predictive_mean"].values[20:, 0])
    assert len(columns(served.document, "q50")["x"]) == 3
    assert columns(served.document, "count")["count"].sum() == np.isfinite(Y[20:T]).sum()
    engine.update(Y[T:], progress=False)
    eventually(lambda: view.failure or view.frame.t == T + 10)
    assert view.failure is None
    eventually(lambda: columns(served.document, "mean")["t"][-1] == T + 10)
    assert len(columns(served.document, "mean")["t"]) == 40  # and not one more
    titles = " ".join(t.text for t in served.document.select({"type": Title}) if t.text)
    for words in ("sigma_level: ", "sigma_obs: ", "Effective sample size", "Calibration: 39 values"):
        assert words in titles
    session.close()


def test_a_notebook_shows_it_too(view):
    layout = view._repr_mimebundle_()
    html = layout[0]["text/html"] if isinstance(layout, tuple) else layout["text/html"]
    assert html
    assert view._cells[0].shown is view.frame
    view._cells.clear()


def test_of_a_notebook_only_the_choice_is_heard(capsys):
    """Not the echo of each drawing; and what is printed meanwhile stays where it was printed."""

    class Comm:
        decode = staticmethod(lambda message: dict(message["data"]))

        def _on_msg(self, said):
            print("a cell speaks")
            heard.append(said["content"]["events"])

        def send(self, metadata):
            sent.append(metadata["msg_type"])

    heard, sent, choice = [], [], {"kind": "ModelChanged", "attr": "value", "new": "south"}
    for events in ([{"kind": "RootAdded"}, {"kind": "ModelChanged", "attr": "data"}], [{"attr": "data"}, choice]):
        _heard(Comm(), {"data": {"comm_id": "1", "content": {"events": events}}})
    assert heard == [[choice]] and sent == ["Ready", "Ready"]
    assert capsys.readouterr().out == "a cell speaks\n"


def test_alarms_of_its_own_monitor_and_of_one_that_is_fed():
    engine = small.level(record=100)
    y = np.append(small.walk(30), 60.0)
    mine = Monitor()
    mine.update(engine.update(y, progress=False))
    own, fed = Reader(engine, 50, 0), Reader(engine, 50, 0, mine)
    first, second = own.read(), fed.read()
    assert first.alarms == second.alarms and first.alarms[-1].t == 31 and first.ahead is None
    assert first.alarmed == second.alarmed == own.read().alarmed == len(mine.alarms)


def test_times_of_the_observations(engine):
    reader = Reader(engine, 5, 2)
    day = np.datetime64("2024-03-01", "ns")
    for i in range(engine.t - 1):
        reader.note(i + 1, day + i * np.timedelta64(1, "D"))
    frame = reader.read()  # the last step was told, its time not yet
    assert frame.t == engine.t - 1
    np.testing.assert_array_equal(frame.x, day + np.arange(engine.t - 6, engine.t - 1) * np.timedelta64(1, "D"))
    np.testing.assert_array_equal(frame.ahead_x[:1], frame.x[-1:] + np.timedelta64(1, "D"))


def test_times_that_the_engine_was_told():
    engine = small.level(time_unit="1D")
    when = np.datetime64("2024-03-30", "ns") + np.arange(4) * np.timedelta64(9, "h")
    engine.update(small.walk(4), time=when, progress=False)
    frame = Reader(engine, 3, 2).read()
    np.testing.assert_array_equal(frame.x, when[1:])
    np.testing.assert_array_equal(frame.ahead_x, when[-1] + np.arange(1, 3) * np.timedelta64(1, "D"))


@pytest.mark.parametrize(
    ("unit", "said"), [("D", "2024-03-04"), ("m", "2024-03-01 00:03"), ("s", "2024-03-01 00:00:03")]
)
def test_the_time_without_needless_zeros(view, unit, said):
    x = np.datetime64("2024-03-01", "ns") + np.arange(4) * np.timedelta64(1, unit)
    page = Page("dates", ("y",), ["sigma_level", "sigma_obs"], 0)
    page.draw(view.frame._replace(steps=view.frame.steps.isel(time=slice(-4, None)), x=x, ahead_x=x[:0], ahead=None))
    assert f", {said}: " in page._head.object


def test_channels_one_at_a_time(view):
    both = {n: v.isel(channel=[0, 0]) if "channel" in v.dims else v for n, v in view.frame.steps.items()}
    steps = xr.Dataset(both).assign_coords(channel=["north", "south"])
    steps["y"] = steps["y"] * [1.0, -1.0]
    page = Page("two", ("north", "south"), ["sigma_level", "sigma_obs"], 0)
    page.draw(view.frame._replace(steps=steps, ahead=None))
    assert page.chosen.options == ["north", "south"] and page.chosen.visible
    page.chosen.value = "south"
    (source,) = [s for s in page._pictures[0].figure.select({"type": ColumnDataSource}) if "mean" in s.data]
    np.testing.assert_array_equal(source.data["y"], -view.frame.steps["y"].values[:, 0])


def test_inputs_that_nobody_knows_are_no_failure(engine, monkeypatch):
    def refuse(*_, **__):
        raise InputError("give the inputs")

    monkeypatch.setattr(engine, "forecast", refuse)
    assert Reader(engine, 10, 2).read().ahead is None


def test_before_the_first_observation_and_without_a_record():
    view = ss.live(small.level())
    assert view.refresh() is None
    assert "no observation yet" in view._page()._head.object
    with pytest.raises(ModelError, match="keeps no record"):
        ss.live(small.level(record=None))


def test_complaints(engine, monkeypatch):
    with pytest.raises(InputError, match=r"got list; of a fleet: fleet\.engine"):
        ss.live([engine])
    with pytest.raises(InputError, match="last=1: expected at least 2"):
        ss.live(engine, last=1)
    with ss.live(engine) as first, ss.live(engine) as second:
        port = int(first.serve().rpartition(":")[2])
        with pytest.raises(InputError, match=f"port {port} cannot be used .* take another one"):
            second.serve(port)
    monkeypatch.setitem(sys.modules, "panel", None)
    with pytest.raises(ImportError, match=r"pip install 'smcssm\[live\]'"):
        ss.live(engine)


def test_what_goes_wrong_is_on_the_page(engine):
    with ss.live(engine, every=0.05) as view:
        view.reader.read = lambda: 1 / 0
        session = pull_session(url=view.serve())
        eventually(lambda: isinstance(view.failure, ZeroDivisionError))
        words = "the view has ended: division by zero"
        (served,) = view._server.server.get_sessions("/")
        eventually(lambda: words in str(served.document.to_json()))
        session.close()


def test_a_view_that_nobody_keeps_ends(engine):
    view = ss.live(engine)
    view._follow()
    thread, view = view._thread, None
    eventually(lambda: not thread.is_alive())


# smcssm watch ---------------------------------------------------------------------------------------------------------

OPTIONS = ["--model", "local-level", "--column", "temp", "--scale", "0.2", "--initial-mean", "4.2", "--particles", "64"]
ROWS = [4.1, 4.3, 4.2, math.nan, 4.6, 4.5, 4.7, 4.4]


def written(folder, rows):
    path = folder / "data.csv"
    path.write_text("temp\n" + "".join(f"{v}\n" for v in rows))
    return path


def test_watch_says_where_and_ends_when_told_so(tmp_path):
    said = invoke("watch", written(tmp_path, ROWS), *OPTIONS, "--port", "0", "--no-stay", "--ahead", "3")
    assert said.exit_code == 0, said.stderr
    assert re.search(r"watch it at http://localhost:\d+\n", said.stderr) and "8 observations" in said.stderr
    ahead = [words in said.stderr for words in ("next observation", "2 ahead", "3 ahead", "4 ahead")]
    assert ahead == [True, True, True, False]
    assert [json.loads(line)["t"] for line in said.stdout.splitlines()] == list(range(1, 9))


def invoke(*arguments):
    from typer.testing import CliRunner

    return CliRunner().invoke(app, list(map(str, arguments)))


def test_watch_complains(tmp_path, monkeypatch):
    path = written(tmp_path, ROWS)
    assert "stdin is followed anyway" in invoke("watch", "-", *OPTIONS, "--follow").stderr
    assert "no such file" in invoke("watch", tmp_path / "none.csv", *OPTIONS).stderr
    monkeypatch.setitem(sys.modules, "panel", None)
    said = invoke("watch", path, *OPTIONS)
    assert said.exit_code == 2 and "pip install 'smcssm[live]'" in said.stderr and said.stdout == ""


def test_a_file_is_followed_line_by_line(tmp_path):
    path = tmp_path / "grows.csv"
    path.write_bytes(b"a\nb\nc")
    with opened(path, follow=True) as lines:
        assert [next(lines), next(lines)] == [b"a\n", b"b\n"]
        with path.open("ab") as file:
            file.write(b"d\n")
        assert next(lines) == b"cd\n"
        path.write_bytes(b"x\n")
        with pytest.raises(InputError, match="cut short or replaced"):
            next(lines)


@pytest.mark.slow
@pytest.mark.skipif(browser.FOUND is None, reason="no Chromium here")
def test_in_a_real_browser(tmp_path):
    """A file that grows, followed; the page keeps up, asks nobody else for anything, and no script complains."""
    path = written(tmp_path, ROWS)
    command = [sys.executable, "-m", "smcssm.cli", "watch", str(path), *OPTIONS, "--port", "0", "--follow"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **quiet) as run:
        url = next(line for line in run.stderr if "watch it at" in line).split()[-1]

        async def look():
            async with browser.tab(url) as tab:
                await tab.until("after observation 8: 4.4")
                with path.open("a") as file:
                    file.write("9.9\n")
                await tab.until("after observation 9: 9.9")
                await tab.until("surprise")
                await tab.picture(tmp_path / "page.png")
                return tab

        tab = asyncio.run(look())
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=60) == 130
    outside = [a for a in tab.seen if not re.match(r"(?:(?:http|ws)://localhost:|blob:http://localhost:|data:)", a)]
    assert outside == [] and tab.errors == [] and len(tab.seen) > 5
    assert (tmp_path / "page.png").stat().st_size > 20_000
