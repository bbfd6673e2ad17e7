"""One part of a larger system as padded arrays: its own atoms, and those of other parts near them.

Programs that share a simulation among processes, such as LAMMPS, give each of them a domain. Of a
domain's neighbours nothing is known but the vectors between atoms.
"""

from dataclasses import astuple
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
    """The atoms of a domain and the pairs that their energies depend on.

    Attributes:
        species: index in the model's elements, ``[n_node]``; own atoms come first.
        n_local: own atoms.
        senders, receivers: the two atoms of each pair, each pair once, ``[n_pair]``.
        vectors: x[receiver] - x[sender], Å, ``[n_pair, 3]``.
    """

    species: NDArray[np.int32]
    n_local: int
    senders: NDArray[np.integer]
    receivers: NDArray[np.integer]
    vectors: NDArray[np.float64]

    @property
    def n_neighbors(self) -> NDArray[np.int64]:
        """Pairs that each atom is in, ``[n_node]``."""
        return count_neighbors(_pair_list(self), len(self.species))


class Domain(NamedTuple):
    """A padded domain; what the network sees.

    Attributes:
        species: index in the model's elements, int32 ``[n_node]``.
        local: whether an atom is the domain's own, ``[n_node]``.
        pair_senders, pair_receivers: the two atoms of each pair, int32 ``[n_pair]``.
        pair_mask: whether a pair is real, ``[n_pair]``.
        vectors: of the pairs, Å, ``[n_pair, 3]``; padding ones are longer than the cutoff.
        table: where each atom finds its neighbours.
    """

    species: Array
    local: Array
    pair_senders: Array
    pair_receivers: Array
    pair_mask: Array
    vectors: Array
    table: NeighborTable


def pad_domain(pairs: DomainPairs, caps: Caps, r_max: float, dtype: str) -> Domain:
    """Return a domain padded to ``caps``, which must have room for it.

    Args:
        pairs: atoms and pairs.
        caps: of ``domain_room``.
        r_max: cutoff, Å.
        dtype: of the vectors.
    """
    n_node, n_pair = len(pairs.species), len(pairs.senders)
    species = np.zeros(caps.n_node, np.int32)
    species[:n_node] = pairs.species
    ends = np.full((2, caps.n_pair), caps.n_node - 1, np.int32)
    ends[:, :n_pair] = pairs.senders, pairs.receivers
    vectors = np.full((caps.n_pair, 3), 2 * r_max, dtype)
    vectors[:n_pair] = pairs.vectors
    return Domain(
        species=species,
        local=np.arange(caps.n_node) < pairs.n_local,
        pair_senders=ends[0],
        pair_receivers=ends[1],
        pair_mask=np.arange(caps.n_pair) < n_pair,
        vectors=vectors,
        table=fill_table(_pair_list(pairs), caps),
    )


def domain_room(pairs: DomainPairs, last: Caps | None) -> Caps:
    """Return the padded shape for a domain, with room for more neighbours.

    Args:
        pairs: atoms and pairs.
        last: what domains before it had; kept if this one fits, and else made larger.
    """
    neighbors = pairs.n_neighbors
    if last is not None and _fits(neighbors, last):
        return last
    room = _FIRST_ROOM if last is None else _LATER_ROOM
    expected = np.ceil(room * neighbors).astype(np.int64)
    if len(neighbors) > pairs.n_local or last is not None:  # atoms come and go
        n_more = int((room - 1) * len(neighbors) + 2 * len(neighbors) ** 0.5)
        expected = np.append(expected, np.full(n_more, int(np.ceil(expected.mean()))))
    caps = padded_caps(GraphSizes.from_lists([expected]), Batches.from_lists([[0]]))
    return caps if last is None else Caps(*map(max, astuple(caps), astuple(last)))


def _fits(neighbors: NDArray[np.integer], caps: Caps) -> bool:
    n_padding = caps.n_node - len(neighbors)  # each has a row, too
    rows = n_rows(neighbors, caps.n_neighbor).sum() + n_padding
    return bool(n_padding > 0 and rows <= caps.n_row and neighbors.sum() <= 2 * caps.n_pair)


def _pair_list(pairs: DomainPairs) -> PairList:
    """Return the pairs as the neighbor table wants them; it does not look at shifts."""
    return PairList(
        pairs.senders.astype(np.int32), pairs.receivers.astype(np.int32), np.zeros((0, 3), np.int32)
    )
