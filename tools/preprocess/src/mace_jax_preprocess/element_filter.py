"""Which structures may be chosen, by their elements."""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Literal

from mace_jax.elements import symbol

FilteringType = Literal["none", "combinations", "exclusive", "inclusive"]


@dataclass(frozen=True)
class ElementFilter:
    """A rule of ``mace_finetune_select``'s names and meanings.

    Attributes:
        kind: ``combinations``: no element but these; ``exclusive``: exactly these; ``inclusive``:
            all of these at least; ``none``: any structure.
        elements: atomic numbers.
    """

    kind: FilteringType = "none"
    elements: frozenset[int] = frozenset()

    def passes(self, elements: Set[int]) -> bool:
        """Return whether a structure of just these elements may be chosen."""
        match self.kind:
            case "combinations":
                return elements <= self.elements
            case "exclusive":
                return elements == self.elements
            case "inclusive":
                return elements >= self.elements
        return True

    def __str__(self) -> str:
        """Return what a structure must be like, for messages."""
        meaning = {
            "none": "any elements",
            "combinations": "no elements but {}",
            "exclusive": "exactly the elements {}",
            "inclusive": "at least the elements {}",
        }
        return meaning[self.kind].format(symbols(self.elements))


def symbols(elements: Iterable[int]) -> str:
    """Return the symbols of elements, ascending, for messages."""
    return ", ".join(map(symbol, sorted(elements)))
