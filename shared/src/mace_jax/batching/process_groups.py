"""Batches in groups, one for each process, and the order of groups in an epoch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import BatchPlan
from mace_jax.artifacts.batches import Batches


def epoch_order(
    plan: BatchPlan, seed: int, epoch: int, process: int | Sequence[int] | None = None
) -> NDArray[np.int64]:
    """Return the batches of an epoch in shuffled order, a function of the arguments only.

    Args:
        plan: the batches.
        seed, epoch: what the order depends on.
        process: one of the plan's ``processes``, or some of them, which take turns. Step by step
            their batches have the same shape; one may be empty if there were too few graphs. By
            default all batches that are not empty, for a single process.

    Returns: places in ``plan.batches``: ``[n_batch / processes]`` of a process, or ``[n_batch]``.
    """
    groups = np.arange(len(plan.batches)).reshape(-1, plan.processes)
    shuffled = groups[np.random.default_rng([seed, epoch]).permutation(len(groups))]
    if process is not None:
        return shuffled[:, process].reshape(-1)
    order = shuffled.reshape(-1)
    return order[plan.batches.n_graph[order] > 0]


def group_batches(
    batches: Batches, shape: NDArray[np.int64], n_edge: NDArray[np.int64], processes: int
) -> tuple[Batches, NDArray[np.int64]]:
    """Order batches by shape and make their number a multiple of ``processes``.

    Every ``processes`` of them are a group. A group that begins with one shape and ends with the
    next has the first one; the last group is filled by splitting batches, preferably its own and
    those with most graphs, and by empty ones only where there is nothing to split.

    Args:
        batches: any.
        shape: of each batch, costly ones first, ``[n_batch]``.
        n_edge: edges of every graph.
        processes: batches of a group.

    Returns: the batches and the shape of each.
    """
    order = np.argsort(shape, kind="stable")
    batches, shape = batches.select(order), shape[order]
    n_groups = -(-len(batches) // processes)
    last_shape = shape[(n_groups - 1) * processes]
    for _ in range(n_groups * processes - len(batches)):
        batches = _with_one_more(batches, shape[: len(batches)] >= last_shape, n_edge)
        shape = np.append(shape, last_shape)
    _, of_group = np.unique(shape[::processes], return_inverse=True)
    return batches, np.repeat(of_group, processes)


def _with_one_more(
    batches: Batches, preferred: NDArray[np.bool_], n_edge: NDArray[np.int64]
) -> Batches:
    """Split the batch with most graphs and put its second half at the end."""
    n_graph = batches.n_graph
    if (n_graph[preferred] > 1).any():
        n_graph = np.where(preferred, n_graph, 0)
    largest = int(n_graph.argmax())
    if n_graph[largest] < 2:
        return Batches(batches.ids, np.append(batches.offsets, batches.offsets[-1]))
    edges = n_edge[batches[largest]].cumsum()
    first = min(max(int(np.searchsorted(edges, edges[-1] / 2)), 1), len(edges) - 1)
    offsets = np.insert(batches.offsets, largest + 1, batches.offsets[largest] + first)
    order = np.arange(len(batches) + 1)
    return Batches(batches.ids, offsets).select(
        np.concatenate([np.delete(order, largest + 1), order[largest + 1 : largest + 2]])
    )
