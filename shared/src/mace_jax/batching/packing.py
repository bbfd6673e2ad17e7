"""Pack graphs of many sizes into batches under caps on edges, nodes and graphs.

Best-fit the other way round: a batch takes the graphs that come first in the shuffled order, and
when room for a few is left, chooses the last ones from a window of those that wait, so that its
edges and its nodes run out together. Choosing from a window keeps graph size and batch apart, which
sorting by size would tie; and its cost is that of a few array operations for each batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batches import Batches

# Graphs that a batch can choose from.
_WINDOW = 512
# How much worse than free room it is if edges are left and nodes are not, or the other way round.
_IMBALANCE = 5

_NEVER = np.iinfo(np.int64).max


class Limits(NamedTuple):
    """The most that a batch may hold; every graph that opens such a batch must fit alone."""

    n_edge: int
    n_node: int
    n_graph: int


def pack(
    n_edge: NDArray[np.int64],
    n_node: NDArray[np.int64],
    limits: Sequence[Limits],
    order: NDArray[np.int64],
    kind: NDArray[np.integer] | None = None,
    *,
    n_chosen: int = 8,
) -> Batches:
    """Pack graphs into few batches, in whole numbers only: the same on every machine.

    Args:
        n_edge, n_node: of every graph, ``[n_graph]``.
        limits: of each kind of batch.
        order: graphs in the order in which they are placed.
        kind: which limits a batch has that opens with a graph, ``[n_graph]``; 0 by default.
        n_chosen: room, in average graphs, that is left when choosing begins. Graphs of many sizes
            pack best with 5 or 8, those of almost one size with 1.

    Returns: every graph of ``order`` once; batches in the order in which they were opened.
    """
    edges, nodes = n_edge[order], n_node[order]
    kinds = np.zeros(len(order), np.int64) if kind is None else kind[order]
    room = [n_chosen * int(sizes.sum()) // max(len(order), 1) for sizes in (edges, nodes)]
    ids = np.empty_like(order)
    offsets = [0]
    waiting = np.arange(0)
    seen = 0
    while offsets[-1] < len(order):
        more = min(_WINDOW - len(waiting), len(order) - seen)
        waiting = np.concatenate([waiting, np.arange(seen, seen + more)])
        seen += more
        limit = limits[kinds[waiting[0]]]
        taken = _fill(edges[waiting], nodes[waiting], limit, *room)
        ids[offsets[-1] : offsets[-1] + len(taken)] = order[waiting[taken]]
        offsets.append(offsets[-1] + len(taken))
        left = np.ones(len(waiting), bool)
        left[taken] = False
        waiting = waiting[left]
    return Batches(ids, np.array(offsets))


def _fill(
    edges: NDArray[np.int64],
    nodes: NDArray[np.int64],
    limit: Limits,
    edge_room: int,
    node_room: int,
) -> list[int]:
    """Return which of the waiting graphs a batch takes.

    Edges are counted in parts of the limit on edges, and nodes of that on nodes, so that both can
    be compared.
    """
    first = _first(edges, nodes, limit, edge_room, node_room)
    taken = list(range(first))
    edges, nodes = edges * limit.n_node, nodes * limit.n_edge
    full = limit.n_edge * limit.n_node
    edges_left = full - int(edges[:first].sum())
    nodes_left = full - int(nodes[:first].sum())
    edges[:first] = full + 1
    while len(taken) < limit.n_graph:
        best = _best(edges_left - edges, nodes_left - nodes)
        if best is None:
            break
        taken.append(best)
        edges_left -= int(edges[best])
        nodes_left -= int(nodes[best])
        edges[best] = full + 1
    return taken


def _first(
    edges: NDArray[np.int64],
    nodes: NDArray[np.int64],
    limit: Limits,
    edge_room: int,
    node_room: int,
) -> int:
    """Return how many graphs are taken as they come, one at least."""
    by_edges = edges.cumsum().searchsorted(limit.n_edge - edge_room, "right")
    by_nodes = nodes.cumsum().searchsorted(limit.n_node - node_room, "right")
    return max(min(int(by_edges), int(by_nodes), limit.n_graph), 1)


def _best(edges_left: NDArray[np.int64], nodes_left: NDArray[np.int64]) -> int | None:
    """Return the graph that leaves least room, and as much of edges as of nodes; None if none fits.

    Args:
        edges_left, nodes_left: what would be free with each graph; negative if it does not fit.
    """
    score = edges_left + nodes_left + _IMBALANCE * np.abs(edges_left - nodes_left)
    score[(edges_left | nodes_left) < 0] = _NEVER
    best = int(score.argmin())
    return None if score[best] == _NEVER else best
