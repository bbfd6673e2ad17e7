"""Plan the batches of a dataset: count its edges, pack its graphs, fix the padded shape."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import BatchPlan, Caps, PlanReport
from mace_jax.artifacts.dataset import Dataset
from mace_jax.batching.neighbor_table import n_rows
from mace_jax.batching.packing import pack_best_fit
from mace_jax.errors import DataError
from mace_jax.structures.neighbor_list import neighbor_list
from mace_jax.tracking import Track, track_silently

# Edges dominate the cost of MACE, so the node and graph caps leave a little room.
_ROOM = 1.1
# Shares of the edge cap that are tried.
_CAP_SHARES = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79)

# A row costs about as much as this many slots, and several rows an atom a sum more.
_ROW_COST = 2
_ONE_ROW_BONUS = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GraphSizes:
    """Nodes and edges of every graph of a dataset.

    Attributes:
        n_neighbors: edges that each atom receives, ``[n_node]`` for each graph.
    """

    n_neighbors: Sequence[NDArray[np.integer]]

    @cached_property
    def n_node(self) -> NDArray[np.int64]:
        """Nodes of each graph, ``[n_graph]``."""
        return np.array([len(counts) for counts in self.n_neighbors])

    @cached_property
    def n_edge(self) -> NDArray[np.int64]:
        """Directed edges of each graph, ``[n_graph]``."""
        return np.array([int(counts.sum()) for counts in self.n_neighbors])


def graph_sizes(dataset: Dataset, r_max: float, track: Track = track_silently) -> GraphSizes:
    """Count the nodes and edges of every structure at cutoff ``r_max`` Å."""
    return GraphSizes(
        [
            np.bincount(neighbor_list(structure, r_max).receivers, minlength=len(structure))
            for structure in track(dataset, "counting edges", len(dataset))
        ]
    )


def plan_batches(
    dataset: Dataset,
    r_max: float,
    n_edge: int,
    seed: int = 0,
    track: Track = track_silently,
) -> BatchPlan:
    """Plan batches of at most ``n_edge`` edges.

    Args:
        dataset: the data.
        r_max: cutoff, Å.
        n_edge: edge cap of a batch; raised with a warning if one graph alone exceeds it.
        seed: of the order in which graphs are packed.
        track: progress.

    Raises:
        DataError: the dataset is empty.
    """
    if not len(dataset):
        message = f"{dataset.path}: holds no structures, expected at least one"
        raise DataError(message)
    sizes = graph_sizes(dataset, r_max, track)
    largest = int(sizes.n_edge.argmax())
    cap = max(n_edge, int(sizes.n_edge[largest]), 1)
    if cap > n_edge:
        log.warning(
            "%s: has %d edges, more than --n-edge %d; the cap is raised to %d",
            dataset.place(largest),
            sizes.n_edge[largest],
            n_edge,
            cap,
        )
    batches = pack_graphs(sizes, cap, seed)
    caps = padded_caps(sizes, batches)
    return BatchPlan(
        dataset_name=dataset.path.name,
        dataset_sha256=dataset.sha256(),
        n_structures=len(dataset),
        r_max=r_max,
        seed=seed,
        caps=caps,
        batches=tuple(tuple(batch) for batch in batches),
        report=_report(sizes, batches, caps, cap, n_edge),
    )


def pack_graphs(sizes: GraphSizes, cap: int, seed: int) -> list[list[int]]:
    """Pack graphs, none larger than ``cap`` edges, into batches of at most ``cap`` edges.

    Several caps up to ``cap`` are tried; of the packings with the fewest batches the one with the
    smallest padded shape is kept. When six and a half graphs fit, a few batches of seven would
    only make all the batches of six wider.
    """
    least = max(int(sizes.n_edge.max()), 1)
    caps = {max(math.ceil(share * cap), least) for share in _CAP_SHARES}
    packings = (_pack_under(sizes, tried, seed) for tried in sorted(caps, reverse=True))
    return min(packings, key=lambda batches: (len(batches), _most_edges(sizes, batches)))


def _pack_under(sizes: GraphSizes, cap: int, seed: int) -> list[list[int]]:
    """Pack under the edge cap and node and graph caps that follow from the average graph."""
    batches_at_best = max(sizes.n_edge.sum() / cap, 1e-9)
    n_graph = len(sizes.n_edge)
    node_cap = max(math.ceil(_ROOM * sizes.n_node.sum() / batches_at_best), sizes.n_node.max())
    graph_cap = max(math.ceil(2 * n_graph / batches_at_best), 1)
    table = np.stack([sizes.n_edge, sizes.n_node, np.ones(n_graph, dtype=np.int64)], axis=1)
    order = np.random.default_rng(seed).permutation(n_graph)
    return pack_best_fit(table, (cap, int(node_cap), graph_cap), order)


def padded_caps(sizes: GraphSizes, batches: Sequence[Sequence[int]]) -> Caps:
    """Return the smallest shape that holds every batch and leaves one node and graph padding."""
    n_node = max(int(sizes.n_node[list(batch)].sum()) for batch in batches) + 1
    n_neighbor = _row_width(np.concatenate(sizes.n_neighbors))
    more_rows = [int((n_rows(counts, n_neighbor) - 1).sum()) for counts in sizes.n_neighbors]
    return Caps(
        n_node=n_node,
        n_edge=max(_most_edges(sizes, batches), 1),
        n_graph=max(len(batch) for batch in batches) + 1,
        n_neighbor=n_neighbor,
        n_row=n_node + max(sum(more_rows[graph] for graph in batch) for batch in batches),
    )


def _most_edges(sizes: GraphSizes, batches: Sequence[Sequence[int]]) -> int:
    return max(int(sizes.n_edge[list(batch)].sum()) for batch in batches)


def _row_width(n_neighbors: NDArray[np.integer]) -> int:
    """Return the width of rows that leaves few slots empty; one row an atom, if that is not worse.

    Args:
        n_neighbors: of all atoms.
    """
    values, counts = np.unique(n_neighbors, return_counts=True)
    most = max(int(values[-1]), 1)
    widths = np.arange(1, most + 1)
    rows = n_rows(values, widths[:, None]) @ counts
    cost = rows * (widths + _ROW_COST)
    cost = np.append(cost[:-1], (1 - _ONE_ROW_BONUS) * cost[-1])
    return int(widths[::-1][cost[::-1].argmin()])


def _report(
    sizes: GraphSizes, batches: list[list[int]], caps: Caps, cap: int, requested: int
) -> PlanReport:
    n_graph, n_batches = len(sizes.n_edge), len(batches)
    n_edge, n_node = int(sizes.n_edge.sum()), int(sizes.n_node.sum())
    largest = int(sizes.n_edge.argmax())
    return PlanReport(
        n_graphs=n_graph,
        n_batches=n_batches,
        n_batches_lower_bound=max(math.ceil(n_edge / cap), 1),
        edge_waste=1 - n_edge / (n_batches * caps.n_edge),
        node_waste=1 - n_node / (n_batches * caps.n_node),
        graph_waste=1 - n_graph / (n_batches * caps.n_graph),
        requested_n_edge=requested,
        largest_graph={
            "id": largest,
            "n_node": int(sizes.n_node[largest]),
            "n_edge": int(sizes.n_edge[largest]),
        },
    )


def plan_lines(plan: BatchPlan) -> list[str]:
    """Return the report of a plan as lines of text for people."""
    report, caps = plan.report, plan.caps
    return [
        f"{report.n_graphs} graphs in {report.n_batches} batches "
        f"(lower bound {report.n_batches_lower_bound})",
        f"padded shape: {caps.n_edge} edges, {caps.n_node} nodes, {caps.n_graph} graphs; "
        f"{caps.n_row} rows of {caps.n_neighbor} neighbours",
        f"empty slots: {report.edge_waste:.1%} of edges, {report.node_waste:.1%} of nodes, "
        f"{report.graph_waste:.1%} of graphs",
    ]
