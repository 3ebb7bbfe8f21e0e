"""The command line: ``smcssm demo``, ``smcssm stream``, ``smcssm watch``, ``smcssm models``, ``smcssm inspect``.

Only typer is imported here; everything else when a command runs.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

# Compiled programs outlive the process, so that the next run starts in seconds; read by JAX when it is imported.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "smcssm"

app = typer.Typer(help="Online Bayesian state-space models.", no_args_is_help=True, pretty_exceptions_show_locals=False)


@app.command()
def demo(
    fast: Annotated[bool, typer.Option("--fast", help="Three weeks of the buoy instead of thirteen months.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for the figures and the ArviZ files.", file_okay=False)] = Path(
        "smcssm-demo"
    ),
) -> None:
    """Stream two real series through an engine; print what was learned, draw it and save it."""
    _keep_compiled()
    try:
        from smcssm.demo import run
    except ModuleNotFoundError as error:
        raise _failed(f"the demo needs {error.name}: pip install 'smcssm[demo]'", 1) from None
    run(output, fast=fast)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this one.")] = None,
) -> None:
    """List the models and components that --model understands: hyperparameters, states, units."""
    from smcssm.cli.catalogue import show
    from smcssm.errors import SmcssmError

    try:
        show(name)
    except SmcssmError as error:
        raise _failed(str(error), 2) from None


Given = Annotated[Path, typer.Argument(metavar="FILE|-", help="- is stdin.")]
Model = Annotated[str, typer.Option(help='A name, or a sum: "level+seasonal:12+noise"; see `smcssm models`.')]
Column = Annotated[list[str], typer.Option(help="Column of the observations; once per channel of the model.")]
Time = Annotated[
    str | None,
    typer.Option(
        help="Column of the times: numbers or ISO 8601, evenly spaced or by months or business days, which the "
        "first 20 show, held back. Steps left out become missing values."
    ),
]
TimeUnit = Annotated[
    str | None,
    typer.Option(
        help="1h, 15min, 1D: the unit of time of the hyperparameters. Then dates may be irregular, where the model "
        "holds for any gap, as level, ou and wiener do."
    ),
]
Format = Annotated[
    Literal["auto", "csv", "jsonl"], typer.Option(help="auto: by the file's suffix, else by the first line.")
]
OnError = Annotated[
    Literal["skip", "missing", "fail"],
    typer.Option(
        help="A line that cannot be taken: leave it out (and stop, exit 1, when these are most), count it as a "
        "missing value, or stop (exit 1)."
    ),
]
Scale = Annotated[
    float | None,
    typer.Option(
        help="How much the data vary, for the prior; default: a robust sd of the first 20 values, held back."
    ),
]
InitialMean = Annotated[
    float | None, typer.Option(help="Of the level at the first observation; default: the median of those.")
]
InitialSd = Annotated[float | None, typer.Option(help="Its standard deviation; default: the scale.")]
Particles = Annotated[int, typer.Option(help="Number of hyperparameter particles.", min=2)]
Schedule = Annotated[
    Literal["immediate", "paced", "jitter"],
    typer.Option(
        help="immediate: now and then a line waits for a pass over all before it; paced: no line does; jitter: "
        "nor is anything kept in memory, but the posterior is biased."
    ),
]
Seed = Annotated[int, typer.Option(help="Of all randomness.")]
Ahead = Annotated[int, typer.Option(help="How many steps, or units of time, the forecast at the end goes.", min=1)]


@app.command()
def stream(  # noqa: PLR0913
    file: Given,
    *,
    model: Model,
    column: Column,
    time: Time = None,
    time_unit: TimeUnit = None,
    format: Format = "auto",
    on_error: OnError = "skip",
    scale: Scale = None,
    initial_mean: InitialMean = None,
    initial_sd: InitialSd = None,
    particles: Particles = 1000,
    schedule: Schedule = "immediate",
    seed: Seed = 0,
    ahead: Ahead = 1,
    forecast: Annotated[
        Path | None, typer.Option(help="A CSV to write the forecast at the end to.", dir_okay=False, writable=True)
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Show the posterior as a table that keeps up with the stream, on stderr.")
    ] = False,
    journal: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="A folder that keeps every observation and checkpoints. The same command on the same stream, read "
            "from its start, then resumes where it was, whatever ended it; SIGTERM and SIGINT lose nothing.",
        ),
    ] = None,
) -> None:
    """Feed a CSV or JSON-lines stream to an engine: one JSON line out per observation, as soon as it is in.

    Empty cells, nan, na, none and null are missing values: time passes, nothing is observed. Lines that cannot be
    taken, and a summary at the end, go to stderr.
    """
    options = dict(model=model, on_error=on_error, scale=scale, initial_mean=initial_mean, initial_sd=initial_sd)
    options |= dict(particles=particles, seed=seed, schedule=schedule, time_unit=time_unit, ahead=ahead)
    options |= dict(journal=journal, forecast=forecast)
    raise typer.Exit(_run(file, format, column, time, options, live=live))


@app.command()
def watch(  # noqa: PLR0913
    file: Given,
    *,
    model: Model,
    column: Column,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for what is appended to the file.")] = False,
    port: Annotated[int, typer.Option(help="Of the page; 0 for any that is free.", min=0, max=65535)] = 5006,
    show: Annotated[bool, typer.Option("--show", help="Open a browser.")] = False,
    stay: Annotated[bool, typer.Option(help="Keep the page when the stream has ended, until Ctrl-C.")] = True,
    time: Time = None,
    time_unit: TimeUnit = None,
    format: Format = "auto",
    on_error: OnError = "skip",
    scale: Scale = None,
    initial_mean: InitialMean = None,
    initial_sd: InitialSd = None,
    particles: Particles = 1000,
    schedule: Schedule = "immediate",
    seed: Seed = 0,
    ahead: Ahead = 1,
) -> None:
    """Show a CSV or JSON-lines stream in a browser: data, forecasts, posterior, calibration, alarms, as lines come in.

    The page is served to this machine alone, and asks for nothing outside of it. What is read, and how, is as for
    `smcssm stream`; the lines that it would write are left out on a terminal, and go to stdout where that is a pipe.
    """
    if follow and str(file) == "-":
        raise _failed("--follow: stdin is followed anyway; leave it out", 2)
    options = dict(model=model, on_error=on_error, scale=scale, initial_mean=initial_mean, initial_sd=initial_sd)
    options |= dict(particles=particles, seed=seed, schedule=schedule, time_unit=time_unit, ahead=ahead)
    page = {"port": port, "show": show, "stay": stay, "follow": follow}
    raise typer.Exit(_run(file, format, column, time, options, page=page))


def _run(
    file: Path,
    format: str,
    column: list[str],
    time: str | None,
    options: dict[str, Any],
    *,
    live: bool = False,
    page: dict[str, Any] | None = None,
) -> int:
    """Read a stream to its end; the exit code. ``options`` are of ``Settings``; ``page`` shows it in a browser."""
    if str(file) != "-" and not file.exists():
        raise _failed(f"{file}: no such file", 2)
    _keep_compiled()
    from smcssm.cli.rows import Columns
    from smcssm.cli.session import Session, Settings
    from smcssm.errors import SmcssmError

    settings = Settings(columns=Columns(tuple(column), time), **options)
    try:
        if page is not None:
            from smcssm.cli.watch import watched

            return watched(settings, file, format, **page)
        if live:
            from smcssm.cli.board import Board

            settings = settings._replace(board=partial(Board, column=column[0]))
        return Session(settings).run(file, format)
    except (SmcssmError, OSError, ImportError) as error:
        raise _failed(str(error), 2) from None


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint, or the folder of a journal.")],
    key: Annotated[
        Path | None, typer.Option("--key", help="File that holds the key of signed checkpoints.", dir_okay=False)
    ] = None,
) -> None:
    """Say what a checkpoint or journal holds and whether it is sound; exit 1 if it is not."""
    from smcssm.cli.inspect import Report

    report = Report(None if key is None else key.read_bytes())
    raise typer.Exit(report.of(path))


def _failed(message: str, code: int) -> typer.Exit:
    """Say why on stderr."""
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}")
    return typer.Exit(code)


def _keep_compiled() -> None:
    """Keep what JAX compiles, unless the environment says where or whether."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def main() -> None:
    """Entry point."""
    app()
