"""Progress on stderr: a rich bar with the time left on a terminal, a plain line elsewhere."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mace_jax.tracking import Advance

Item = TypeVar("Item")

log = logging.getLogger(__name__)


def track_on_stderr(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yield ``items`` and show how far they have come; a ``mace_jax.tracking.Track``."""
    if not _is_shown():
        log.info("%s: %d", description, total)
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(
        items, description=description, total=total, console=Console(stderr=True), transient=True
    )


@contextmanager
def show_on_stderr(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show a bar with the time left and a note on a terminal; a ``mace_jax.tracking.Show``."""
    if not _is_shown():
        log.info("%s: %d", description, total - done)
        yield lambda _note: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total, completed=done, note="")
        yield lambda note: progress.update(task, advance=1, note=note)


def _is_shown() -> bool:
    return sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
