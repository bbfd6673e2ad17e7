"""Plan the batches of datasets: pack their graphs, fix the padded shapes, group for processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import BatchPlan
from mace_jax.artifacts.batches import Batches
from mace_jax.artifacts.dataset import Dataset
from mace_jax.batching.graph_sizes import GraphSizes, SizedDataset, size_dataset
from mace_jax.batching.oversize import Oversize, Room, place_large_graphs
from mace_jax.batching.plan_report import lower_bound, report_waste
from mace_jax.batching.process_groups import group_batches
from mace_jax.batching.shape_classes import choose_shapes, padded_shapes, plan_cost
from mace_jax.batching.tight_packing import pack_graphs
from mace_jax.tracking import Track, track_silently

# What smaller batches may cost more.
_WORTH = 1.01


@dataclass(frozen=True)
class PlanSettings:
    """What is asked of a plan.

    Attributes:
        n_edge: edges of a batch.
        near: whether a cap near ``n_edge`` will do, the one that packs best; else it is the most.
        n_shapes: padded shapes, at most.
        oversize: what becomes of graphs of more than ``n_edge`` edges.
        processes: batches at a time; their number becomes a multiple of it.
        seed: of the order in which graphs are packed.
    """

    n_edge: int
    near: bool = False
    n_shapes: int = 1
    oversize: Oversize = "raise"
    processes: int = 1
    seed: int = 0


def plan_batches(
    datasets: Sequence[Dataset],
    r_max: float,
    n_edge: int,
    seed: int = 0,
    track: Track = track_silently,
    processes: int = 1,
) -> BatchPlan:
    """Plan batches of one shape.

    Args:
        datasets: the data; graph ids run through them in this order.
        r_max: cutoff, Å.
        n_edge: edge cap of a batch; raised with a warning if one graph alone exceeds it.
        seed: of the order in which graphs are packed.
        track: progress.
        processes: batches at a time.

    Raises:
        DataError: a dataset is empty.
    """
    settings = PlanSettings(n_edge, seed=seed, processes=processes)
    return plan_sized([size_dataset(dataset, r_max, track) for dataset in datasets], settings)


def plan_sized(datasets: Sequence[SizedDataset], settings: PlanSettings) -> BatchPlan:
    """Plan batches for datasets whose sizes are known.

    Args:
        datasets: graph ids run through them in this order; all have the same cutoff.
        settings: what is asked for.

    Raises:
        DataError: graphs are too large, and must not be, or all are and were to be skipped.
    """
    sizes = GraphSizes.joined([sized.sizes for sized in datasets])
    room = place_large_graphs(
        datasets, sizes, settings.n_edge, settings.n_shapes, settings.oversize
    )
    packed, shape, larger = _pack(sizes, room, settings)
    batches, shape = group_batches(packed, shape, sizes.n_edge, settings.processes)
    shapes = padded_shapes(sizes, batches, shape)
    return BatchPlan(
        datasets=tuple(sized.dataset for sized in datasets),
        r_max=datasets[0].r_max,
        seed=settings.seed,
        processes=settings.processes,
        shapes=shapes,
        shape_counts=tuple(np.bincount(shape).tolist()),
        batches=batches,
        skipped=tuple(room.skipped.tolist()),
        report=report_waste(
            sizes,
            batches,
            shapes,
            shape,
            n_batches_lower_bound=lower_bound(sizes, packed, room.cap, larger, near=settings.near),
            requested_n_edge=settings.n_edge,
        ),
    )


class _Packing(NamedTuple):
    """Batches, the shape of each, and the edge caps of those that open with a larger graph."""

    batches: Batches
    shape: NDArray[np.int64]
    larger: tuple[int, ...]


def _pack(sizes: GraphSizes, room: Room, settings: PlanSettings) -> _Packing:
    """Pack all graphs that find room, in the cheaper way if there are two.

    With several caps for larger graphs batches stay small, with one cap they fill better.
    """
    graphs = np.delete(np.arange(len(sizes.n_edge)), room.skipped)
    packings = []
    for larger in dict.fromkeys(room.larger):
        batches = pack_graphs(
            sizes, room.cap, settings.seed, near=settings.near, larger=larger, graphs=graphs
        )
        packings.append(_Packing(batches, choose_shapes(sizes, batches, room.n_shapes), larger))
    costs = [plan_cost(sizes, packing.batches, packing.shape) for packing in packings]
    return packings[0] if costs[0] <= _WORTH * costs[-1] else packings[-1]
