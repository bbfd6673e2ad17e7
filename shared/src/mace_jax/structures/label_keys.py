"""Where labels are looked for in a file, and the count of what was found where.

Without a key of the user's own, ``REF_<name>`` wins over ``<name>``, which wins over what a
calculator stored; a missing label stays missing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mace_jax.structures.structure import PROPERTY_SHAPES

CALCULATOR = "calculator"


@dataclass(frozen=True)
class LabelKeys:
    """The keys under which a file has what is wanted.

    Attributes:
        given: the user's own key for some properties, such as ``{"energy": "dft_energy"}``.
        head: key of the name of the head that a frame is for.
        config_type: key of the name of the group of data that a frame belongs to.
        group: key of what structures of one split have in common, which every frame needs then.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    head: str = "head"
    config_type: str = "config_type"
    group: str | None = None

    @cached_property
    def of_labels(self) -> Mapping[str, tuple[str, ...]]:
        """The keys to try for every label, best first."""
        return {name: self.candidates(name) for name in PROPERTY_SHAPES}

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
    """How many structures carry each label, by the key it was read from and by head.

    Attributes:
        n_structures: all of them.
        found: structures by property and the key it was read from.
        seen_keys: structures by the name of anything that might be a label.
        heads: structures by head.
        found_in_head: structures by head and property.
    """

    n_structures: int = 0
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    seen_keys: Counter[str] = field(default_factory=Counter)
    heads: Counter[str] = field(default_factory=Counter)
    found_in_head: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(
        self, head: str, found: Mapping[str, str], seen: Iterable[str], n_structures: int = 1
    ) -> None:
        """Count structures that are alike.

        Args:
            head: what they are for.
            found: property -> the key it was read from.
            seen: names of everything that was there.
            n_structures: how many.
        """
        self.n_structures += n_structures
        self.heads[head] += n_structures
        self.seen_keys.update(dict.fromkeys(seen, n_structures))
        for name, key in found.items():
            self.found[name, key] += n_structures
            self.found_in_head[head, name] += n_structures

    def merge(self, other: "LabelCounts") -> None:
        """Add the counts of other structures, such as those of another file."""
        self.n_structures += other.n_structures
        self.found += other.found
        self.seen_keys += other.seen_keys
        self.heads += other.heads
        self.found_in_head += other.found_in_head

    def total(self, name: str, head: str | None = None) -> int:
        """Return in how many structures, of one head or all, property ``name`` was found."""
        if head is not None:
            return self.found_in_head[head, name]
        return sum(count for (found, _), count in self.found.items() if found == name)

    def summary(self) -> str:
        """Return one line such as ``energy 500/500 (REF_energy), forces 480/500 (REF_forces)``."""
        parts = []
        for name in self._names():
            keys = [
                f"{key} {count}" if count < self.total(name) else key
                for (found, key), count in self.found.items()
                if found == name
            ]
            parts.append(f"{name} {self.total(name)}/{self.n_structures} ({', '.join(keys)})")
        return ", ".join(parts) or f"no labels in {self.n_structures} structures"

    def head_summaries(self) -> dict[str, str]:
        """Return for each head one line such as ``energy 20/20, forces 0/20``."""
        return {
            head: ", ".join(
                f"{name} {self.total(name, head)}/{n_structures}" for name in self._names()
            )
            or f"no labels in {n_structures} structures"
            for head, n_structures in self.heads.items()
        }

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.found))
