"""Where labels are looked for in a file, and the count of what was found where.

Without a key of the user's own, ``REF_<name>`` wins over ``<name>``, which wins over what a
calculator stored; a missing label stays missing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

CALCULATOR = "calculator"


@dataclass(frozen=True)
class LabelKeys:
    """The user's own key for some properties, such as ``{"energy": "dft_energy"}``."""

    given: Mapping[str, str] = field(default_factory=dict)

    def candidates(self, name: str) -> tuple[str, ...]:
        """Return the keys to try for property ``name``, best first."""
        return (self.given[name],) if name in self.given else (f"REF_{name}", name)


def find_label(
    name: str, keys: LabelKeys, sources: Iterable[Mapping[str, Any]], calculated: Mapping[str, Any]
) -> tuple[str, Any] | None:
    """Return ``(key, value)`` of the first label found, or None.

    Args:
        name: property, such as ``"energy"``.
        keys: which keys to try.
        sources: the frame's own dictionaries (per frame and per atom).
        calculated: results a calculator left; tried last, and only without a key of the user's own.
    """
    for key in keys.candidates(name):
        for source in sources:
            if key in source:
                return key, source[key]
    if name not in keys.given and name in calculated:
        return CALCULATOR, calculated[name]
    return None


@dataclass
class LabelCounts:
    """How many structures carry each label, by the key it was read from."""

    n_structures: int = 0
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    seen_keys: Counter[str] = field(default_factory=Counter)

    def total(self, name: str) -> int:
        """Return in how many structures property ``name`` was found."""
        return sum(count for (found, _), count in self.found.items() if found == name)

    def summary(self) -> str:
        """Return one line such as ``energy 500/500 (REF_energy), forces 480/500 (REF_forces)``."""
        parts = []
        for name in dict.fromkeys(name for name, _ in self.found):
            keys = [
                f"{key} {count}" if count < self.total(name) else key
                for (found, key), count in self.found.items()
                if found == name
            ]
            parts.append(f"{name} {self.total(name)}/{self.n_structures} ({', '.join(keys)})")
        return ", ".join(parts) or f"no labels in {self.n_structures} structures"
