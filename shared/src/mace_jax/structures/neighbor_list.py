"""Neighbour lists: the directed edges of the graph that MACE sees."""

import sys
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.errors import DataError
from mace_jax.structures.structure import Structure, check_cell

SAME_PLACE = 1e-6  # Å; atoms nearer than this are one too many


class Edges(NamedTuple):
    """Directed edges, ordered by receiver.

    The vector of an edge is ``positions[receiver] - positions[sender] + shift @ cell``.

    Attributes:
        senders, receivers: int32 ``[n_edge]``.
        shifts: int32 ``[n_edge, 3]``, cell vectors crossed.
    """

    senders: NDArray[np.int32]
    receivers: NDArray[np.int32]
    shifts: NDArray[np.int32]


def reverse_edges(edges: Edges) -> NDArray[np.int64]:
    """Return the index of each edge's reverse: the same two atoms, seen from the other one.

    Raises:
        ValueError: an edge has none; no list of this module is like that.
    """
    senders, receivers, shifts = edges
    reverse = np.empty(len(senders), np.int64)
    in_order = np.lexsort((*shifts.T, senders, receivers))
    reverse[np.lexsort((*-shifts.T, receivers, senders))] = in_order
    if not (
        np.array_equal(senders[reverse], receivers)
        and np.array_equal(receivers[reverse], senders)
        and np.array_equal(shifts[reverse], -shifts)
    ):
        message = "edges without a reverse, expected both directions of every pair"
        raise ValueError(message)
    return reverse


class PairList(NamedTuple):
    """Every pair of neighbours once: of an edge and its reverse the one that is first in ``Edges``.

    Attributes:
        senders, receivers: int32 ``[n_pair]``.
        shifts: int32 ``[n_pair, 3]``, cell vectors crossed.
    """

    senders: NDArray[np.int32]
    receivers: NDArray[np.int32]
    shifts: NDArray[np.int32]


def pair_list(edges: Edges) -> PairList:
    """Return every pair once, in the order of ``edges``."""
    reverse = reverse_edges(edges)
    first = np.arange(len(reverse)) < reverse
    return PairList(*(array[first] for array in edges))


def count_neighbors(pairs: PairList, n: int) -> NDArray[np.int64]:
    """Return the edges that each of ``n`` atoms receives, ``[n]``."""
    return np.bincount(np.concatenate([pairs.receivers, pairs.senders]), minlength=n)


def neighbor_list(structure: Structure, r_max: float) -> Edges:
    """Return all pairs closer than ``r_max`` Å, both directions, periodic images included.

    Raises:
        DataError: two atoms sit at the same place, or the periodic cell vectors are dependent.
    """
    return Edges(*_ordered(*_search(structure, r_max, both_directions=True)))


def neighbor_pairs(structure: Structure, r_max: float) -> PairList:
    """Return ``pair_list(neighbor_list(structure, r_max))``, at half the cost.

    Raises:
        DataError: as ``neighbor_list``.
    """
    receivers, senders, shifts = _search(structure, r_max, both_directions=False)
    first = shifts[np.arange(len(shifts)), (shifts != 0).argmax(axis=1)]  # of an atom and its image
    reversed_ = (receivers > senders) | ((receivers == senders) & (first > 0))
    return PairList(
        *_ordered(
            np.where(reversed_, senders, receivers),
            np.where(reversed_, receivers, senders),
            np.where(reversed_[:, None], -shifts, shifts),
        )
    )


def _ordered(
    receivers: NDArray[np.integer[Any]],
    senders: NDArray[np.integer[Any]],
    shifts: NDArray[np.integer[Any]],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Return senders, receivers and shifts by receiver, sender and shift."""
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], senders, receivers))
    # vesin's shift takes the first atom's vector to the second; ours ends at the receiver
    return (
        senders[order].astype(np.int32),
        receivers[order].astype(np.int32),
        -shifts[order].astype(np.int32),
    )


def _search(
    structure: Structure, r_max: float, *, both_directions: bool
) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
    """Return vesin's atoms i and j and shifts, each pair once or in both directions."""
    check_cell(structure)
    place = structure.place
    points, box, periodic = _search_box(structure, r_max)
    try:
        search = _neighbor_list_class()(cutoff=r_max, full_list=both_directions)
        receivers, senders, shifts, distances = search.compute(
            points=points, box=box, periodic=periodic, quantities="ijSd"
        )
    except RuntimeError as error:
        message = f"{place}: {error}; correct the lattice or pbc"
        raise DataError(message) from error
    if distances.size and distances.min() < SAME_PLACE:
        pair = int(distances.argmin())
        message = (
            f"{place}: atoms {senders[pair]} and {receivers[pair]} are at the same place; "
            "remove one or the structure"
        )
        raise DataError(message)
    return receivers, senders, shifts


def _search_box(
    structure: Structure, r_max: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Return points, box and whether all of it is periodic, with the pairs of ``structure``.

    Of a slab or wire vesin's search takes seconds, or ends the process, where it is open and long;
    so it sees a periodic box with r_max of vacuum.
    """
    cell, pbc = structure.cell, structure.pbc
    if pbc.all():
        return structure.positions, cell, True
    n_periodic = int(pbc.sum())
    open_directions = np.linalg.qr(cell[pbc].T, mode="complete")[0].T[n_periodic:]
    points = _close_gaps(structure.positions, open_directions, r_max)
    if n_periodic == 0:
        return points, cell, False
    box = cell.copy()
    extent = np.ptp(points @ open_directions.T, axis=0)
    box[~pbc] = open_directions * (extent + r_max + 1)[:, None]
    return points, box, True


def _close_gaps(
    positions: NDArray[np.float64], directions: NDArray[np.float64], r_max: float
) -> NDArray[np.float64]:
    """Move groups of atoms that no pair connects to 2 ``r_max`` of each other."""
    for direction in directions:
        along = positions @ direction
        if np.ptp(along) > 20 * r_max:
            order = np.argsort(along)
            excess = np.maximum(np.diff(along[order]) - 2 * r_max, 0)
            moved = np.zeros(len(along))
            moved[order[1:]] = np.cumsum(excess)
            positions = positions - moved[:, None] * direction
    return positions


@cache
def _neighbor_list_class() -> Any:
    """Return vesin's ``NeighborList``, imported as if torch and cupy were not installed.

    vesin imports them for tensors of theirs, which costs seconds and 170 MB. Whoever imports vesin
    after this gets it with both.
    """
    fresh = "vesin" not in sys.modules
    hidden = {"torch", "cupy"} - sys.modules.keys() if fresh else set()
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
    try:
        from vesin import NeighborList
    finally:
        for name in hidden:
            del sys.modules[name]
        for name in [name for name in sys.modules if fresh and name.partition(".")[0] == "vesin"]:
            del sys.modules[name]
    return NeighborList
