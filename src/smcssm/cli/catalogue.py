"""Models by short names: "local-level", or sums such as "level+seasonal:12+noise"; and the list of them.

What a name means is said by the docstring of the class that it builds, and nowhere else.
"""

from __future__ import annotations

import contextlib
import inspect
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from smcssm import models as m
from smcssm.arguments import guess
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


def _wiener(start: Start, order: int) -> Any:
    level, sd = [start.means[0], *[0.0] * (order - 1)], [start.sd * 0.1**k for k in range(order)]
    return m.IntegratedWiener(order, initial_mean=level, initial_sd=sd)


def _velocity(start: Start, _: list[str]) -> AbstractModel:
    x, y = (start.means * 2)[:2]
    return m.ConstantVelocity(initial_mean=(x, 0.0, y, 0.0), initial_sd=start.sd)


def _sarima(start: Start, arguments: list[str]) -> Any:
    order, seasonal = ([_whole(number) for number in text.split(",")] for text in (*arguments, "0,0,0,0")[:2])
    d, (_, D, _, s) = (order[1], seasonal) if len(order) == 3 and len(seasonal) == 4 else (0, (0, 0, 0, 0))
    n = d + s * D
    if n == 0:
        return m.SARIMA(order, seasonal)
    levels = 1 if d else s  # what comes before the first observation: one value and differences, or a season of values
    return m.SARIMA(order, seasonal, initial_mean=[start.means[0]] * levels + [0.0] * (n - levels), initial_sd=start.sd)


COMPONENTS = {
    "level": Entry(m.Level, lambda s, a: m.Level(s.means[0], s.sd), "level"),
    "trend": Entry(m.Trend, lambda s, a: _trend(s, False), "trend"),
    "damped-trend": Entry(m.Trend, lambda s, a: _trend(s, True), "damped-trend"),
    "continuous-trend": Entry(
        m.ContinuousTrend,
        lambda s, a: m.ContinuousTrend(initial_mean=(s.means[0], 0.0), initial_sd=(s.sd, 0.1 * s.sd)),
        "continuous-trend",
    ),
    "wiener": Entry(
        m.IntegratedWiener,
        lambda s, a: _wiener(s, _whole(a[0])),
        "wiener:2",
        ("ORDER",),
    ),
    "ou": Entry(m.OrnsteinUhlenbeck, lambda s, a: m.OrnsteinUhlenbeck(), "ou", starts=False),
    "cycle": Entry(m.Cycle, lambda s, a: m.Cycle(*map(_number, a)), "cycle:11", ("PERIOD",), optional=1, starts=False),
    "seasonal": Entry(
        DummySeasonal, lambda s, a: m.Seasonal(_number(a[0]), initial_sd=s.sd), "seasonal:4", ("PERIOD",), starts=False
    ),
    "fourier": Entry(
        FourierSeasonal,
        lambda s, a: m.Seasonal(_number(a[0]), "fourier", *map(_whole, a[1:]), initial_sd=s.sd),
        "fourier:48:1",
        ("PERIOD", "HARMONICS"),
        optional=1,
        starts=False,
    ),
    "ar": Entry(m.AR, lambda s, a: m.AR(_whole(a[0])), "ar:2", ("ORDER",), starts=False),
    "arma": Entry(m.ARMA, lambda s, a: m.ARMA(_whole(a[0]), _whole(a[1])), "arma:2:1", ("P", "Q"), starts=False),
    "sarima": Entry(m.SARIMA, _sarima, "sarima:0,1,1:0,1,1,12", ("p,d,q", "P,D,Q,s"), optional=1),
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
WHOLE = {"constant-velocity": Entry(m.ConstantVelocity, _velocity, "constant-velocity")}
SUMS = {
    "local-level": ("level+noise", m.LocalLevel),
    "local-linear-trend": ("trend+noise", m.LocalLinearTrend),
    "damped-local-linear-trend": ("damped-trend+noise", m.LocalLinearTrend),
}


def parse(spec: str) -> Callable[[Start], AbstractModel]:
    """A function from the law of the level to the model.

    Raises:
        ModelError: naming the part that is not understood.
    """
    if spec.strip() in WHOLE:
        return lambda start: WHOLE[spec.strip()].build(start, [])
    parts = [_component(spec, text) for text in _terms(spec)]
    if all(entry is COMPONENTS["noise"] for entry, _ in parts):
        raise ModelError(f"model {spec!r}: a model needs a component beside its noise, such as level+noise")

    def build(start: Start) -> AbstractModel:
        first, *others = (entry.build(start, arguments) for entry, arguments in parts)
        return reduce(operator.add, others, first) if others else m.Structural((first,))

    return build


def has_start(spec: str) -> bool:
    """Whether some part of a model that was parsed has a level to start from."""
    return any((WHOLE | COMPONENTS)[text.partition(":")[0]].starts for text in _terms(spec))


def _terms(spec: str) -> list[str]:
    """The summands, names of sums written out."""
    given = [text.strip() for text in spec.split("+")]
    return [term for text in given for term in SUMS.get(text, (text,))[0].split("+")]


def _component(spec: str, text: str) -> tuple[Entry, list[str]]:
    name, *arguments = text.split(":")
    if name in WHOLE:
        raise ModelError(f"model {spec!r}: {name} is a whole model, it takes no arguments and cannot be added to")
    if name not in COMPONENTS:
        names = ", ".join((*SUMS, *WHOLE))
        meant = guess(name, (*SUMS, *WHOLE, *COMPONENTS))
        known = f"models: {names}; components, to be summed: {', '.join(COMPONENTS)}"
        raise ModelError(f"model {spec!r}: there is no {name!r}{meant}; {known}")
    entry = COMPONENTS[name]
    most = len(entry.arguments)
    if not most - entry.optional <= len(arguments) <= most or not all(arguments):
        raise ModelError(f"model {spec!r}: write {_usage(name, entry)}, for example {entry.example}; got {text!r}")
    return entry, arguments


def _number(text: str) -> int | float:
    """A whole number where it is one."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    raise ModelError(f"model: expected a number, got {text!r}")


def _whole(text: str) -> int:
    number = _number(text)
    if not isinstance(number, int):
        raise ModelError(f"model: expected a whole number, got {text!r}")
    return number


def _usage(name: str, entry: Entry) -> str:
    cut = len(entry.arguments) - entry.optional
    needed, optional = entry.arguments[:cut], entry.arguments[cut:]
    return name + "".join(f":{a}" for a in needed) + "".join(f"[:{a}]" for a in optional)


def show(name: str | None = None) -> None:
    """Print one entry or all of them."""
    groups = {
        "Models": {n: _of_sum(*sum_) for n, sum_ in SUMS.items()} | {n: _of_entry(n, e) for n, e in WHOLE.items()},
        "Components, to be summed: level+seasonal:12+noise": {n: _of_entry(n, e) for n, e in COMPONENTS.items()},
    }
    known = [n for group in groups.values() for n in group]
    if name is not None and name not in known:
        raise ModelError(f"there is no {name!r}{guess(name, known)}; there are {', '.join(known)}")
    console = Console(highlight=False)
    for title, group in groups.items():
        if name is None:
            console.print(f"\n[bold]{title}[/]")
        for n in group if name is None else {name} & set(group):
            usage = _usage(n, COMPONENTS[n]) if n in COMPONENTS else n
            console.print(f"\n[bold cyan]{escape(usage)}[/]")
            grid = Table.grid(padding=(0, 2))
            for label, text in group[n]:
                grid.add_row(label, escape(text))
            console.print(Padding(grid, (0, 0, 0, 2)))


def _of_sum(spec: str, described_by: Any) -> list[tuple[str, str]]:
    """Rows of label and text."""
    return [("", _paragraphs(described_by)[0]), ("is", spec), *_named(parse(spec)(Start()))]


def _of_entry(name: str, entry: Entry) -> list[tuple[str, str]]:
    about, *details = _paragraphs(entry.described_by)
    described = [("", about), *(("", text) for text in details)]
    if name == "noise":
        return [*described, ("hyperparameters", "sigma_obs")]
    example = [("for example", entry.example)] if entry.arguments else []
    return described + example + _named(parse(entry.example)(Start()))


def _named(model: AbstractModel) -> list[tuple[str, str]]:
    """What a model names."""
    shapes = zip(model.names, model.shapes, strict=True)
    names = {
        "hyperparameters": [f"{n} {shape}" if shape else n for n, shape in shapes],
        "states": model.state_names,
        "channels": model.channel_names if len(model.channel_names) > 1 else (),
        "inputs": model.input_names,
    }
    return [(label, ", ".join(listed)) for label, listed in names.items() if listed]


def _paragraphs(described: Any) -> list[str]:
    """The paragraphs of a docstring before its Args, each on one line, without back-quotes."""
    text = (inspect.getdoc(described) or "").partition("\nArgs:")[0].replace("``", "")
    return [" ".join(p.split()) for p in text.split("\n\n") if p.strip()]
