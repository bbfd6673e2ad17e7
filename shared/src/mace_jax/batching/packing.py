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
    n_chosen: int = 3,
) -> Batches:
    """Pack graphs into few batches, in whole numbers only: the same on every machine.

    Args:
        n_edge, n_node: of every graph, ``[n_graph]``.
        limits: of each kind of batch.
        order: graphs in the order in which they are placed.
        kind: which limits a batch has that opens with a graph, ``[n_graph]``; 0 by default.
        n_chosen: room, in average graphs, that is left when choosing begins. Graphs of many sizes
            pack best with 3, those of almost one size with 1.

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
        waiting = np.delete(waiting, taken)
    return Batches(ids, np.array(offsets))


def _fill(
    edges: NDArray[np.int64],
    nodes: NDArray[np.int64],
    limit: Limits,
    edge_room: int,
    node_room: int,
) -> list[int]:
    """Return which of the waiting graphs a batch takes; ``edges`` is overwritten."""
    first = min(
        int(np.searchsorted(edges.cumsum(), limit.n_edge - edge_room, "right")),
        int(np.searchsorted(nodes.cumsum(), limit.n_node - node_room, "right")),
        limit.n_graph,
    )
    taken = list(range(max(first, 1)))
    free_edges = limit.n_edge - int(edges[taken].sum())
    free_nodes = limit.n_node - int(nodes[taken].sum())
    edges[taken] = limit.n_edge + 1
    while len(taken) < limit.n_graph:
        best = _best(free_edges - edges, free_nodes - nodes, limit)
        if best is None:
            break
        taken.append(best)
        free_edges -= int(edges[best])
        free_nodes -= int(nodes[best])
        edges[best] = limit.n_edge + 1
    return taken


def _best(
    edges_left: NDArray[np.int64], nodes_left: NDArray[np.int64], limit: Limits
) -> int | None:
    """Return the graph that leaves least room, and as much of edges as of nodes; None if none fits.

    Args:
        edges_left, nodes_left: what would be free with each graph; negative if it does not fit.
        limit: in parts of which both are compared.
    """
    edges, nodes = edges_left * limit.n_node, nodes_left * limit.n_edge
    score = edges + nodes + _IMBALANCE * np.abs(edges - nodes)
    score[(edges_left < 0) | (nodes_left < 0)] = _NEVER
    best = int(score.argmin())
    return None if score[best] == _NEVER else best
