"""Pairs of neighbours, and the table in which every atom finds its own.

What the fast step asks of a batch, in one place:

- **Pairs.** An edge and its reverse have the same length and opposite vectors, so whatever depends
  on these alone is computed once for both. The vector of a pair runs from its sender to its
  receiver.
- **Rows.** Every atom has rows of ``n_neighbor`` slots, one slot for each edge that it receives;
  an atom with more neighbours has more rows. A sum over neighbours is then a sum over slots, and
  the product of harmonics with messages a batched matrix product: nothing is scattered.
- **Both ways.** A slot knows its pair, and a pair its two slots. So the slots in which an atom is
  the *neighbour* are found from its own, and derivatives are gathered, too.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.errors import IncompatibleError
from mace_jax.structures.neighbor_list import Edges, reverse_edges


class Pairs(NamedTuple):
    """The pairs of one structure, and its edges in terms of them.

    Attributes:
        senders, receivers: int32 ``[n_pair]``.
        shifts: cell vectors crossed, ``[n_pair, 3]``.
        edge_pair: pair of each edge, edges ordered by receiver, ``[n_edge]``.
        edge_direction: 1 where the edge is the pair, -1 where it is its reverse, ``[n_edge]``.
        n_neighbors: edges that each atom receives, ``[n]``.
    """

    senders: NDArray[np.int32]
    receivers: NDArray[np.int32]
    shifts: NDArray[np.int32]
    edge_pair: NDArray[np.int32]
    edge_direction: NDArray[np.int8]
    n_neighbors: NDArray[np.int64]


class NeighborTable(NamedTuple):
    """Where each atom finds its neighbours.

    Attributes:
        row_node: atom of each row, int32 ``[n_row]``, ascending; every atom has one at least.
        slot_pair: pair in each slot, int32 ``[n_row, n_neighbor]``.
        slot_direction: 1 where the row's atom is the pair's receiver, -1 where it is its sender, 0
            in an empty slot, int8 ``[n_row, n_neighbor]``.
        pair_slots: the slots of each pair in the flattened table, that of its receiver first,
            int32 ``[n_pair, 2]``.
    """

    row_node: NDArray[np.int32]
    slot_pair: NDArray[np.int32]
    slot_direction: NDArray[np.int8]
    pair_slots: NDArray[np.int32]


def find_pairs(edges: Edges, n: int) -> Pairs:
    """Join the edges of a structure of ``n`` atoms to pairs."""
    reverse = reverse_edges(edges)
    kept = np.arange(len(reverse)) < reverse
    pair = np.cumsum(kept) - 1
    return Pairs(
        edges.senders[kept],
        edges.receivers[kept],
        edges.shifts[kept],
        np.where(kept, pair, pair[reverse]).astype(np.int32),
        np.where(kept, 1, -1).astype(np.int8),
        np.bincount(edges.receivers, minlength=n),
    )


def n_rows(
    n_neighbors: NDArray[np.integer], n_neighbor: int | NDArray[np.integer]
) -> NDArray[np.int64]:
    """Return the rows that atoms with ``n_neighbors`` need, ``n_neighbor`` slots in each."""
    return np.maximum(-(-n_neighbors // n_neighbor), 1)


def join_pairs(pieces: Sequence[Pairs]) -> Pairs:
    """Number the atoms and pairs of several structures through."""
    n_node = np.array([len(piece.n_neighbors) for piece in pieces])
    n_pair = np.array([len(piece.senders) for piece in pieces])
    first_node, first_pair = (np.cumsum(counts) - counts for counts in (n_node, n_pair))
    joined = Pairs(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))
    return joined._replace(
        senders=joined.senders + np.repeat(first_node, n_pair),
        receivers=joined.receivers + np.repeat(first_node, n_pair),
        edge_pair=joined.edge_pair + np.repeat(first_pair, 2 * n_pair),
    )


def fill_table(pairs: Pairs, caps: Caps) -> NeighborTable:
    """Put the edges of a batch into slots.

    Args:
        pairs: of the batch.
        caps: its padded shape; rows that are left over belong to the last atom.

    Raises:
        IncompatibleError: the atoms need more rows.
    """
    n_neighbors = np.zeros(caps.n_node, np.int64)
    n_neighbors[: len(pairs.n_neighbors)] = pairs.n_neighbors
    rows = n_rows(n_neighbors, caps.n_neighbor)
    if rows.sum() > caps.n_row:
        message = (
            f"a batch needs {rows.sum()} rows of {caps.n_neighbor} neighbours, expected at most "
            f"the plan's {caps.n_row}; plan again with mace-jax-plan-batches"
        )
        raise IncompatibleError(message)
    rows[-1] += caps.n_row - rows.sum()
    first_edge, first_row = (np.cumsum(counts) - counts for counts in (n_neighbors, rows))
    offset = np.repeat(caps.n_neighbor * first_row - first_edge, n_neighbors)
    slots = np.arange(len(pairs.edge_pair)) + offset
    table = NeighborTable(
        np.repeat(np.arange(caps.n_node, dtype=np.int32), rows),
        np.zeros((caps.n_row, caps.n_neighbor), np.int32),
        np.zeros((caps.n_row, caps.n_neighbor), np.int8),
        np.zeros((caps.n_pair, 2), np.int32),
    )
    table.slot_pair.reshape(-1)[slots] = pairs.edge_pair
    table.slot_direction.reshape(-1)[slots] = pairs.edge_direction
    table.pair_slots[pairs.edge_pair, (pairs.edge_direction < 0).astype(int)] = slots
    return table
