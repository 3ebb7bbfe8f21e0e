"""The exceptions of smcssm: few, and each a kind of built-in error, so that old habits of catching still work."""

from typing import Any


class SmcssmError(Exception):
    """Base of every error that smcssm raises on purpose."""


class InputError(SmcssmError, ValueError):
    """An observation, time stamp or input that cannot be taken. The engine is unchanged."""


class ModelError(SmcssmError, ValueError):
    """A model, prior or option that does not fit the others: what was got, what was expected, the remedy."""


class ImpossibleObservationError(SmcssmError, ArithmeticError):
    """An observation that model and prior cannot explain. The engine is unchanged.

    Attributes:
        series: in which of several series, where that is known: an array of booleans.
    """

    def __init__(self, message: str, series: Any = None) -> None:
        super().__init__(message)
        self.series = series


class JournalError(SmcssmError, OSError):
    """A journal that cannot be written (the engine is unchanged), or one that is not to be trusted when it is read."""


class CheckpointError(SmcssmError, OSError):
    """A checkpoint that cannot be written or is not to be trusted, or one of another engine. Nothing was changed."""


class SmcssmWarning(UserWarning):
    """A run that goes on, but whose numbers deserve a look; the text names the remedy."""
