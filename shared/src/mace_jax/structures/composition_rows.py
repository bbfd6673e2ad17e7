"""Least squares on (composition, energy) of any number of structures, in constant memory.

Of the rows only a triangular factor R is kept, RᵀR = AᵀA, and renewed block by block from the QR
decomposition of R above the next rows. Unlike the normal equations this does not square the
condition number, and the factors of two parts, stacked, give that of the whole.

Source: Demmel, Grigori, Hoemmen, Langou, SIAM J. Sci. Comput. 34, A206 (2012), sequential TSQR.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.elements import MAX_ATOMIC_NUMBER

Matrix = NDArray[np.float64]

_BLOCK = 1024
# Counts are integers, so what tells two elements apart is never this small beside their number;
# rounding over 10⁸ rows is smaller still.
_RANK_TOLERANCE = 1e-10


@dataclass(frozen=True)
class LeastSquares:
    """E0s that fit total energies best.

    Attributes:
        energies: E0 by atomic number, eV.
        rank: number of independent compositions, at most the number of elements fitted.
        condition: largest over smallest singular value that counts; the E0s are uncertain by about
            this many times the misfit of the energies.
        residual_rms: root mean square of E - ΣE0 over the structures, eV.
        n_structures: with an energy.
        coupled: groups of elements of which only combinations are determined, such as two that
            occur in the same proportion everywhere; theirs are the E0s of least Σ E0².
    """

    energies: Mapping[int, float]
    rank: int
    condition: float
    residual_rms: float
    n_structures: int
    coupled: tuple[tuple[int, ...], ...]


class CompositionRows:
    """Factors of the rows ``[counts, E]`` and ``[1, counts / n, E / n]`` of all structures added.

    Attributes:
        n_rows: structures added.
        elements: atomic numbers that have occurred, ascending: the columns ``counts``.
    """

    def __init__(self) -> None:
        self.n_rows = 0
        self.elements: NDArray[np.int64] = np.zeros(0, np.int64)
        self._total: Matrix = np.zeros((0, 1))
        self._per_atom: Matrix = np.zeros((0, 2))
        self._counts = np.zeros((_BLOCK, MAX_ATOMIC_NUMBER + 1), np.int32)
        self._energies = np.zeros(_BLOCK)
        self._n_waiting = 0

    def add(self, counts: NDArray[np.integer[Any]], energies: NDArray[np.float64]) -> None:
        """Add structures.

        Args:
            counts: atoms of each element, ``[n, 119]``, by atomic number.
            energies: total, eV, ``[n]``.
        """
        self.n_rows += len(energies)
        while len(energies):
            new = slice(self._n_waiting, self._n_waiting + len(energies))
            taken = len(self._energies[new])
            self._counts[new], self._energies[new] = counts[:taken], energies[:taken]
            self._n_waiting += taken
            counts, energies = counts[taken:], energies[taken:]
            if self._n_waiting == _BLOCK:
                self._reduce()

    def merge(self, other: "CompositionRows") -> None:
        """Add all structures of ``other``."""
        self._reduce()
        other._reduce()
        self._widen(other.elements)
        self._total = _factor(self._total, _widened(other._total, other.elements, self.elements))
        self._per_atom = _factor(
            self._per_atom, _widened(other._per_atom, other.elements, self.elements)
        )
        self.n_rows += other.n_rows

    def fit(self, fixed: Mapping[int, float]) -> LeastSquares:
        """Fit the E0s of all elements but the ``fixed`` ones, whose E0s are given.

        Where the compositions leave a choice, the solution of least norm is taken, as in
        mace-torch's ``compute_average_E0s``: the limit of a ridge of vanishing weight, which would
        bend what is determined, too.
        """
        self._reduce()
        is_free = ~np.isin(self.elements, list(fixed))
        given = np.array([fixed[int(number)] for number in self.elements[~is_free]])
        columns, energies = self._total[:, :-1], self._total[:, -1]
        target = energies - columns[:, ~is_free] @ given
        free = columns[:, is_free]
        left, sizes, right = np.linalg.svd(free)
        rank = int((sizes > _RANK_TOLERANCE * sizes.max(initial=0.0)).sum())
        solution = right[:rank].T @ ((left.T[:rank] @ target) / sizes[:rank])
        residual = float(np.linalg.norm(target - free @ solution))
        elements = self.elements[is_free]
        return LeastSquares(
            energies=dict(zip(elements.tolist(), solution.tolist(), strict=True)),
            rank=rank,
            condition=float(sizes[0] / sizes[rank - 1]) if rank else 1.0,
            residual_rms=residual / self.n_rows**0.5 if self.n_rows else 0.0,
            n_structures=self.n_rows,
            coupled=_coupled(right[rank:], elements),
        )

    def squared_deviations(self, atomic_energies: Mapping[int, float]) -> float:
        """Return the sum over structures of ((E - ΣE0) / n - its mean)², eV²."""
        self._reduce()
        weights = [-atomic_energies[int(number)] for number in self.elements]
        # below the first row, that of the column of ones, all columns are free of their means
        return float(np.square(self._per_atom[1:, 1:] @ np.array([*weights, 1.0])).sum())

    def to_json(self) -> dict[str, Any]:
        """Return the factors; floats survive JSON exactly."""
        self._reduce()
        return {
            "n_rows": self.n_rows,
            "elements": self.elements.tolist(),
            "total": self._total.tolist(),
            "per_atom": self._per_atom.tolist(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "CompositionRows":
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: the shape of a factor does not fit the elements.
        """
        rows = cls()
        rows.n_rows = int(document["n_rows"])
        rows.elements = np.array(document["elements"], np.int64)
        n = len(rows.elements)
        rows._total = np.array(document["total"], np.float64).reshape(-1, n + 1)
        rows._per_atom = np.array(document["per_atom"], np.float64).reshape(-1, n + 2)
        return rows

    def _reduce(self) -> None:
        """Work the waiting rows into the factors."""
        if self._n_waiting:
            n, self._n_waiting = self._n_waiting, 0
            self._work_in(self._counts[:n], self._energies[:n, None])

    def _work_in(self, counts: NDArray[np.integer[Any]], energies: Matrix) -> None:
        self._widen(np.flatnonzero(counts.any(axis=0)))
        columns = counts[:, self.elements].astype(np.float64)
        n_atoms = columns.sum(axis=1, keepdims=True)
        self._total = _factor(self._total, np.hstack([columns, energies]))
        rows = np.hstack([n_atoms, columns, energies]) / n_atoms
        self._per_atom = _factor(self._per_atom, rows)

    def _widen(self, elements: NDArray[np.int64]) -> None:
        """Give the factors columns for further elements."""
        union = np.union1d(self.elements, elements)
        self._total = _widened(self._total, self.elements, union)
        self._per_atom = _widened(self._per_atom, self.elements, union)
        self.elements = union


def _factor(*blocks: Matrix) -> Matrix:
    """Return the triangular factor of the blocks' rows."""
    return np.asarray(np.linalg.qr(np.vstack(blocks), mode="r"))


def _widened(factor: Matrix, elements: NDArray[np.int64], union: NDArray[np.int64]) -> Matrix:
    """Put the columns of ``elements`` where they belong among ``union``, zeros in between."""
    n_before = factor.shape[1] - len(elements) - 1
    wide = np.zeros((len(factor), n_before + len(union) + 1))
    places = n_before + np.searchsorted(union, elements)
    wide[:, [*range(n_before), *places, -1]] = factor
    return wide


def _coupled(null_space: Matrix, elements: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """Return the groups of elements that the vectors of a null space tie together."""
    linked = abs(null_space.T @ null_space) > 1e-8
    for _ in range(len(elements).bit_length()):  # each time paths of double length
        linked = linked @ linked
    groups = {tuple(elements[row].tolist()) for row in linked if row.any()}
    return tuple(sorted(groups))
