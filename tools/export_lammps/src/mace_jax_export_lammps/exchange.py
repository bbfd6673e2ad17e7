"""The exchange of features between the processes of a LAMMPS that offers it.

LAMMPS's ``forward_exchange`` copies the rows of an array from every atom to its ghosts, on
whichever process they are; ``reverse_exchange`` adds up the rows of all ghosts at their atom.
"""

import secrets
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.errors import IncompatibleError

# Whole numbers up to this one are exact in float64, so it can carry them.
_EXACT = 2**53


class GhostExchange:
    """Exchanges rows of LAMMPS's atoms; every process of a simulation makes the same calls.

    Attributes:
        n_local: own atoms of the process.
    """

    def __init__(self, data: Any) -> None:
        """Wrap what LAMMPS hands to ``compute_forces``."""
        self._data = data
        self.n_local, self._n_total = int(data.nlocal), int(data.ntotal)

    def owners(self, token: float) -> NDArray[np.int64]:
        """Return of each atom the own atom that it is or is an image of, else -1, ``[n_total]``.

        Args:
            token: of ``process_token``.
        """
        sent = np.zeros((self._n_total, 2))
        sent[: self.n_local, 0] = token
        sent[: self.n_local, 1] = np.arange(self.n_local)
        received = self.forward(sent)
        own = received[:, 0] == token
        return np.where(own, received[:, 1], -1).astype(np.int64)

    def stands_alone(self, owners: NDArray[np.int64]) -> bool:
        """Return whether no other process needs an atom of this one, nor this one theirs."""
        foreign = (owners < 0).astype(np.float64)[:, None]
        needed_elsewhere = self.reverse(foreign)[: self.n_local]
        return not (foreign.any() or needed_elsewhere.any())

    def forward(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return ``[n_total, width]`` with every ghost's row that of its atom."""
        return self._exchanged(self._data.forward_exchange, rows)

    def reverse(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return ``[n_total, width]`` with the rows of ghosts added to those of their atoms."""
        return self._exchanged(self._data.reverse_exchange, rows)

    def _exchanged(self, exchange: Any, rows: NDArray[Any]) -> NDArray[Any]:
        rows = np.ascontiguousarray(rows)
        result = rows.copy()
        exchange(_pointer(rows), _pointer(result), rows.shape[1])
        return result


class NodeExchange:
    """The exchange as the network needs it: rows of its nodes, which are some of LAMMPS's atoms."""

    def __init__(self, ghosts: GhostExchange, atoms: NDArray[np.integer], n_total: int) -> None:
        """Keep LAMMPS's number of each node, own atoms first."""
        self._ghosts, self._atoms, self._n_total = ghosts, atoms, n_total

    def forward(self, features: NDArray[Any]) -> NDArray[Any]:
        """Return features with the owners' rows for atoms of other processes."""
        own = features[: self._ghosts.n_local]
        rows = np.zeros((self._n_total, features.shape[1]), features.dtype)
        rows[: len(own)] = own
        received = features.copy()
        received[: len(self._atoms)] = self._ghosts.forward(rows)[self._atoms]
        return received

    def reverse(self, cotangents: NDArray[Any]) -> NDArray[Any]:
        """Return cotangents collected at each own atom; 0 elsewhere."""
        rows = np.zeros((self._n_total, cotangents.shape[1]), cotangents.dtype)
        rows[self._atoms] = cotangents[: len(self._atoms)]
        collected = np.zeros_like(cotangents)
        n_local = self._ghosts.n_local
        collected[:n_local] = self._ghosts.reverse(rows)[:n_local]
        return collected


class NoExchange:
    """In place of an exchange where there are no other processes."""

    def forward(self, features: NDArray[Any]) -> NDArray[Any]:
        """Return the features."""
        return features

    def reverse(self, cotangents: NDArray[Any]) -> NDArray[Any]:
        """Return the cotangents."""
        return cotangents


def process_token() -> float:
    """Return a number that no other process of a simulation has, and that is not 0."""
    return float(secrets.randbelow(_EXACT - 1) + 1)


def check_exchange(
    ghosts: GhostExchange, owners: NDArray[np.int64], width: int, dtype: str, source: str
) -> None:
    """Check that LAMMPS exchanges rows as wide as the network's; every process must call this.

    Raises:
        IncompatibleError: a ghost got another row than its atom's, or the sums are wrong.
    """
    n_local, n_total = ghosts.n_local, len(owners)
    columns = np.arange(1, width + 1)
    rows = np.zeros((n_total, width), dtype)
    rows[:n_local] = (np.arange(n_local)[:, None] % 512) + columns % 512
    found = ghosts.forward(rows)
    images = owners >= 0
    right = np.array_equal(found[images], rows[owners[images]])
    foreign = found[~images]
    right &= bool((np.diff(foreign, axis=1) == np.diff(columns % 512)).all())
    ones = np.zeros((n_total, width), dtype)
    ones[n_local:] = 1
    counts = ghosts.reverse(ones)[:n_local]
    single = ghosts.reverse(ones[:, :1].astype(np.float64))[:n_local]
    right &= bool((counts == single).all())
    if not right:
        message = (
            f"{source}: LAMMPS does not exchange {width} numbers an atom between its processes as "
            "it should; use a LAMMPS newer than 15 December 2025"
        )
        raise IncompatibleError(message)


def _pointer(array: NDArray[Any]) -> SimpleNamespace:
    """Return what LAMMPS takes for an array: its type, and its address as CuPy tells it."""
    return SimpleNamespace(dtype=array.dtype, data=SimpleNamespace(ptr=array.ctypes.data))
