"""Models by short names: "local-level", or sums such as "level+seasonal:12+noise"; and the list of them.

What a name means is said by the docstring of the class that it builds, and nowhere else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from smcssm import models as m
from smcssm.core import AbstractModel
from smcssm.errors import ModelError
from smcssm.models.seasonal import DummySeasonal, FourierSeasonal


class Start(NamedTuple):
    """The law of the level at the first observation, N(mean, sd²); a mean for each channel."""

    means: tuple[float, ...] = (0.0,)
    sd: float = 1.0


class Entry(NamedTuple):
    """What a short name builds."""

    described_by: Any
    build: Callable[[Start, list[str]], Any]
    example: str
    arguments: tuple[str, ...] = ()
    optional: int = 0
    """How many of the arguments may be left out, from the last."""
    starts: bool = True
    """Whether it has a level, whose mean and sd at the first observation can be given."""


def _trend(start: Start, damped: bool) -> m.Structural | Any:
    return m.Trend(damped, initial_mean=(start.means[0], 0.0), initial_sd=(start.sd, 0.1 * start.sd))


def _velocity(start: Start, _: list[str]) -> AbstractModel:
    x, y = (start.means * 2)[:2]
    return m.ConstantVelocity(initial_mean=(x, 0.0, y, 0.0), initial_sd=start.sd)


COMPONENTS = {
    "level": Entry(m.Level, lambda s, a: m.Level(s.means[0], s.sd), "level"),
    "trend": Entry(m.Trend, lambda s, a: _trend(s, False), "trend"),
    "damped-trend": Entry(m.Trend, lambda s, a: _trend(s, True), "damped-trend"),
    "seasonal": Entry(
        DummySeasonal, lambda s, a: m.Seasonal(_number(a[0]), initial_sd=s.sd), "seasonal:4", ("PERIOD",), starts=False
    ),
    "fourier": Entry(
        FourierSeasonal,
        lambda s, a: m.Seasonal(_number(a[0]), "fourier", *map(_number, a[1:]), initial_sd=s.sd),
        "fourier:48:1",
        ("PERIOD", "HARMONICS"),
        optional=1,
        starts=False,
    ),
    "ar": Entry(m.AR, lambda s, a: m.AR(_number(a[0])), "ar:2", ("ORDER",), starts=False),
    "regression": Entry(
        m.Regression,
        lambda s, a: m.Regression(names=a[0].split(","), initial_sd=s.sd),
        "regression:wind,rain",
        ("COLUMN,COLUMN,...",),
        starts=False,
    ),
    "drifting-regression": Entry(
        m.Regression,
        lambda s, a: m.Regression(names=a[0].split(","), drifting=True, initial_sd=s.sd),
        "drifting-regression:wind,rain",
        ("COLUMN,COLUMN,...",),
        starts=False,
    ),
    "noise": Entry(m.Noise, lambda s, a: m.Noise(), "noise", starts=False),
}
MODELS = {
    "local-level": Entry(m.LocalLevel, lambda s, a: m.LocalLevel(s.means[0], s.sd), "local-level"),
    "local-linear-trend": Entry(
        m.LocalLinearTrend, lambda s, a: _trend(s, False) + m.Noise(), "local-linear-trend"
    ),
    "damped-local-linear-trend": Entry(
        m.LocalLinearTrend, lambda s, a: _trend(s, True) + m.Noise(), "damped-local-linear-trend"
    ),
    "constant-velocity": Entry(m.ConstantVelocity, _velocity, "constant-velocity"),
}


def parse(spec: str) -> Callable[[Start], AbstractModel]:
    """A function from the law of the level to the model.

    Raises:
        ModelError: naming the part that is not understood.
    """
    whole, *rest = spec.strip().split(":")
    if whole in MODELS:
        if rest:
            raise ModelError(f"model {spec!r}: {whole} takes no arguments")
        return lambda start: MODELS[whole].build(start, [])
    parts = [_component(spec, text.strip()) for text in spec.split("+")]
    if all(entry is COMPONENTS["noise"] for entry, _ in parts):
        raise ModelError(f"model {spec!r}: a model needs a component beside its noise, such as level+noise")

    def build(start: Start) -> AbstractModel:
        components = [entry.build(start, arguments) for entry, arguments in parts]
        if len(components) == 1:
            return m.Structural((components[0],))
        total = components[0]
        for component in components[1:]:
            total = total + component
        return total

    return build


def has_start(spec: str) -> bool:
    """Whether some part of a model that was parsed has a level to start from."""
    names = [text.strip().partition(":")[0] for text in spec.split("+")]
    return any((MODELS | COMPONENTS)[name].starts for name in names)


def _component(spec: str, text: str) -> tuple[Entry, list[str]]:
    name, *arguments = text.split(":")
    if name in MODELS:
        raise ModelError(f"model {spec!r}: {name} is a whole model and cannot be added to; sum components instead")
    if name not in COMPONENTS:
        raise ModelError(
            f"model {spec!r}: no model or component {name!r}; models: {', '.join(MODELS)}; components to be summed: "
            f"{', '.join(COMPONENTS)}"
        )
    entry = COMPONENTS[name]
    most = len(entry.arguments)
    if not most - entry.optional <= len(arguments) <= most or not all(arguments):
        raise ModelError(f"model {spec!r}: write {_usage(name, entry)}, for example {entry.example}; got {text!r}")
    return entry, arguments


def _number(text: str) -> Any:
    """A whole number or a decimal one; text is left for the model to complain about by name."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _usage(name: str, entry: Entry) -> str:
    cut = len(entry.arguments) - entry.optional
    needed, optional = entry.arguments[:cut], entry.arguments[cut:]
    return name + "".join(f":{a}" for a in needed) + "".join(f"[:{a}]" for a in optional)


def show(name: str | None = None) -> None:
    """Print one entry or all of them."""
    known = MODELS | COMPONENTS
    if name is not None and name not in known:
        raise ModelError(f"no model or component {name!r}; there are {', '.join(known)}")
    console = Console(highlight=False)
    for title, entries in (("Models", MODELS), ("Components, to be summed: level+seasonal:12+noise", COMPONENTS)):
        chosen = [n for n in entries if name in (None, n)]
        if chosen and name is None:
            console.print(f"\n[bold]{title}[/]")
        for n in chosen:
            _show(console, n, entries[n])


def _show(console: Console, name: str, entry: Entry) -> None:
    model = parse(entry.example if name != "noise" else "level+noise")(Start())
    hidden = {"sigma_level", "level"} if name == "noise" else set()
    shapes = zip(model.names, model.shapes, strict=True)
    grid = Table.grid(padding=(0, 2))
    about, *units = _paragraphs(entry.described_by)
    grid.add_row("", about)
    for label, listed in (
        ("hyperparameters", [n if not shape else f"{n} {shape}" for n, shape in shapes if n not in hidden]),
        ("states", [s for s in model.state_names if s not in hidden]),
        ("channels", list(model.channel_names) if len(model.channel_names) > 1 else []),
        ("inputs", list(model.input_names)),
    ):
        if listed:
            grid.add_row(label, ", ".join(listed) + (f"   ({entry.example})" if entry.arguments else ""))
    if units:
        grid.add_row("units", "\n".join(units))
    usage = _usage(name, entry).replace("[", r"\[")
    console.print(f"\n[bold cyan]{usage}[/]")
    console.print(Padding(grid, (0, 0, 0, 2)))


def _paragraphs(described: Any) -> list[str]:
    """The paragraphs of a docstring before its Args, each on one line, without back-quotes."""
    text = (inspect.getdoc(described) or "").partition("\nArgs:")[0].replace("``", "").replace("[", r"\[")
    return [" ".join(p.split()) for p in text.split("\n\n") if p.strip()]
