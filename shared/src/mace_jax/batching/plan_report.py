"""How well a plan packs: empty slots, and how many batches there must be."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import BatchPlan, Caps, PlanReport, Waste
from mace_jax.artifacts.batches import Batches
from mace_jax.batching.graph_sizes import GraphSizes


def lower_bound(
    sizes: GraphSizes,
    batches: Batches,
    cap: int,
    larger: Sequence[int] = (),
    *,
    near: bool = False,
) -> int:
    """Return ceil(edges / cap); no packing of these graphs has fewer batches.

    Batches that open with a graph larger than the cap count, and hold what theirs allows.

    Args:
        sizes: of all graphs.
        batches: a packing, none of them empty.
        cap: edges of an ordinary batch, at most.
        larger: edge caps of the other batches, ascending.
        near: whether the cap was to be near ``cap``; it is then what the fullest batch has.
    """
    n_edge = batches.sums(sizes.n_edge)
    kind = np.searchsorted([cap, *larger], sizes.n_edge[batches.ids[batches.offsets[:-1]]])
    if near:
        cap = int(n_edge[kind == 0].max(initial=1))
    beyond = int((kind > 0).sum())
    left = int(n_edge.sum()) - int(np.array([0, *larger])[kind].sum())
    return max(beyond + max(math.ceil(left / cap), 0), 1)


def report_waste(
    sizes: GraphSizes,
    batches: Batches,
    shapes: Sequence[Caps],
    shape: NDArray[np.int64],
    *,
    n_batches_lower_bound: int,
    requested_n_edge: int,
) -> PlanReport:
    """Return how many of the padded slots are empty, for each shape and in all.

    Args:
        sizes: of all graphs.
        batches: what is planned of them.
        shapes: the padded shapes.
        shape: which one each batch has, ``[n_batch]``.
        n_batches_lower_bound, requested_n_edge: for the report.
    """
    graphs = np.sort(batches.ids)
    used = np.stack([batches.sums(sizes.n_edge), batches.sums(sizes.n_node), batches.n_graph], 1)
    padded = np.array([(caps.n_edge, caps.n_node, caps.n_graph) for caps in shapes])[shape]
    largest = int(graphs[sizes.n_edge[graphs].argmax()])
    wastes = [_waste(used[shape == i], padded[shape == i]) for i in range(len(shapes))]
    total = _waste(used, padded)
    return PlanReport(
        n_graphs=len(graphs),
        n_batches=total.n_batches,
        n_batches_lower_bound=n_batches_lower_bound,
        edge_waste=total.edge_waste,
        node_waste=total.node_waste,
        graph_waste=total.graph_waste,
        requested_n_edge=requested_n_edge,
        largest_graph={
            "id": largest,
            "n_node": int(sizes.n_node[largest]),
            "n_edge": int(sizes.n_edge[largest]),
        },
        shapes=tuple(wastes),
    )


def _waste(used: NDArray[np.int64], padded: NDArray[np.int64]) -> Waste:
    return Waste(len(used), *(1 - used.sum(axis=0) / padded.sum(axis=0)).tolist())


def plan_lines(plan: BatchPlan) -> list[str]:
    """Return the report of a plan as lines of text for people."""
    report = plan.report
    lines = [
        f"{report.n_graphs} graphs in {report.n_batches} batches "
        f"(lower bound {report.n_batches_lower_bound})"
    ]
    if plan.processes > 1:
        steps = report.n_batches // plan.processes
        lines.append(f"{plan.processes} processes: {steps} batches for each in an epoch")
    for caps, waste in zip(plan.shapes, report.shapes, strict=True):
        name = f"padded shape of {waste.n_batches}" if len(plan.shapes) > 1 else "padded shape"
        lines.append(
            f"{name}: {caps.n_edge} edges, {caps.n_node} nodes, {caps.n_graph} graphs; "
            f"{caps.n_row} rows of {caps.n_neighbor} neighbours"
        )
        if len(plan.shapes) > 1:
            lines.append(f"  empty slots: {_shares(waste)}")
    return [*lines, f"empty slots: {_shares(report)}"]


def _shares(waste: Waste | PlanReport) -> str:
    return (
        f"{waste.edge_waste:.1%} of edges, {waste.node_waste:.1%} of nodes, "
        f"{waste.graph_waste:.1%} of graphs"
    )
