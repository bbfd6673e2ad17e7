"""The errors a user can cause, and the exit code each one means.

Messages read ``file: place: what is wrong, found vs expected; what to do``.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class MaceJaxError(Exception):
    """Something the user gave is wrong; the message says what to do about it."""

    exit_code = 1


class ArtifactError(MaceJaxError):
    """A file is damaged, of the wrong kind or of a version that cannot be read."""


class DataError(MaceJaxError):
    """The structures or labels inside a readable file cannot be used."""


class IncompatibleError(MaceJaxError):
    """Two good files do not belong together."""


class DivergedError(MaceJaxError):
    """Training produced a loss or a gradient that is not finite."""


class LostProcessError(MaceJaxError):
    """One of several processes that train together is gone, or hangs."""


class ConfigError(MaceJaxError):
    """An option or a configuration file asks for something impossible."""

    exit_code = 2


class CheckFailedError(MaceJaxError):
    """A check that the user asked for found a difference."""

    exit_code = 3


class StoppedError(MaceJaxError):
    """A signal ended a run, which can go on from a checkpoint."""

    exit_code = 75


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return what to do about an unknown name: the nearest of those that are known, or all."""
    known = sorted(names)
    nearest = get_close_matches(name, known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"expected one of {', '.join(known)}"
