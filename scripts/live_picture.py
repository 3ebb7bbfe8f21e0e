"""The picture of docs/live.md: a real page in a real browser (Debian: apt-get install chromium).

    PYTHONPATH=tests python scripts/live_picture.py

writes docs/images/live.png. Run it again when the page has changed.
"""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import browser

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "live.png"
HOURS = 600


def readings(path: Path) -> None:
    """A daily cycle on a level that wanders; some hours are missing, one value is wild."""
    rng = np.random.default_rng(0)
    hours = np.arange(HOURS)
    y = 15 + 3 * np.sin(2 * np.pi * hours / 24) + np.cumsum(0.1 * rng.normal(size=HOURS)) + 0.3 * rng.normal(size=HOURS)
    y[500] += 4
    times = np.datetime64("2024-03-01T00:00", "m") + hours * np.timedelta64(1, "h")
    rows = [f"{t},{v:.2f}" for i, (t, v) in enumerate(zip(times, y, strict=True)) if i % 97 not in (5, 6)]
    path.write_text("\n".join(["time,temperature", *rows, ""]))


async def picture(url: str) -> None:
    """Of the page once it has come to the end."""
    async with browser.tab(url, 1280, 1000) as tab:
        await tab.until(f"after observation {HOURS}", 300)
        await asyncio.sleep(1)
        await tab.picture(PICTURE)


def main() -> None:
    """Watch a file, look at it, end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "readings.csv"
        readings(path)
        options = ["--model", "level+fourier:24:1+noise", "--column", "temperature", "--time", "time", "--port", "0"]
        command = [sys.executable, "-m", "smcssm.cli", "watch", str(path), *options]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
            assert run.stderr is not None
            url = next(line for line in run.stderr if "watch it at" in line).split()[-1]
            asyncio.run(picture(url))
            run.terminate()


if __name__ == "__main__":
    main()
