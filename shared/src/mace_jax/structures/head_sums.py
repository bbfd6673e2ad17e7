"""What is summed over the training structures of one head: exact, mergeable, of constant size."""

from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.elements import MAX_ATOMIC_NUMBER
from mace_jax.errors import DataError
from mace_jax.structures.composition_rows import CompositionRows, LeastSquares
from mace_jax.structures.exact_sum import ExactSum
from mace_jax.structures.structure_block import StructureBlock

_N_COLUMNS = MAX_ATOMIC_NUMBER + 1


class HeadSums:
    """Sums over structures; those of two parts, merged, are those of the whole.

    Attributes:
        n_structures: added.
        labels: property -> structures that have it.
        n_edges: directed edges.
        n_receivers: atoms with at least one neighbour.
        n_force_components: labelled.
        force_squares: sum of their squares, (eV/Å)².
        rows: compositions and energies of the structures with an energy.
    """

    def __init__(self) -> None:
        self.n_structures = 0
        self.labels: Counter[str] = Counter()
        self.n_edges = 0
        self.n_receivers = 0
        self.rows = CompositionRows()
        self._n_atoms: NDArray[np.int64] = np.zeros(_N_COLUMNS, np.int64)  # by atomic number
        self._n_structures: NDArray[np.int64] = np.zeros(_N_COLUMNS, np.int64)
        self.n_force_components = 0
        self.force_squares = ExactSum()
        self._energy_per_atom = ExactSum()
        self._shares: dict[int, ExactSum] = {}  # of each element among the atoms, energy known

    def add(self, block: StructureBlock, n_neighbors: NDArray[np.integer[Any]]) -> None:
        """Add structures.

        Args:
            block: with the labels they have.
            n_neighbors: edges that each atom receives, ``[sum of n_atoms]``.
        """
        counts = _count_elements(block)
        self.n_structures += len(block)
        self.labels.update({name: int(label.present.sum()) for name, label in block.labels.items()})
        self.n_edges += int(n_neighbors.sum())
        self.n_receivers += int(np.count_nonzero(n_neighbors))
        self._n_atoms += counts.sum(axis=0)
        self._n_structures += (counts > 0).sum(axis=0)
        forces = block.label("forces").values
        self.n_force_components += forces.size
        self.force_squares.add_all(np.square(forces))
        known, energies = block.label("energy")
        counts, n_atoms = counts[known], block.n_atoms[known]
        self.rows.add(counts, energies)
        self._energy_per_atom.add_all(energies / n_atoms)
        for number in np.flatnonzero(counts.any(axis=0)).tolist():
            share = self._shares.setdefault(number, ExactSum())
            share.add_all(counts[:, number] / n_atoms)

    def merge(self, other: "HeadSums") -> None:
        """Add all structures of ``other``."""
        self.n_structures += other.n_structures
        self.labels.update(other.labels)
        self.n_edges += other.n_edges
        self.n_receivers += other.n_receivers
        self.rows.merge(other.rows)
        self._n_atoms += other._n_atoms
        self._n_structures += other._n_structures
        self.n_force_components += other.n_force_components
        self.force_squares.merge(other.force_squares)
        self._energy_per_atom.merge(other._energy_per_atom)
        for number, share in other._shares.items():
            self._shares.setdefault(number, ExactSum()).merge(share)

    @property
    def n_energies(self) -> int:
        """Return the number of structures with an energy."""
        return self.labels["energy"]

    @property
    def elements(self) -> tuple[int, ...]:
        """Return the atomic numbers that occur, ascending."""
        return tuple(self._n_atoms.nonzero()[0].tolist())

    def n_structures_with(self, number: int) -> int:
        """Return how many structures hold an element."""
        return int(self._n_structures[number])

    def average_energies(self, fixed: Mapping[int, float], place: str) -> LeastSquares:
        """Fit the E0s of all elements but the ``fixed`` ones to all energies, float64.

        Raises:
            DataError: no structure has an energy.
        """
        if not self.n_energies:
            message = (
                f"{place}: none of the {self.n_structures} structures has an energy, E0s 'average' "
                "needs some; name the key with --energy_key or give E0s"
            )
            raise DataError(message)
        return self.rows.fit(fixed)

    def interaction_energy(self, atomic_energies: Mapping[int, float]) -> Fraction:
        """Return the sum over structures with an energy of (E - ΣE0) / n, eV, without rounding."""
        return self._energy_per_atom.fraction() - sum(
            Fraction(atomic_energies[number]) * share.fraction()
            for number, share in self._shares.items()
        )

    def squared_deviations(self, atomic_energies: Mapping[int, float], mean: float) -> float:
        """Return the sum over structures with an energy of ((E - ΣE0) / n - mean)², eV²."""
        if not self.n_energies:
            return 0.0
        own_mean = float(self.interaction_energy(atomic_energies) / self.n_energies)
        within = self.rows.squared_deviations(atomic_energies)
        return within + self.n_energies * (own_mean - mean) ** 2

    def to_json(self) -> dict[str, Any]:
        """Return all sums; integers and floats survive JSON exactly."""
        return {
            "n_structures": self.n_structures,
            "labels": dict(sorted(self.labels.items())),
            "n_edges": self.n_edges,
            "n_receivers": self.n_receivers,
            "n_atoms": _by_number(self._n_atoms),
            "n_structures_with": _by_number(self._n_structures),
            "n_force_components": self.n_force_components,
            "force_squares": self.force_squares.to_json(),
            "energy_per_atom": self._energy_per_atom.to_json(),
            "shares": {
                str(number): share.to_json() for number, share in sorted(self._shares.items())
            },
            "rows": self.rows.to_json(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "HeadSums":
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: a factor of ``rows`` has the wrong shape.
        """
        sums = cls()
        sums.n_structures = document["n_structures"]
        sums.labels.update(document["labels"])
        sums.n_edges, sums.n_receivers = document["n_edges"], document["n_receivers"]
        for number, count in document["n_atoms"].items():
            sums._n_atoms[int(number)] = count
        for number, count in document["n_structures_with"].items():
            sums._n_structures[int(number)] = count
        sums.n_force_components = document["n_force_components"]
        sums.force_squares = ExactSum.from_json(document["force_squares"])
        sums._energy_per_atom = ExactSum.from_json(document["energy_per_atom"])
        for number, share in document["shares"].items():
            sums._shares[int(number)] = ExactSum.from_json(share)
        sums.rows = CompositionRows.from_json(document["rows"])
        return sums


def rms_force(parts: Iterable[HeadSums]) -> float | None:
    """Return the root mean square of all force components, eV/Å; None without forces."""
    squares, n = ExactSum(), 0
    for part in parts:
        squares.merge(part.force_squares)
        n += part.n_force_components
    return float((float(squares) / n) ** 0.5) if n else None


def _count_elements(block: StructureBlock) -> NDArray[np.int64]:
    """Return the atoms of each element in each structure, ``[n, 119]``."""
    owners = np.repeat(np.arange(len(block)), block.n_atoms)
    places = owners * _N_COLUMNS + block.atomic_numbers
    return np.bincount(places, minlength=len(block) * _N_COLUMNS).reshape(-1, _N_COLUMNS)


def _by_number(counts: NDArray[np.int64]) -> dict[str, int]:
    return {str(number): int(counts[number]) for number in counts.nonzero()[0]}
