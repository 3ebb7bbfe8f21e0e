"""The commands that README and docs tell a reader to type: those of a line of their own, and those within a sentence.

Placeholders, ``...`` and ``NAME``, make a phrase out of a command; it is not returned.
"""

import itertools
import re
import shlex
from typing import NamedTuple

import numpy as np

TOOL = r"(?:\.venv/bin/)?(?:smcssm (?:stream|watch|models|inspect|demo|--)|make |pip install |python )"
BLOCK = re.compile(rf"^ *((?:{TOOL})(?:[^\n|]|(?<=\\)\n)*)$", re.MULTILINE)  # a backslash joins lines
INLINE = re.compile(rf"`((?:{TOOL})[^`|]*)`")


class Command(NamedTuple):
    """Words of a command, and the line it stands on."""

    words: tuple[str, ...]
    line: int


def commands(text):
    """Of one page, without what is written to where and without remarks."""
    python = [range(*found.span()) for found in re.finditer(r"^```python.*?^```", text, re.MULTILINE | re.DOTALL)]
    for pattern in (BLOCK, INLINE):
        for found in pattern.finditer(text):
            if any(found.start() in span for span in python):
                continue
            line = found[1].replace("\\\n", "").partition(" > ")[0].removeprefix(".venv/bin/")
            words = shlex.split(line, comments=True)
            if not any("..." in word or word.isupper() for word in words):
                yield Command(tuple(words), text[: found.start()].count("\n") + 1)


def given(words, option):
    """What follows an option, as often as it is there."""
    return [value for name, value in itertools.pairwise(words) if name == option]


def table(words):
    """A small CSV, by the hour, with the columns that the command names, a gap and a missing value."""
    rng = np.random.default_rng(0)
    columns, times = given(words, "--column"), given(words, "--time")
    rows = [",".join(times + columns)]
    for i in (*range(24), *range(26, 40)):
        stamp = [f"2026-03-{1 + i // 24:02d} {i % 24:02d}:00"] if times else []
        values = ["nan" if i == 30 else f"{1120 + 100 * rng.normal():.1f}" for _ in columns]
        rows.append(",".join(stamp + values))
    return "\n".join(rows) + "\n"
