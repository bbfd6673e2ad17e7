"""One part of a larger system as padded arrays: its own atoms, and those of other parts near them.

Programs that share a simulation among processes, such as LAMMPS, give each of them a domain. Of a
domain's neighbours nothing is known but the vectors between atoms.

Where no features come from elsewhere, a layer needs the atoms within as many cutoffs of the own
ones as there are layers after it. So each layer may have pairs of its own: the first of those that
the layer before it has.
"""

from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.batches import Batches
from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.batching.neighbor_table import NeighborTable, fill_table, n_rows
from mace_jax.batching.shape_classes import padded_caps
from mace_jax.structures.neighbor_list import PairList, count_neighbors

Array = Any  # NDArray on the host, jax.Array inside the network

# Neighbors that there is room for, relative to those of the first list and of later ones.
_FIRST_ROOM, _LATER_ROOM = 1.1, 1.3


class DomainPairs(NamedTuple):
    """The atoms of a domain and the pairs that a layer sees.

    Attributes:
        species: index in the model's elements, ``[n_node]``; own atoms come first.
        n_local: own atoms.
        n_receiver: atoms that receive messages; those after them only send, in the first layer.
        senders, receivers: the two atoms of each pair, each pair once, ``[n_pair]``.
        vectors: x[receiver] - x[sender], Å, ``[n_pair, 3]``.
    """

    species: NDArray[np.int32]
    n_local: int
    n_receiver: int
    senders: NDArray[np.integer]
    receivers: NDArray[np.integer]
    vectors: NDArray[np.float64]

    @property
    def n_neighbors(self) -> NDArray[np.int64]:
        """Edges that each atom receives, ``[n_node]``."""
        counts = count_neighbors(_pair_list(self), len(self.species))
        counts[self.n_receiver :] = 0
        return counts


class DomainRoom(NamedTuple):
    """Padded shapes.

    Attributes:
        n_own: own atoms.
        layers: of what each layer sees, or of what all of them see.
    """

    n_own: int
    layers: tuple[Caps, ...]


class Domain(NamedTuple):
    """A padded domain; what a layer of the network sees.

    Attributes:
        species: index in the model's elements, int32 ``[n_node]``.
        own: whether an atom is the domain's own, of those that may be, ``[n_own]``.
        pair_senders, pair_receivers: the two atoms of each pair, int32 ``[n_pair]``.
        pair_mask: whether a pair is real, ``[n_pair]``.
        vectors: of the pairs, Å, ``[n_pair, 3]``; padding ones are longer than the cutoff.
        table: where each atom finds its neighbours.
    """

    species: Array
    own: Array
    pair_senders: Array
    pair_receivers: Array
    pair_mask: Array
    vectors: Array
    table: NeighborTable


def pad_domain(
    layers: Sequence[DomainPairs], room: DomainRoom, r_max: float, dtype: str
) -> tuple[Domain, ...]:
    """Return a domain padded to ``room``, which must suffice, as each layer sees it.

    Args:
        layers: atoms and pairs of each layer, or of all.
        room: of ``domain_room``.
        r_max: cutoff, Å.
        dtype: of the vectors.
    """
    own = np.arange(room.n_own) < layers[0].n_local
    return tuple(
        _padded(pairs, caps, own, r_max, dtype)
        for pairs, caps in zip(layers, room.layers, strict=True)
    )


def _padded(
    pairs: DomainPairs, caps: Caps, own: NDArray[np.bool_], r_max: float, dtype: str
) -> Domain:
    n_node, n_pair = len(pairs.species), len(pairs.senders)
    species = np.zeros(caps.n_node, np.int32)
    species[:n_node] = pairs.species
    ends = np.full((2, caps.n_pair), caps.n_node - 1, np.int32)
    ends[:, :n_pair] = pairs.senders, pairs.receivers
    vectors = np.full((caps.n_pair, 3), 2 * r_max, dtype)
    vectors[:n_pair] = pairs.vectors
    return Domain(
        species=species,
        own=own,
        pair_senders=ends[0],
        pair_receivers=ends[1],
        pair_mask=np.arange(caps.n_pair) < n_pair,
        vectors=vectors,
        table=fill_table(_pair_list(pairs), caps, pairs.n_receiver),
    )


def domain_room(layers: Sequence[DomainPairs], last: DomainRoom | None) -> DomainRoom:
    """Return padded shapes for a domain, with room for more neighbours.

    Args:
        layers: atoms and pairs of each layer, or of all.
        last: what domains before it had; kept if this one fits, and else made larger.
    """
    if last is not None and _fits(layers, last):
        return last
    room = _FIRST_ROOM if last is None else _LATER_ROOM
    caps = tuple(_caps(pairs, room, atoms_may_come=last is not None) for pairs in layers)
    n_own = min(_more(layers[0].n_local, room), caps[-1].n_node)
    if last is None:
        return DomainRoom(n_own, caps)
    largest = [
        Caps(*map(max, astuple(new), astuple(old)))
        for new, old in zip(caps, last.layers, strict=True)
    ]
    return DomainRoom(max(n_own, last.n_own), tuple(largest))


def _caps(pairs: DomainPairs, room: float, *, atoms_may_come: bool) -> Caps:
    neighbors = pairs.n_neighbors
    expected = np.ceil(room * neighbors).astype(np.int64)
    if len(neighbors) > pairs.n_local or atoms_may_come:
        n_more = _more(len(neighbors), room) - len(neighbors)
        expected = np.append(expected, np.full(n_more, int(np.ceil(expected.mean()))))
    caps = padded_caps(GraphSizes.from_lists([expected]), Batches.from_lists([[0]]))
    # two edges to a pair, be they received or not
    n_edge = -(-caps.n_edge * 2 * len(pairs.senders) // max(int(neighbors.sum()), 1))
    return replace(caps, n_edge=max(caps.n_edge, n_edge))


def _more(n: int, room: float) -> int:
    """Return how many atoms to expect where some come and go."""
    return int(room * n + 2 * n**0.5)


def _fits(layers: Sequence[DomainPairs], room: DomainRoom) -> bool:
    return layers[0].n_local <= room.n_own and all(
        _layer_fits(pairs, caps) for pairs, caps in zip(layers, room.layers, strict=True)
    )


def _layer_fits(pairs: DomainPairs, caps: Caps) -> bool:
    neighbors = pairs.n_neighbors
    n_padding = caps.n_node - len(neighbors)  # each has a row, too
    rows = n_rows(neighbors, caps.n_neighbor).sum() + n_padding
    return bool(n_padding > 0 and rows <= caps.n_row and len(pairs.senders) <= caps.n_pair)


def _pair_list(pairs: DomainPairs) -> PairList:
    """Return the pairs as the neighbor table wants them; it does not look at shifts."""
    return PairList(
        pairs.senders.astype(np.int32), pairs.receivers.astype(np.int32), np.zeros((0, 3), np.int32)
    )
