"""What a checkpoint or a journal holds, and whether it can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from smcssm import checkpoint, container, journal
from smcssm.cli.rows import count
from smcssm.errors import CheckpointError, JournalError


class Report:
    """Printed to stdout; what is wrong is said in its place."""

    def __init__(self, key: bytes | None = None) -> None:
        self.key, self.sound = key, True
        self.out = Console(soft_wrap=True, highlight=False)

    def of(self, path: Path) -> int:
        """A file or a folder; the exit code."""
        if path.is_dir():
            self._journal(path)
        else:
            self._checkpoint(path)
        return 0 if self.sound else 1

    def _say(self, text: str) -> None:
        self.out.print(text, markup=False)

    def _wrong(self, text: object) -> None:
        self.sound = False
        self.out.print("[bold red]not sound:[/]", end=" ")
        self._say(str(text))

    def _checkpoint(self, path: Path) -> None:
        try:
            words, arrays = container.read(path, self.key)
        except CheckpointError as error:
            self._wrong(error)
            return
        self._say(f"checkpoint after {count(words.get('t', 0), 'observation')}: sound")
        self._engine(words.get("about", {}), words.get("options", {}))
        self._say("written with " + ", ".join(f"{n} {v}" for n, v in words.get("built", {}).items()))
        table = Table("array", "type", "shape", "bytes", box=None)
        for name, array in arrays.items():
            table.add_row(name, str(array.dtype), "x".join(map(str, array.shape)), f"{array.nbytes:,}")
        self.out.print(table)

    def _journal(self, path: Path) -> None:
        try:
            header, history, unfinished = journal.read(path)
        except JournalError as error:
            self._wrong(error)
            return
        self._say(f"journal of {count(len(history), 'observation')}: sound")
        if unfinished:
            self._say(f"{count(unfinished, 'byte')} of a call that was cut short do not count")
        self._engine(header, header.get("options", {}))
        folder = checkpoint.Folder(path / journal.CHECKPOINTS, key=self.key)
        for file in folder.files():
            try:
                words = container.read(file, self.key).words
            except CheckpointError as error:
                self._wrong(error)
                continue
            if words["length"] > len(history) or history.seal(words["length"]) != words["seal"]:
                self._wrong(f"{file.name}: it was made from other rows than these")
            else:
                self._say(f"checkpoint after {count(words['t'], 'observation')}: sound")

    def _engine(self, about: dict[str, Any], options: dict[str, Any]) -> None:
        """Model and options that are numbers or text, and the names of the others."""
        names = ("model", "hyperparameters", "states", "channels", "inputs")
        rows = {n: about[n] for n in names if n in about}
        for name, value in options.items():
            rows[name] = value.get("class", value) if isinstance(value, dict) else value
        for name, value in rows.items():
            told = ", ".join(map(str, value)) if isinstance(value, list) else value
            if told not in (None, ""):
                self._say(f"  {name}: {told}")
