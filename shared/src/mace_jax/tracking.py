"""Progress hooks: long loops take a ``Track`` or a ``Show`` and know nothing of terminals."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Track(Protocol):
    """Wraps an iterable and shows how far it has come."""

    def __call__(self, items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
        """Yield ``items`` unchanged.

        Args:
            items: what is looped over.
            description: what is being done, such as ``"counting edges"``.
            total: how many items there are.
        """
        ...


def track_silently(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yield ``items`` and show nothing."""
    del description, total
    yield from items


# Says that one more item is done, and what else there is to know.
Advance = Callable[[str], None]


class Show(Protocol):
    """Shows how far something has come that is no simple loop."""

    def __call__(
        self, description: str, total: int, done: int = 0
    ) -> AbstractContextManager[Advance]:
        """Return a context within which the progress is shown.

        Args:
            description: what is being done, such as ``"training"``.
            total: how many items there are.
            done: how many of them were done before.
        """
        ...


@contextmanager
def show_nothing(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show nothing."""
    del description, total, done
    yield lambda _note: None
