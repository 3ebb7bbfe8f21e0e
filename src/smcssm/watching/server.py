"""A server of one page, in a thread; all scripts come from it, and only this machine reaches it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

from smcssm.errors import InputError


class Server:
    """Serves at once, until it is closed.

    Args:
        page: makes the layout for each browser that comes.
        title: of the page.
        port: 0 for any that is free.

    Attributes:
        server: Bokeh's, once it runs.
    """

    server: Any = None

    def __init__(self, page: Callable[[], Any], title: str, port: int) -> None:
        self.port = free(port)
        self.url = f"http://localhost:{self.port}"
        self._ready, self._loop, self._failed = threading.Event(), asyncio.new_event_loop(), None
        self._thread = threading.Thread(target=self._run, args=(page, title), daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed

    def _run(self, page: Callable[[], Any], title: str) -> None:
        from panel.io.server import get_server
        from tornado.ioloop import IOLoop

        asyncio.set_event_loop(self._loop)
        origins = [f"localhost:{self.port}", f"127.0.0.1:{self.port}"]
        options: dict[str, Any] = dict(address="127.0.0.1", websocket_origin=origins, title=title)
        try:
            self.server = server = get_server(page, port=self.port, loop=IOLoop.current(), **options)
            server.start()
        except Exception as error:
            self._failed = error
            return
        finally:
            self._ready.set()
        self._loop.run_forever()
        server.stop()
        self._loop.close()

    def close(self) -> None:
        """Browsers keep the last picture."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def free(port: int) -> int:
    """The port, or one that nobody uses; a complaint if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            remedy = "take another one, or 0 for any that is free"
            raise InputError(f"port {port} cannot be used ({error}): {remedy}") from None
        return probe.getsockname()[1]
