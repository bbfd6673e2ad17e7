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

    def write(self, path: Path) -> None:
        """Write the list, if there is anything in it."""
        if self.messages:
            write_bytes(path, "".join(f"{message}\n" for message in self.messages).encode())
