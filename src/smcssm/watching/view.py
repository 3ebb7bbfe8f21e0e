"""``ss.live(engine)``: a view that keeps up with an engine, in a notebook or as a page of its own.

A thread looks at the engine a few times a second, reads a frame where an observation has come, and hands it to the
pages. Nothing hooks into the engine: step it as you like. A read waits for the step or block that runs; a step waits
for the snapshot that a read takes, well below a millisecond. What is kept, and the work of a frame, do not grow with
the stream.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from smcssm.engine import Engine
from smcssm.errors import InputError
from smcssm.monitor import Monitor
from smcssm.watching.frames import Frame, Reader

if TYPE_CHECKING:
    from smcssm.watching.page import Page
    from smcssm.watching.server import Server


class Live:
    """A live view: put it last in a cell of a notebook, or ``serve`` it as a page.

    Args:
        engine: with a record.
        last: how many observations the pictures go back.
        h: how many steps the forecast looks ahead; 0 for none.
        every: least number of seconds from one drawing to the next.
        monitor: whose alarms are shown, if you feed one; by default one of the view's own watches the record.
        title: of the page; by default the names of the channels.
        channels: what they are called on the page; by default as in the model.

    Attributes:
        frame: what is shown.
        failure: what ended the view before its time.

    Raises:
        ModelError: of an engine without a record.
        ImportError: without Panel; says how to get it.
    """

    def __init__(
        self,
        engine: Engine | Any,
        *,
        last: int = 300,
        h: int = 12,
        every: float = 0.5,
        monitor: Monitor | None = None,
        title: str | None = None,
        channels: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(engine, Engine):
            raise InputError(f"live: expected an engine, got {type(engine).__name__}; of a fleet: fleet.engine(name)")
        for name, value, least in (("last", last, 2), ("h", h, 0), ("every", every, 0.05)):
            if not value >= least:
                raise InputError(f"{name}={value}: expected at least {least:g}")
        names = [str(name) for name in engine.record["hyperparameter"].values]
        self._panel = panel()
        called = tuple(engine.model.channel_names if channels is None else channels)
        if len(called) != len(engine.model.channel_names):
            raise InputError(f"channels: {len(called)} names for {len(engine.model.channel_names)} channels")
        self._about = (title or ", ".join(called), called, names, h)
        self.reader, self.every = Reader(engine, last, h, monitor), every
        self.frame: Frame | None = None
        self.failure: Exception | None = None
        self._reading, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._server: Server | None = None
        self._cells: list[Page] = []

    def refresh(self) -> Frame | None:
        """Read the engine if it has moved on; notebooks show it when this returns."""
        with self._reading:
            if self.frame is None or self.frame.t != self.reader.engine.t:
                self.frame = frame = self.reader.read()
                if frame is not None:
                    for page in self._cells:
                        page.draw(frame)
                        self._panel.io.push_notebook(page.layout)
            return self.frame

    def serve(self, port: int = 0, show: bool = False) -> str:
        """Serve the page on this machine alone, in the background; the address.

        Args:
            port: 0 for any that is free.
            show: open a browser.
        """
        from smcssm.watching.server import Server

        if self._server is None:
            self._server = Server(self.page, self._about[0], port)
        self._follow()
        if show:
            import webbrowser

            webbrowser.open(self._server.url)
        return self._server.url

    def page(self) -> Any:
        """A layout for one more browser, which asks for new frames as long as it is there."""
        page = self._page()

        def draw() -> None:
            if self.failure is not None:
                page.say(f"the view has ended: {self.failure}")
            elif self.frame is not None and page.shown is not self.frame:
                page.draw(self.frame)

        draw()
        self._panel.state.add_periodic_callback(draw, period=max(int(500 * self.every), 50))
        return page.layout

    def close(self) -> None:
        """Stop reading and serving; notebooks keep the last picture."""
        if self._thread is not None:
            _end(self._thread, self._stop)
        if self._server is not None:
            self._server.close()
            self._server = None

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        page = self._page()
        self._cells.append(page)
        self.refresh()
        self._follow()
        bundle = page.layout._repr_mimebundle_(include, exclude)
        for _, browser in page.layout._comms.values():
            browser._handle_msg = partial(_heard, browser)
        return bundle

    def _page(self) -> Page:
        from smcssm.watching.page import Page

        page = Page(*self._about)
        if self.frame is not None:
            page.draw(self.frame)
        return page

    def _follow(self) -> None:
        """Start to read, if nobody does."""
        if self._thread is None:
            self._thread = threading.Thread(target=_reads, args=(weakref.ref(self), self._stop), daemon=True)
            self._thread.start()
            weakref.finalize(self, _end, self._thread, self._stop)  # also when Python ends


live = Live  # as users write it


def _heard(comm: Any, message: Any) -> None:
    """What a notebook's browser says of the channel that is chosen; all else is an echo of what was drawn.

    In place of Panel's own, which takes for its output what is printed meanwhile: JupyterLab delivers messages while a
    cell runs, and the cell would lose what it prints.
    """
    said = comm.decode(message)
    number, content = said.pop("comm_id", None), said.get("content", {})
    content["events"] = [event for event in content.get("events", ()) if event.get("attr") == "value"]
    if content["events"]:
        comm._on_msg(said)
    if number:
        comm.send(metadata={"msg_type": "Ready", "content": "", "comm_id": number})


def _end(thread: threading.Thread, stop: threading.Event) -> None:
    stop.set()
    if thread is not threading.current_thread():
        thread.join()


def _reads(view: weakref.ref[Live], stop: threading.Event) -> None:
    """As long as the view is there and not closed."""
    while (now := view()) is not None:
        start = time.perf_counter()
        try:
            now.refresh()
        except Exception as error:  # whatever it was: the page says so, the stream goes on
            now.failure = error
            return
        wait = max(now.every, 4 * (time.perf_counter() - start))  # no more than a fifth of a core
        del now
        if stop.wait(wait):
            return


def panel() -> Any:
    """Panel, with its scripts inside the notebook, so that nothing is fetched from outside."""
    try:
        import panel as pn
    except ImportError as error:
        raise ImportError("the live view needs Panel: pip install 'smcssm[live]'") from error
    pn.extension(inline=True)
    return pn
