"""The progress hook: long loops take a ``Track`` and know nothing of terminals."""

from collections.abc import Iterable, Iterator
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
