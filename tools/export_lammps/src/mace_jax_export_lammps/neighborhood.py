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
        layers: atoms and pairs that each layer sees, or the only ones that all see.
        atoms: LAMMPS's number of each atom that receives messages.
        ends: entry of the list that ends at each pair's receiver, ``[n_pair]``, for the pairs of
            the first layer; those of the others are the first of them.
        starts: entry that ends at its sender, -1 where that is the entry's centre, ``[n_pair]``.
    """

    layers: tuple[DomainPairs, ...]
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
        species=entries.species[atoms],
        n_local=entries.n_local,
        n_receiver=len(atoms),
        senders=centers[once],
        receivers=neighbors[once],
        vectors=vectors[once],
    )
    return Neighborhood((pairs,), atoms, kept[once], np.full(len(pairs.senders), -1))


def halo_neighborhood(
    entries: NeighborEntries, r_max: float, n_layers: int, n_elements: int
) -> Neighborhood:
    """Return what each layer needs for the energies of own atoms, ghosts among themselves included.

    The last layer needs the pairs of own atoms, each one before those of the neighbours in them,
    too. What the first layer is told of an atom is its element: a ghost that is only a neighbour is
    represented by an atom that all ghosts of its element share.

    Args:
        entries: within ``n_layers * r_max`` at least.
        r_max: cutoff of the network, Å.
        n_layers: its layers.
        n_elements: its elements.
    """
    reach = _Reach(entries, r_max)
    shells = [reach.own_pairs()]
    for depth in range(1, n_layers):
        shells.append(reach.pairs_of_shell(depth))
    starts, ends = (np.concatenate(parts) for parts in zip(*shells, strict=True))
    atoms = np.argsort(reach.depths, kind="stable")
    n_atoms = np.searchsorted(reach.depths[atoms], np.arange(n_layers), side="right")
    atoms = atoms[: n_atoms[-1]]
    nodes = len(atoms) + entries.species.astype(np.int64)
    nodes[atoms] = np.arange(len(atoms))
    species = np.concatenate([entries.species[atoms], np.arange(n_elements, dtype=np.int32)])
    senders = nodes[np.where(starts < 0, reach.centers[ends], reach.neighbors[starts])]
    receivers = nodes[reach.neighbors[ends]]
    vectors = reach.vectors[ends] - np.where(starts[:, None] < 0, 0, reach.vectors[starts])
    n_pairs = np.cumsum([len(end) for _, end in shells])

    def layer(n_receiver: int, n_node: int, n_pair: int) -> DomainPairs:
        pairs = (array[:n_pair] for array in (senders, receivers, vectors))
        return DomainPairs(species[:n_node], entries.n_local, n_receiver, *pairs)

    layers = [layer(n_atoms[-1], len(species), n_pairs[-1])]
    for depth in reversed(range(1, n_layers)):
        layers.append(layer(n_atoms[depth], n_atoms[depth], n_pairs[depth - 1]))
    starts = np.where(starts < 0, -1, reach.own[starts])
    return Neighborhood(tuple(layers), atoms, reach.own[ends], starts)


class _Reach:
    """What is seen from own atoms, and from ghosts as the entries of one centre tell.

    Attributes:
        own: entries with an own centre, by centre.
        centers, neighbors, vectors: of these.
        depths: how many neighbours away from an own atom each atom is, ``[n_total]``; of those that
            are further away than has been asked for, many.
    """

    def __init__(self, entries: NeighborEntries, r_max: float) -> None:
        self._r_max = r_max
        own = np.flatnonzero(entries.centers < entries.n_local)
        self.own = own[np.argsort(entries.centers[own], kind="stable")]
        self.centers, self.neighbors = entries.centers[self.own], entries.neighbors[self.own]
        self.vectors = entries.vectors[self.own]
        self._lengths = np.linalg.norm(self.vectors, axis=1)
        self.depths = np.full(len(entries.species), np.iinfo(np.int16).max, np.int16)
        self.depths[: entries.n_local] = 0
        self._ghosts = np.flatnonzero(self.neighbors >= entries.n_local)
        counts = np.bincount(self.centers[self._ghosts], minlength=entries.n_local)
        self._counts, self._first = counts, np.cumsum(counts) - counts
        self._seen: Integers = self._ghosts[:0]  # entries that end at neighbours of the last shell

    def own_pairs(self) -> tuple[Integers, Integers]:
        """Return the pairs of own atoms, as ``starts`` and ``ends`` of a neighbourhood."""
        near = np.flatnonzero(self._lengths < self._r_max)
        near = near[self.centers[near] < self.neighbors[near]]
        self._seen = near[np.argsort(self._lengths[near], kind="stable")]  # nearest centre first
        return np.full(len(near), -1), near

    def pairs_of_shell(self, depth: int) -> tuple[Integers, Integers]:
        """Return the pairs of ghosts that are ``depth`` away, but for those of lesser depths."""
        seen = self._seen[self.depths[self.neighbors[self._seen]] > depth]
        ghosts, first = np.unique(self.neighbors[seen], return_index=True)
        self.depths[ghosts] = depth
        start, end = self._entries_around(seen[first])
        sender, receiver = self.neighbors[start], self.neighbors[end]
        depths = self.depths[receiver]
        outward = (depths > depth) | ((depths == depth) & (sender < receiver))
        start, end = start[outward], end[outward]
        between = self.vectors[end] - self.vectors[start]
        close = np.einsum("ij,ij->i", between, between) < self._r_max**2
        self._seen = end[close]
        return start[close], end[close]

    def _entries_around(self, seen: Integers) -> tuple[Integers, Integers]:
        """Pair each entry with those of its centre that end at a ghost, which may be close."""
        centers = self.centers[seen]
        counts = self._counts[centers]
        start = np.repeat(seen, counts)
        offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        end = self._ghosts[np.repeat(self._first[centers], counts) + offset]
        close = self._lengths[end] - self._lengths[start] < self._r_max
        return start[close], end[close]


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
