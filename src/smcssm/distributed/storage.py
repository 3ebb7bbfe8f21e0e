"""The folder of a fleet in shards: what it is, which driver has it, and where its shards are.

    fleet.json      series and shards, for good
    driver          a word that the driver chose which opened it last: no shard is opened for another one
    shard-00003/    see ``shard``

So a driver that another one has taken over from can lose its workers, and start others: they get no shard any more.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from smcssm.errors import JournalError, ModelError
from smcssm.files import folder, whole, why

FORMAT, MANIFEST, DRIVER = 1, "fleet.json", "driver"


class FencedError(JournalError):
    """Another driver, or a later incarnation of a shard, has taken over."""


def begin(path: Path, told: dict[str, Any]) -> None:
    """The folder of a new fleet."""
    try:
        folder(path)
        if (found := next(path.iterdir(), None)) is not None:
            remedy = "RayFleet.open resumes it" if (path / MANIFEST).exists() else "Give another one"
            raise ModelError(f"storage: the folder {path} is not empty: {found.name} is in it. {remedy}")
        with whole(path / MANIFEST) as file:
            file.write(json.dumps({"format": FORMAT, **told}, indent=1).encode())
    except OSError as error:
        raise ModelError(f"storage: {path} cannot be used as a folder: {why(error)}") from error


def known(path: Path) -> dict[str, Any]:
    """What was told when the fleet began."""
    try:
        told = json.loads((path / MANIFEST).read_bytes())
        if told["format"] != FORMAT:
            raise JournalError(f"{path} has format {told['format']}: this version of smcssm reads {FORMAT}")
        return told
    except OSError as error:
        raise JournalError(f"{path} has no fleet: {MANIFEST}: {why(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(f"{path / MANIFEST} is damaged, or not that of a fleet: {error!r}") from error


def claim(path: Path) -> str:
    """From now on the folder is of the driver with this word."""
    word = uuid.uuid4().hex
    try:
        with whole(path / DRIVER) as file:
            file.write(word.encode())
    except OSError as error:
        raise JournalError(f"{path} cannot be written: {why(error)}") from error
    return word


def check_claim(path: Path, word: str) -> None:
    """That no other driver has come since."""
    try:
        found = (path / DRIVER).read_text()
    except OSError as error:
        raise JournalError(f"{path} cannot be read: {why(error)}") from error
    if found != word:
        raise FencedError(f"{path}: another driver has taken over from this one; RayFleet.open would take it back")


def folder_of(storage: Path, number: int) -> Path:
    """Of a shard."""
    return storage / f"shard-{number:05d}"
