"""Padded shapes: the smallest that hold given batches, and which batches should share one.

The cost of a shape is counted in edges: a node costs as much as ``NODE_COST`` of them. All batches
of a shape cost the same, so the cost of a plan is that of each shape times its batches.
"""

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.batches import Batches
from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.batching.neighbor_table import n_rows

# Edges that cost as much as a node does: by XLA's count of operations, of training steps of batches
# with 14 and with 39 neighbours an atom.
NODE_COST = 7
# Share of the cost that one more shape must save to be worth compiling.
_WORTH = 0.01
# Batches between which shapes may change: the largest ones, and as many among the others.
_CANDIDATES = 256

# A row costs about as much as this many slots, and several rows an atom a sum more.
_ROW_COST = 2
_ONE_ROW_BONUS = 0.2


def padded_caps(sizes: GraphSizes, batches: Batches) -> Caps:
    """Return the smallest shape that holds every batch and leaves one node and graph padding."""
    return padded_shapes(sizes, batches, np.zeros(len(batches), np.int64))[0]


def padded_shapes(
    sizes: GraphSizes, batches: Batches, shape: NDArray[np.int64]
) -> tuple[Caps, ...]:
    """Return the smallest shapes, each with one node and one graph of padding.

    Args:
        sizes: of all graphs.
        batches: of some of them.
        shape: which shape each batch has, ``[n_batch]``.
    """
    n_neighbor = _row_width(sizes.n_neighbors)
    n_node, n_edge = batches.sums(sizes.n_node), batches.sums(sizes.n_edge)
    more_rows = batches.sums(_rows_beyond_one(sizes, n_neighbor))
    caps = []
    for index in range(int(shape.max()) + 1):
        members = shape == index
        most_nodes = int(n_node[members].max()) + 1
        caps.append(
            Caps(
                n_node=most_nodes,
                n_edge=max(int(n_edge[members].max()), 1),
                n_graph=int(batches.n_graph[members].max()) + 1,
                n_neighbor=n_neighbor,
                n_row=most_nodes + int(more_rows[members].max()),
            )
        )
    return tuple(caps)


def _rows_beyond_one(sizes: GraphSizes, n_neighbor: int) -> NDArray[np.int64]:
    """Return the rows of each graph's atoms beyond one an atom, ``[n_graph]``."""
    most = int(sizes.n_neighbors.max())
    more = n_rows(np.arange(most + 1), n_neighbor) - 1
    return sizes.sums(more.astype(np.min_scalar_type(most))[sizes.n_neighbors])


def _row_width(n_neighbors: NDArray[np.integer]) -> int:
    """Return the width of rows that leaves few slots empty; one row an atom, if that is not worse.

    Args:
        n_neighbors: of all atoms.
    """
    values, counts = np.unique(n_neighbors, return_counts=True)
    values = values.astype(np.int64)
    most = max(int(values[-1]), 1)
    widths = np.arange(1, most + 1)
    rows = n_rows(values, widths[:, None]) @ counts
    cost = rows * (widths + _ROW_COST)
    cost = np.append(cost[:-1], (1 - _ONE_ROW_BONUS) * cost[-1])
    return int(widths[::-1][cost[::-1].argmin()])


def choose_shapes(sizes: GraphSizes, batches: Batches, n_shapes: int) -> NDArray[np.int64]:
    """Say which batches share a shape, so that ``n_shapes`` at most cost least.

    A shape is for the batches of a range of edges. Fewer shapes are used where another one saves
    less than 1 %.

    Returns: shape of each batch, the one with most edges first, ``[n_batch]``.
    """
    n_edge, n_node = batches.sums(sizes.n_edge), batches.sums(sizes.n_node)
    order = np.argsort(n_edge, kind="stable")
    cuts = best_cuts(n_edge[order], n_node[order], n_shapes)
    shape = np.empty(len(order), np.int64)
    shape[order] = len(cuts) - np.searchsorted(cuts, np.arange(len(order)), "right")
    return shape


def best_cuts(n_edge: NDArray[np.int64], n_node: NDArray[np.int64], n_shapes: int) -> list[int]:
    """Return where new shapes begin in a list of batches with ascending edges."""
    places = _candidates(n_edge)
    cost = _range_costs(n_edge, n_node, places)
    last = len(places) - 1
    best, before = cost[0], []  # best[j]: cost of the batches before places[j]
    cuts: list[int] = []
    total = best[last]
    for _ in range(1, n_shapes):
        options = best[:, None] + cost
        before.append(options.argmin(axis=0))
        best = options.min(axis=0)
        if best[last] > (1 - _WORTH) * total:
            continue
        total = best[last]
        cuts = _walk_back(before, last)
    return [int(places[cut]) for cut in cuts]


def _walk_back(before: list[NDArray[np.intp]], end: int) -> list[int]:
    cuts, last = [], end
    for choice in reversed(before):
        last = int(choice[last])
        cuts.append(last)
    return sorted(set(cuts) - {0, end})


def _candidates(n_edge: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return places from 0 to the number of batches between which ranges may be cut."""
    n_batch = len(n_edge)
    tail = np.arange(max(n_batch - _CANDIDATES, 0), n_batch + 1)
    return np.unique(np.concatenate([np.linspace(0, tail[0], _CANDIDATES, dtype=np.int64), tail]))


def _range_costs(
    n_edge: NDArray[np.int64], n_node: NDArray[np.int64], places: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the cost of one shape for the batches from ``places[i]`` to ``places[j]``."""
    most_nodes = np.maximum.reduceat(n_node, places[:-1])
    cost = np.full((len(places), len(places)), np.inf)
    for start in range(len(places) - 1):
        count = places[start + 1 :] - places[start]
        nodes = np.maximum.accumulate(most_nodes[start:])
        cost[start, start + 1 :] = count * shape_cost(n_edge[places[start + 1 :] - 1], nodes)
    np.fill_diagonal(cost, 0)
    return cost


def plan_cost(sizes: GraphSizes, batches: Batches, shape: NDArray[np.int64]) -> int:
    """Return what all batches cost if they are padded to their shapes, in edges."""
    n_edge, n_node = batches.sums(sizes.n_edge), batches.sums(sizes.n_node)
    members = [shape == index for index in range(int(shape.max()) + 1)]
    return sum(
        int(some.sum() * shape_cost(n_edge[some].max(), n_node[some].max() + 1)) for some in members
    )


def shape_cost(n_edge: NDArray[np.int64], n_node: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what batches of these shapes cost, in edges."""
    return n_edge + NODE_COST * n_node
