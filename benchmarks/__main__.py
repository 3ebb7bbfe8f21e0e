"""Run benchmarks, each in a process of its own, and make docs/benchmarks.md of what they found.

    python -m benchmarks list
    python -m benchmarks run [NAME ...] [--quick]     writes benchmarks/results/NAME.json; all but gpu by default
    python -m benchmarks table                        writes docs/benchmarks.md and its picture
    python -m benchmarks mutations                    planted bugs, and the tests that catch them
    python -m benchmarks correctness [--quick]        measures, and writes docs/correctness.md
    python -m benchmarks scaling [--quick]            measures, and writes docs/scaling.md

A benchmark is a file here with a function ``rows(quick)`` that returns fields of ``records.Record``; its docstring says
what is compared and why that is fair. Rivals are installed on demand (``environments.py``).
"""

import argparse
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.records import RESULTS, ROOT, Record, about

LIMIT = {True: 1800.0, False: 7200.0}  # seconds for one benchmark, quick or not
BY_NAME = {"gpu"}  # for another machine: not among those that are run when none is named


def names() -> dict[str, str]:
    """Every benchmark and the first line of its docstring."""
    found = {}
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        text = path.read_text()
        if re.search(r"^def rows\(", text, re.MULTILINE):
            found[path.stem] = text.removeprefix('"""').partition("\n")[0]
    return found


def one(name: str, quick: bool, output: Path) -> None:
    """Run one in this process; told to stop, it stops what it has started as well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    told, start = about(quick), time.perf_counter()
    module = importlib.import_module(f"benchmarks.{name}")
    rows = [asdict(Record(**row)) for row in module.rows(quick)]
    told |= {"seconds": time.perf_counter() - start, "cpu_s": sum(os.times()[:4])}
    output.write_text(json.dumps({"about": told, "rows": rows}, indent=1) + "\n")


def run(chosen: list[str], quick: bool) -> int:
    """Run some, and tell how many failed; a result is replaced by a new one only."""
    RESULTS.mkdir(exist_ok=True)
    failed = 0
    for name in chosen:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "result.json"
            command = [sys.executable, "-m", "benchmarks", "one", name, "--output", str(output)]
            process = subprocess.Popen(command + ["--quick"] * quick, cwd=ROOT)
            try:
                done = process.wait(LIMIT[quick]) == 0
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
                done = False
            if done:
                (RESULTS / f"{name}.json").write_text(output.read_text())
        failed += not done
        print(f"{name}: {'done' if done else 'FAILED'}, {time.perf_counter() - start:.0f} s", flush=True)
    return failed


def with_large_pages() -> None:
    """On Linux: this command again, in a process that asks for pages of 2 MB, as docs/fleet.md recommends."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.execve(sys.executable, sys.orig_argv, os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"})


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("list", "run", "table", "mutations", "correctness", "scaling", "one"))
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    there = names()
    unknown = [name for name in given.names if name not in there]
    if unknown and given.what in ("run", "one"):
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(there)}")
    if given.what == "list":
        print("\n".join(f"{name:18}{line}" for name, line in there.items()))
    elif given.what == "one":
        one(given.names[0], given.quick, given.output)
    elif given.what == "run":
        sys.exit(run(given.names or [name for name in there if name not in BY_NAME], given.quick) > 0)
    else:
        if given.what == "scaling":
            with_large_pages()
        module = "tables" if given.what == "table" else given.what
        importlib.import_module(f"benchmarks.{module}").main(given.names, given.quick)


if __name__ == "__main__":
    main()
