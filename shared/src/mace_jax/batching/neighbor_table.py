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
from mace_jax.structures.neighbor_list import PairList, count_neighbors

_NO_PAIRS = PairList(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 3), np.int32))


class NeighborTable(NamedTuple):
    """Where each atom finds its neighbours.

    Attributes:
        row_node: atom of each row, int32 ``[n_row]``, ascending; every atom has one at least.
        slot_pair: pair in each slot, int32 ``[n_row, n_neighbor]``.
        slot_direction: 1 where the row's atom is the pair's receiver, -1 where it is its sender, 0
            in an empty slot, int8 ``[n_row, n_neighbor]``.
        pair_slots: the slots of each pair in the flattened table, that of its receiver first; the
            last slot of all in place of one that it lacks, int32 ``[n_pair, 2]``.
    """

    row_node: NDArray[np.int32]
    slot_pair: NDArray[np.int32]
    slot_direction: NDArray[np.int8]
    pair_slots: NDArray[np.int32]


def n_rows(
    n_neighbors: NDArray[np.integer], n_neighbor: int | NDArray[np.integer]
) -> NDArray[np.int64]:
    """Return the rows that each atom needs.

    Args:
        n_neighbors: edges that each atom receives, ``[n_node]``.
        n_neighbor: slots of a row, one number or ``[n_node]``.
    """
    return np.maximum(-(-n_neighbors // n_neighbor), 1)


def join_pairs(pieces: Sequence[PairList], n_node: NDArray[np.integer]) -> PairList:
    """Number the atoms of several structures through.

    Args:
        pieces: pairs of each structure.
        n_node: its atoms, ``[n_graph]``.
    """
    n_pair = np.array([len(piece.senders) for piece in pieces], np.int64)
    first_node = np.repeat(np.cumsum(n_node) - n_node, n_pair)
    senders, receivers, shifts = map(np.concatenate, zip(_NO_PAIRS, *pieces, strict=True))
    return PairList(senders + first_node, receivers + first_node, shifts)


def fill_table(pairs: PairList, caps: Caps, n_receiver: int | None = None) -> NeighborTable:
    """Put the edges of a batch into slots: by receiver, then sender, then shift.

    Args:
        pairs: of the batch, in the order of their edges.
        caps: its padded shape; rows that are left over belong to the last atom.
        n_receiver: atoms that receive edges; those after them only send, and their derivatives are
            not asked for. By default all receive.

    Raises:
        IncompatibleError: the atoms need more rows.
    """
    n_neighbors = count_neighbors(pairs, caps.n_node)
    if n_receiver is not None:
        n_neighbors[n_receiver:] = 0
    n_edge = n_neighbors.sum()
    rows = n_rows(n_neighbors, caps.n_neighbor)
    if rows.sum() > caps.n_row:
        message = (
            f"a batch needs {rows.sum()} rows of {caps.n_neighbor} neighbours, expected at most "
            f"the plan's {caps.n_row}; plan again with mace-jax-plan-batches"
        )
        raise IncompatibleError(message)
    rows[-1] += caps.n_row - rows.sum()
    edge_pair, edge_direction = (x[:n_edge] for x in _edges_of_pairs(pairs, caps.n_node))
    first_edge, first_row = (np.cumsum(counts) - counts for counts in (n_neighbors, rows))
    offset = np.repeat(caps.n_neighbor * first_row - first_edge, n_neighbors)
    slots = np.arange(n_edge) + offset
    table = NeighborTable(
        np.repeat(np.arange(caps.n_node, dtype=np.int32), rows),
        np.zeros((caps.n_row, caps.n_neighbor), np.int32),
        np.zeros((caps.n_row, caps.n_neighbor), np.int8),
        np.full((caps.n_pair, 2), caps.n_row * caps.n_neighbor - 1, np.int32),
    )
    table.slot_pair.reshape(-1)[slots] = edge_pair
    table.slot_direction.reshape(-1)[slots] = edge_direction
    table.pair_slots[edge_pair, (edge_direction < 0).astype(np.intp)] = slots
    return table


def _edges_of_pairs(pairs: PairList, n_node: int) -> tuple[NDArray[np.intp], NDArray[np.int8]]:
    """Return pair and direction of each edge, edges in the order of ``neighbor_list``.

    The reverse of a pair has the opposite shift: pairs taken backwards have ascending shifts, too,
    so that a stable sort needs to look at the atoms alone.
    """
    receivers = np.concatenate([pairs.receivers, pairs.senders[::-1]]).astype(np.int64)
    senders = np.concatenate([pairs.senders, pairs.receivers[::-1]])
    order = np.argsort(receivers * n_node + senders, kind="stable")
    n_pair = len(pairs.senders)
    ahead = order < n_pair
    return np.where(ahead, order, 2 * n_pair - 1 - order), np.where(ahead, 1, -1).astype(np.int8)
