"""Rivals in environments of their own: their pins clash with ours, or with each other's.

``rivals/NAME.txt`` lists what to install; the environment is made on demand in ``build/rivals/NAME`` by uv, or by pip
where there is no uv. What cannot be installed (no network, say) is left out of the tables, with the reason.
"""

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.records import ROOT


class RivalError(RuntimeError):
    """A rival that could not be installed, or failed."""


@functools.cache
def python(name: str) -> Path:
    """The interpreter in which a rival is installed."""
    home = ROOT / "build" / "rivals" / name
    interpreter, wanted = home / "bin" / "python", ROOT / "benchmarks" / "rivals" / f"{name}.txt"
    if not wanted.exists():
        raise RivalError(f"{name}: there is no benchmarks/rivals/{name}.txt")
    if interpreter.exists():
        return interpreter
    print(f"{name}: installing into build/rivals/{name}", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", str(home)])
    uv = Path(sys.executable).with_name("uv")
    install = [str(uv), "pip", "install", "-q", "--python", str(interpreter)]
    install = install if uv.exists() else [str(interpreter), "-m", "pip", "install", "-q"]
    try:
        _run([*install, "-r", str(wanted)])
    except RivalError:
        interpreter.unlink()  # or the next run would take it for whole
        raise
    return interpreter


def ask(name: str, module: str, *arguments: str, limit: float = 600.0) -> Any:
    """What ``python -m benchmarks.MODULE ARGUMENTS`` prints last, as JSON, in the environment of a rival."""
    return ask_of(str(python(name)), module, *arguments, limit=limit)


def ask_of(interpreter: str, module: str, *arguments: str, limit: float = 600.0) -> Any:
    """The same of an interpreter."""
    return json.loads(_run([interpreter, "-m", f"benchmarks.{module}", *arguments], limit).splitlines()[-1])


def _run(command: list[str], limit: float = 1200.0) -> str:
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **output) as process:
        try:
            out, said = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise RivalError(f"not done after {limit:.0f} s") from error
        finally:
            stop(process)
    if process.returncode:
        raise RivalError((said.strip().splitlines() or ["no message"])[-1][:300])
    return out


def stop(process: subprocess.Popen) -> None:
    """A process that is still there, and all that it started in its session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
