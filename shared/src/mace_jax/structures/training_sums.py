"""Sums over a training set, from which its statistics and average E0s follow, all in float64.

A set may be cut into parts that are summed anywhere and merged: the result is that of one pass.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.errors import DataError, IncompatibleError
from mace_jax.structures.atomic_energies import require_atomic_energies
from mace_jax.structures.block_neighbors import block_pairs
from mace_jax.structures.head_sums import HeadSums, rms_force
from mace_jax.structures.isolated_atoms import IsolatedAtoms
from mace_jax.structures.statistics import HeadStatistics, Statistics
from mace_jax.structures.structure import Structure
from mace_jax.structures.structure_block import StructureBlock, blocks_of


class TrainingSums:
    """Sums over a training set: add structures, merge parts, then ask for the statistics.

    Attributes:
        r_max: cutoff of the neighbours that are counted, Å.
        heads: sums by head.
        isolated_atoms: E0s of frames that are no training data.
    """

    def __init__(self, r_max: float) -> None:
        self.r_max = r_max
        self.heads: dict[str, HeadSums] = {}
        self.isolated_atoms = IsolatedAtoms()

    def add(self, structure: Structure, n_neighbors: NDArray[np.integer[Any]]) -> None:
        """Add a training structure; arguments as of ``add_block``."""
        self.add_block(StructureBlock.of([structure]), n_neighbors)

    def add_block(self, block: StructureBlock, n_neighbors: NDArray[np.integer[Any]]) -> None:
        """Add training structures.

        Args:
            block: with the labels they have; isolated atoms are given to ``isolated_atoms``
                instead.
            n_neighbors: edges that each atom receives at ``r_max``, ``[sum of n_atoms]``.
        """
        heads = np.array(block.heads)
        for head in dict.fromkeys(block.heads):
            of_head = np.flatnonzero(heads == head)
            part, counts = block, n_neighbors
            if len(of_head) < len(block):
                part = block.take(of_head)
                counts = n_neighbors[np.repeat(heads == head, block.n_atoms)]
            self.heads.setdefault(head, HeadSums()).add(part, counts)

    def merge(self, other: "TrainingSums") -> None:
        """Add all structures of ``other``.

        Raises:
            IncompatibleError: its neighbours were counted at another cutoff.
            DataError: the isolated atoms disagree.
        """
        if other.r_max != self.r_max:
            message = (
                f"sums: r_max {other.r_max} Å, expected {self.r_max} Å; "
                "make all parts with the same --r_max"
            )
            raise IncompatibleError(message)
        self.isolated_atoms.merge(other.isolated_atoms)
        for head, sums in other.heads.items():
            self.heads.setdefault(head, HeadSums()).merge(sums)

    @property
    def avg_num_neighbors(self) -> float:
        """Return the mean neighbours of the atoms that have any.

        Raises:
            DataError: no two atoms are closer than ``r_max``, so that there is nothing to learn.
        """
        n_edges = sum(sums.n_edges for sums in self.heads.values())
        if not n_edges:
            message = (
                f"no two atoms are closer than r_max {self.r_max} Å; "
                "raise --r_max or check the units"
            )
            raise DataError(message)
        return n_edges / sum(sums.n_receivers for sums in self.heads.values())

    def statistics(
        self, atomic_numbers: tuple[int, ...], atomic_energies: Mapping[str, Mapping[int, float]]
    ) -> Statistics:
        """Return the statistics; missing labels are left out, not taken as zero.

        Without labelled forces, or where all are zero, ``std`` is 1, and without energies ``mean``
        is 0: no scaling, no shift.

        Args:
            atomic_numbers: elements of the model, ascending.
            atomic_energies: head -> atomic number -> E0, eV.

        Raises:
            DataError: as ``avg_num_neighbors``, or an element of a head has no E0.
        """
        avg_num_neighbors = self.avg_num_neighbors
        parts = {
            head: (sums, _energies_of(head, sums, atomic_energies))
            for head, sums in sorted(self.heads.items())
        }
        pooled = _pooled(list(parts.values()))
        return Statistics(
            atomic_numbers=atomic_numbers,
            atomic_energies=pooled.atomic_energies,
            avg_num_neighbors=avg_num_neighbors,
            mean=pooled.mean,
            std=pooled.std,
            r_max=self.r_max,
            energy_std=pooled.energy_std,
            heads={head: _pooled([part]) for head, part in parts.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return all sums, to be merged elsewhere."""
        return {
            "r_max": self.r_max,
            "isolated_atoms": self.isolated_atoms.to_json(),
            "heads": {head: sums.to_json() for head, sums in sorted(self.heads.items())},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "TrainingSums":
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: sums whose parts do not fit together.
        """
        sums = cls(float(document["r_max"]))
        sums.isolated_atoms = IsolatedAtoms.from_json(document["isolated_atoms"])
        sums.heads = {head: HeadSums.from_json(part) for head, part in document["heads"].items()}
        return sums


def _energies_of(
    head: str, sums: HeadSums, atomic_energies: Mapping[str, Mapping[int, float]]
) -> Mapping[int, float]:
    energies = atomic_energies.get(head, {})
    require_atomic_energies(energies, sums.elements, f"head {head!r}")
    return energies


def _pooled(parts: Sequence[tuple[HeadSums, Mapping[int, float]]]) -> HeadStatistics:
    """Return the statistics of structures of several heads, each relative to its head's E0s."""
    n = sum(sums.n_energies for sums, _ in parts)
    mean = sum((sums.interaction_energy(energies) for sums, energies in parts), Fraction(0))
    mean = mean / n if n else mean
    squares = sum(sums.squared_deviations(energies, float(mean)) for sums, energies in parts)
    common = parts[0][1]
    return HeadStatistics(
        atomic_energies=dict(common) if all(common == energies for _, energies in parts) else {},
        mean=float(mean),
        std=rms_force([sums for sums, _ in parts]) or 1.0,
        energy_std=(squares / (n - 1)) ** 0.5 if n > 1 else None,
    )


def sum_structures(structures: Iterable[Structure], r_max: float) -> TrainingSums:
    """Return the sums over ``structures``, neighbours within ``r_max`` Å."""
    sums = TrainingSums(r_max)
    for block in blocks_of(structures):
        sums.add_block(block, block_pairs(block, r_max).count_neighbors(block.n_atoms))
    return sums


def compute_statistics(
    structures: Iterable[Structure],
    atomic_numbers: tuple[int, ...],
    atomic_energies: Mapping[int, float],
    r_max: float,
) -> Statistics:
    """Compute the statistics of a training set in memory, with the same E0s for all heads.

    Raises:
        DataError: as ``TrainingSums.statistics``.
    """
    sums = sum_structures(structures, r_max)
    return sums.statistics(atomic_numbers, dict.fromkeys(sums.heads, atomic_energies))
