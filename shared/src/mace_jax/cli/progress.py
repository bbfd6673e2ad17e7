"""Progress on stderr: a rich bar with the time left on a terminal, a plain line elsewhere."""

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

log = logging.getLogger(__name__)


def track_on_stderr(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yield ``items`` and show how far they have come; a ``mace_jax.tracking.Track``."""
    if not (sys.stderr.isatty() and log.isEnabledFor(logging.INFO)):
        log.info("%s: %d", description, total)
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(
        items, description=description, total=total, console=Console(stderr=True), transient=True
    )
