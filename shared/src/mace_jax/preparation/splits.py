"""Which split a structure is for, decided for each by itself."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from mace_jax.structures.structure import Structure, structure_digest

SplitName = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Fractions:
    """Shares of the training data that become validation and test data."""

    valid: float
    test: float = 0.0

    def split_at(self, place: float) -> SplitName:
        """Return the split of a structure at ``place`` in [0, 1)."""
        if place < self.valid:
            return "valid"
        return "test" if place < self.valid + self.test else "train"


@dataclass(frozen=True)
class ByGeometry:
    """Divides by a digest of the geometry: a structure stays where it is when data is added.

    Equal geometries are always in the same split.
    """

    fractions: Fractions

    def __call__(self, structure: Structure) -> SplitName:
        """Return the split of a structure."""
        return self.fractions.split_at(_place(structure_digest(structure)))


@dataclass(frozen=True)
class ByGroup:
    """Divides by a digest of the structure's group, all of which is in the same split."""

    fractions: Fractions

    def __call__(self, structure: Structure) -> SplitName:
        """Return the split of a structure."""
        return self.fractions.split_at(
            _place(hashlib.blake2b(structure.group.encode()).hexdigest())
        )


def _place(digest: str) -> float:
    """Return a number in [0, 1), as even as the digests are."""
    return int(digest[:13], 16) / 16**13
