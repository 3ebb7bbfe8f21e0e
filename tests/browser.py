"""A headless Chromium, driven over its DevTools protocol: what a page asks for, what it says, how it looks."""

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from tornado.websocket import websocket_connect

FOUND = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0")


class Tab:
    """One tab; ``seen`` has the addresses that the page asked for, ``errors`` what its scripts complained of."""

    def __init__(self, socket):
        self._socket, self._count, self.seen, self.errors = socket, 0, [], []

    async def call(self, method, **parameters):
        self._count += 1
        await self._socket.write_message(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            said = json.loads(await self._socket.read_message())
            told = said.get("params", {})
            match said.get("method"):
                case "Network.requestWillBeSent":
                    self.seen.append(told["request"]["url"])
                case "Network.webSocketCreated":
                    self.seen.append(told["url"])
                case "Runtime.exceptionThrown":
                    self.errors.append(told["exceptionDetails"].get("exception", {}).get("description", "?"))
            if said.get("id") == self._count:
                assert "error" not in said, said
                return said["result"]

    async def text(self):
        """All that is written on the page, in shadow roots too."""
        walk = """(function walk(n) {
            if (n.nodeType === 3) return n.textContent + ' ';
            if (['STYLE', 'SCRIPT'].includes(n.nodeName)) return '';
            return [...(n.shadowRoot ? [n.shadowRoot] : []), ...n.childNodes].map(walk).join('');
        })(document.body || document.head)"""
        return (await self.call("Runtime.evaluate", expression=walk))["result"].get("value", "")

    async def until(self, words, seconds=60.0):
        """Wait until the page says this."""
        end = time.monotonic() + seconds
        while words not in (said := await self.text()):
            assert time.monotonic() < end, f"{words!r} is not on the page: {said!r}; {self.errors}"
            await asyncio.sleep(0.2)

    def close(self):
        self._socket.close()

    async def picture(self, path):
        data = (await self.call("Page.captureScreenshot", format="png"))["data"]
        Path(path).write_bytes(base64.b64decode(data))


@contextlib.asynccontextmanager
async def tab(url, width=1280, height=1100):
    """A page in a browser that can reach nothing but this machine."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        outside = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost"
        command = [FOUND, *OPTIONS, outside, f"--user-data-dir={folder}", f"--window-size={width},{height}"]
        process = subprocess.Popen([*command, "about:blank"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            port = Path(folder) / "DevToolsActivePort"
            end = time.monotonic() + 60
            while not port.exists() or "\n" not in port.read_text():
                assert time.monotonic() < end and process.poll() is None, "the browser does not start"
                await asyncio.sleep(0.1)
            number = port.read_text().split()[0]
            pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{number}/json", timeout=30))
            address = next(p for p in pages if p["type"] == "page")["webSocketDebuggerUrl"]
            here = Tab(await websocket_connect(address, max_message_size=2**28))
            for domain in ("Network", "Runtime", "Page"):
                await here.call(f"{domain}.enable")
            await here.call("Page.navigate", url=url)
            yield here
            here.close()
        finally:
            process.terminate()
            process.wait()
