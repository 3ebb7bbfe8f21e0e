"""From the bytes of a stream to rows of numbers, or a complaint with a line number.

One line is one record, so that a damaged one costs no more than itself: a quoted line break is not understood.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from smcssm.arguments import guess
from smcssm.errors import InputError

MISSING = frozenset({"", "nan", "na", "n/a", "none", "null"})


class Columns(NamedTuple):
    """Which columns are read."""

    channels: tuple[str, ...]
    time: str | None = None
    inputs: tuple[str, ...] = ()


class Row(NamedTuple):
    """One line of the stream: what it holds, or why it was rejected."""

    line: int | None
    values: tuple[float, ...]
    inputs: tuple[float, ...] = ()
    time: Any = None
    """float or datetime64[ns]; None without a column of times."""
    stamp: Any = None
    """The time as it was written."""
    complaint: str | None = None


def format_of(path: Path, wanted: str, first: bytes) -> str:
    """csv or jsonl: as wanted, else by the suffix, else by the first line."""
    if wanted != "auto":
        return wanted
    known = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
    return known.get(path.suffix.lower()) or ("jsonl" if first.lstrip(b"\xef\xbb\xbf \t").startswith(b"{") else "csv")


def rows(lines: Iterable[bytes], kind: str, columns: Columns) -> Iterator[Row]:
    """The rows of a stream, blank lines left out.

    Raises:
        InputError: if the header, or the first JSON record, lacks a column.
    """
    numbered = ((i, line) for i, line in enumerate(lines, 1) if line.strip())
    yield from (_from_csv if kind == "csv" else _from_json)(numbered, columns)


def _from_csv(lines: Iterator[tuple[int, bytes]], columns: Columns) -> Iterator[Row]:
    first = next(lines, None)
    if first is None:
        return
    text = _text(first[1]).removeprefix("\ufeff")
    delimiter = max(",;\t", key=text.count)
    header = [name.strip() for name in next(csv.reader([text], delimiter=delimiter, strict=True))]
    _check(header, columns)
    for number, raw in lines:
        try:
            cells = next(csv.reader([_text(raw)], delimiter=delimiter, strict=True))
            if len(cells) != len(header):
                raise InputError(f"{count(len(cells), 'cell')} where the header has {len(header)}")
            record = dict(zip(header, cells, strict=True))
        except csv.Error as error:
            yield _rejected(number, f"not CSV: {error}", columns)
        except InputError as error:
            yield _rejected(number, str(error), columns)
        else:
            yield _row(number, record, columns)


def _from_json(lines: Iterator[tuple[int, bytes]], columns: Columns) -> Iterator[Row]:
    checked = False
    for number, raw in lines:
        try:
            record = json.loads(_text(raw).removeprefix("\ufeff"))
        except InputError as error:
            yield _rejected(number, str(error), columns)
            continue
        except (ValueError, RecursionError) as error:  # ValueError: not JSON, or an integer of thousands of digits
            yield _rejected(number, f"not JSON: {error}", columns)
            continue
        if not isinstance(record, dict):
            yield _rejected(number, f"expected a JSON object, got {_short(record)}", columns)
            continue
        if not checked:
            _check(list(record), columns)
            checked = True
        yield _row(number, record, columns)


def _check(found: list[str], columns: Columns) -> None:
    wanted = [*columns.channels, *columns.inputs, *([columns.time] if columns.time else [])]
    lacking = [name for name in wanted if name not in found]
    if lacking:
        named = ", ".join(f"{name!r}{guess(name, found)}" for name in lacking)
        raise InputError(f"no column {named}: the columns are {', '.join(found)}")
    twice = sorted({name for name in wanted if found.count(name) > 1})
    if twice:
        raise InputError(f"two columns are called {', '.join(map(repr, twice))}")


def _row(number: int, record: dict[str, Any], columns: Columns) -> Row:
    try:
        for name in (*columns.channels, *columns.inputs, *([columns.time] if columns.time else [])):
            if name not in record:
                raise InputError(f"no field {name!r}")
        values = tuple(_value(name, record[name]) for name in columns.channels)
        inputs = tuple(_value(name, record[name]) for name in columns.inputs)
        stamp = record[columns.time] if columns.time else None
        time = moment(columns.time, stamp) if columns.time else None
    except InputError as error:
        return _rejected(number, str(error), columns)
    return Row(number, values, inputs, time, stamp)


def _rejected(number: int, complaint: str, columns: Columns) -> Row:
    return Row(number, (math.nan,) * len(columns.channels), complaint=complaint)


def _value(name: str, cell: Any) -> float:
    """A finite number, or NaN for a missing value."""
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING):
        return math.nan
    number = _float(cell)
    if number is None:
        raise InputError(f"{name}: expected a number, got {_short(cell)}{_remedy(cell)}")
    if math.isinf(number):
        raise InputError(f"{name}: {_short(cell)} is not an observation; a missing value is an empty cell or null")
    return number


def _remedy(cell: Any) -> str:
    """What is probably wrong with a cell that is no number."""
    if isinstance(cell, str) and re.fullmatch(r"\s*[-+]?[\d.]*,\d+\s*", cell):
        return "; the decimal sign is a point"
    try:
        datetime.fromisoformat(cell.strip())
    except (AttributeError, ValueError):
        return ""
    return "; a column of times goes to --time"


def _float(cell: Any) -> float | None:
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)) or (isinstance(cell, str) and "_" in cell):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None


def moment(name: str, stamp: Any) -> float | np.datetime64:
    """A time: a number, or an ISO 8601 date, in UTC where it names a zone."""
    number = _float(stamp)
    if number is not None and math.isfinite(number):
        return number
    try:
        when = datetime.fromisoformat(stamp.strip())
    except (AttributeError, ValueError):
        raise InputError(
            f"{name}: expected a number or an ISO 8601 time, got {_short(stamp)}; one such is 2026-03-31 14:00. "
            "Where every line is one step, --time can be left out"
        ) from None
    when = when if when.tzinfo is None else when.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(when, "ns")


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: {error.reason} at byte {error.start}") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def count(n: int, what: str) -> str:
    """1 line, 2 lines."""
    return f"{n} {what}" + "s" * (n != 1)
