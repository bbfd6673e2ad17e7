"""The worst few of what may be millions of places."""

import heapq

_N_PLACES = 10


class Worst:
    """Counts places and keeps those with the largest values.

    Attributes:
        count: places added.
    """

    def __init__(self) -> None:
        self.count = 0
        self._heap: list[tuple[float, int, str]] = []

    def add(self, value: float, place: str) -> None:
        """Add a place; of equal values the earlier one is kept."""
        self.count += 1
        entry = (value, -self.count, place)
        if len(self._heap) < _N_PLACES:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def places(self) -> tuple[str, ...]:
        """Return the places kept, worst first."""
        return tuple(place for _, _, place in sorted(self._heap, reverse=True))
