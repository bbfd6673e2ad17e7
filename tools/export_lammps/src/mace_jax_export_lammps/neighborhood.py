"""From LAMMPS's lists of atoms and neighbours to the pairs that a network sees.

LAMMPS gives a process the atoms it owns, ghosts (atoms of other processes and periodic images) and,
around each of its own atoms, the vectors to all others within the cutoff. Every pair here has a
vector that is one entry of that list, or the difference of two with the same centre. So the energy
is a function of the list alone, and its derivatives by the entries are the pair forces that LAMMPS
asks for: they give forces and virial exactly.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.batching.domain import DomainPairs
from mace_jax.errors import DataError

Integers = NDArray[np.integer]


class NeighborEntries(NamedTuple):
    """LAMMPS's atoms and neighbour list.

    Attributes:
        species: element of every atom, own ones first, then ghosts, ``[n_total]``.
        n_local: own atoms.
        centers, neighbors: the two atoms of each entry, ``[n_entry]``.
        vectors: x[neighbor] - x[center], Å, ``[n_entry, 3]``.
    """

    species: Integers
    n_local: int
    centers: Integers
    neighbors: Integers
    vectors: NDArray[np.float64]


class Neighborhood(NamedTuple):
    """What a network sees, and where it is from.

    Attributes:
        pairs: atoms and pairs.
        atoms: LAMMPS's number of each atom, ``[n_node]``.
        ends: entry of the list that ends at each pair's receiver, ``[n_pair]``.
        starts: entry that ends at its sender, -1 where that is the entry's centre, ``[n_pair]``.
    """

    pairs: DomainPairs
    atoms: Integers
    ends: Integers
    starts: Integers

    def entry_forces(self, gradient: NDArray[np.float64], n_entry: int) -> NDArray[np.float64]:
        """Return the derivatives by the entries of the list, eV/Å, ``[n_entry, 3]``.

        Args:
            gradient: derivatives by the vectors of pairs, ``[n_pair, 3]``.
            n_entry: length of the list.
        """
        forces = np.empty((n_entry, 3))
        differences = self.starts >= 0
        for axis in range(3):
            along = gradient[:, axis]
            forces[:, axis] = np.bincount(self.ends, along, n_entry) - np.bincount(
                self.starts[differences], along[differences], n_entry
            )
        return forces


def exchanged_neighborhood(
    entries: NeighborEntries, r_max: float, owners: Integers
) -> Neighborhood:
    """Return the pairs of own atoms, where other atoms' features can be asked for.

    Args:
        entries: within ``r_max`` at least.
        r_max: cutoff of the network, Å.
        owners: of each atom, the own atom that it is or is an image of; -1 if another process has
            it, ``[n_total]``.
    """
    close = np.einsum("ij,ij->i", entries.vectors, entries.vectors) < r_max**2
    kept = np.flatnonzero(close & (entries.centers < entries.n_local))
    centers, neighbors = entries.centers[kept], entries.neighbors[kept]
    foreign = np.unique(neighbors[owners[neighbors] < 0])
    nodes = owners.copy()
    nodes[foreign] = entries.n_local + np.arange(len(foreign))
    neighbors = nodes[neighbors]
    # of an entry and its reverse one is kept; an atom and its own image see each other twice
    vectors = entries.vectors[kept]
    first = vectors[np.arange(len(kept)), (vectors != 0).argmax(axis=1)]
    once = (centers < neighbors) | ((centers == neighbors) & (first > 0))
    atoms = np.concatenate([np.arange(entries.n_local), foreign])
    pairs = DomainPairs(
        entries.species[atoms], entries.n_local, centers[once], neighbors[once], vectors[once]
    )
    return Neighborhood(pairs, atoms, kept[once], np.full(len(pairs.senders), -1))


def halo_neighborhood(entries: NeighborEntries, r_max: float, n_layers: int) -> Neighborhood:
    """Return all pairs that energies of own atoms depend on, ghosts among themselves included.

    Args:
        entries: within ``n_layers * r_max`` at least.
        r_max: cutoff of the network, Å.
        n_layers: its layers.
    """
    own = np.flatnonzero(entries.centers < entries.n_local)
    own = own[np.argsort(entries.centers[own], kind="stable")]
    centers, neighbors = entries.centers[own], entries.neighbors[own]
    vectors = entries.vectors[own]
    lengths = np.linalg.norm(vectors, axis=1)
    near = np.flatnonzero(lengths < r_max)
    once = near[centers[near] < neighbors[near]]
    pieces: list[tuple[Integers, Integers]] = [(np.full(len(once), -1), once)]

    reach = _Reach(entries, centers, neighbors)
    frontier: Integers = near[neighbors[near] >= entries.n_local]
    frontier = frontier[np.argsort(lengths[frontier], kind="stable")]  # nearest centre first
    for _ in range(n_layers - 1):
        start, end = reach.entries_around(reach.new_receivers(frontier))
        close = np.linalg.norm(vectors[end] - vectors[start], axis=1) < r_max
        pieces.append((start[close], end[close]))
        frontier = end[close]
    starts = np.concatenate([start for start, _ in pieces])
    ends = np.concatenate([end for _, end in pieces])
    senders = np.where(starts < 0, centers[ends], neighbors[starts])
    receivers = neighbors[ends]
    # a pair of ghosts that are both receivers was found from either
    again = reach.is_receiver[senders] & reach.is_receiver[receivers] & (senders > receivers)
    kept = np.flatnonzero(~again)
    return _numbered(
        entries, own, senders[kept], receivers[kept], ends[kept], starts[kept], vectors
    )


class _Reach:
    """Which ghosts send messages on, and a centre from which each of them is seen."""

    def __init__(self, entries: NeighborEntries, centers: Integers, neighbors: Integers) -> None:
        self.is_receiver = np.zeros(len(entries.species), bool)
        self._centers, self._neighbors = centers, neighbors
        self._ghosts = np.flatnonzero(neighbors >= entries.n_local)
        counts = np.bincount(centers[self._ghosts], minlength=entries.n_local)
        self._counts, self._first = counts, np.cumsum(counts) - counts

    def new_receivers(self, seen: Integers) -> Integers:
        """Return one entry for each ghost of ``seen`` that has not been one before."""
        seen = seen[~self.is_receiver[self._neighbors[seen]]]
        ghosts, first = np.unique(self._neighbors[seen], return_index=True)
        self.is_receiver[ghosts] = True
        return seen[first]

    def entries_around(self, seen: Integers) -> tuple[Integers, Integers]:
        """Pair each entry with all entries of its centre that end at another ghost."""
        centers = self._centers[seen]
        counts = self._counts[centers]
        start = np.repeat(seen, counts)
        offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        end = self._ghosts[np.repeat(self._first[centers], counts) + offset]
        others = end != start
        return start[others], end[others]


def _numbered(
    entries: NeighborEntries,
    own: Integers,
    senders: Integers,
    receivers: Integers,
    ends: Integers,
    starts: Integers,
    vectors: NDArray[np.float64],
) -> Neighborhood:
    """Number the atoms that occur, own ones first, and the entries as LAMMPS does."""
    occurring = np.union1d(senders, receivers)
    ghosts = occurring[occurring >= entries.n_local]
    atoms = np.concatenate([np.arange(entries.n_local), ghosts])
    nodes = np.zeros(len(entries.species), np.int64)
    nodes[atoms] = np.arange(len(atoms))
    differences = vectors[ends] - np.where(starts[:, None] < 0, 0, vectors[starts])
    pairs = DomainPairs(
        entries.species[atoms], entries.n_local, nodes[senders], nodes[receivers], differences
    )
    return Neighborhood(pairs, atoms, own[ends], np.where(starts < 0, -1, own[starts]))


def check_entries(entries: NeighborEntries, source: str) -> None:
    """Check that every atom has an element and no two are at one place.

    Raises:
        DataError: that is not so.
    """
    if (entries.species < 0).any():
        message = (
            f"{source}: {(entries.species < 0).sum()} atoms of a type that pair_coeff maps to "
            "NULL, expected an element of each type; name the elements of all types"
        )
        raise DataError(message)
    if len(entries.vectors) and not entries.vectors.any(axis=1).all():
        index = int((~entries.vectors.any(axis=1)).argmax())
        message = (
            f"{source}: atoms {entries.centers[index]} and {entries.neighbors[index]} of this "
            "process are at the same place; move or remove one"
        )
        raise DataError(message)
