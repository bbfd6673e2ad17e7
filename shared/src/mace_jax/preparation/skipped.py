"""Frames that were passed over because they are wrong, up to the number that the user allows."""

import logging
from pathlib import Path

from mace_jax.artifacts.atomic_write import write_bytes
from mace_jax.errors import DataError

log = logging.getLogger(__name__)


class Skipped:
    """Counts bad frames, says each, and gives up at one too many.

    Attributes:
        messages: what was wrong with each.
    """

    def __init__(self, limit: int) -> None:
        """Allow ``limit`` of them."""
        self.limit = limit
        self.messages: list[str] = []

    def add(self, error: DataError) -> None:
        """Pass over a frame.

        Raises:
            DataError: as many have been passed over as are allowed.
        """
        if len(self.messages) == self.limit:
            if self.limit:
                message = (
                    f"{error}; {self.limit} frames have been passed over, as --skip-bad allows"
                )
                raise DataError(message) from error
            raise error
        self.messages.append(str(error))
        log.warning("passed over: %s", error)

    def require_none(self) -> None:
        """Check that nothing was passed over, where nothing is left.

        Raises:
            DataError: something was; says what was wrong with the first.
        """
        if self.messages:
            message = f"{self.messages[0]}; it is passed over, but no structure is left to train on"
            raise DataError(message)

    def write(self, path: Path) -> None:
        """Write the list, if there is anything in it."""
        if self.messages:
            write_bytes(path, "".join(f"{message}\n" for message in self.messages).encode())
