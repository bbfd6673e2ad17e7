"""Plan the batches of datasets: pack their graphs, fix the padded shapes, group for processes."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import BatchPlan, Caps, PlanReport, Waste
from mace_jax.artifacts.batches import Batches
from mace_jax.artifacts.dataset import Dataset
from mace_jax.batching.graph_sizes import GraphSizes, SizedDataset, sized_dataset
from mace_jax.batching.process_groups import group_batches
from mace_jax.batching.shape_classes import choose_shapes, padded_shapes
from mace_jax.batching.tight_packing import AT_MOST, NEAR, pack_graphs
from mace_jax.errors import DataError
from mace_jax.tracking import Track, track_silently

Oversize = Literal["raise", "own-shape", "skip", "error"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanSettings:
    """What is asked of a plan.

    Attributes:
        n_edge: edges of a batch.
        near: whether a cap near ``n_edge`` will do, the one that packs best; else it is the most.
        n_shapes: padded shapes, at most.
        oversize: what becomes of a graph of more than ``n_edge`` edges. ``raise``: the cap of one
            shape is raised, of the only one if there is but one; ``own-shape``: a shape beyond
            ``n_shapes`` is for such graphs; ``skip``: they are in no batch; ``error``.
        processes: batches at a time; their number becomes a multiple of it.
        seed: of the order in which graphs are packed.
    """

    n_edge: int
    near: bool = False
    n_shapes: int = 1
    oversize: Oversize = "raise"
    processes: int = 1
    seed: int = 0


class _Caps(NamedTuple):
    """Edge caps of batches that open with an ordinary graph, and with larger ones, ascending."""

    ordinary: int
    larger: tuple[int, ...] = ()


def plan_batches(
    dataset: Dataset,
    r_max: float,
    n_edge: int,
    seed: int = 0,
    track: Track = track_silently,
) -> BatchPlan:
    """Plan batches of one shape for one dataset.

    Args:
        dataset: the data.
        r_max: cutoff, Å.
        n_edge: edge cap of a batch; raised with a warning if one graph alone exceeds it.
        seed: of the order in which graphs are packed.
        track: progress.

    Raises:
        DataError: the dataset is empty.
    """
    sized = size_dataset(dataset, r_max, track)
    return plan_sized([sized], PlanSettings(n_edge, seed=seed))


def plan_sized(datasets: Sequence[SizedDataset], settings: PlanSettings) -> BatchPlan:
    """Plan batches for datasets whose sizes and cutoff are known.

    Args:
        datasets: graph ids run through them in this order; all have the same cutoff.
        settings: what is asked for.

    Raises:
        DataError: a dataset is empty, or there is a graph too large that must not be skipped, or
            there are no others.
    """
    sizes = GraphSizes.joined([sized.sizes for sized in datasets])
    large = np.flatnonzero(sizes.n_edge > settings.n_edge)
    caps, n_shapes = _Caps(settings.n_edge), settings.n_shapes
    if large.size:
        caps, n_shapes = _make_room(datasets, sizes, large, settings)
    skipped = large if settings.oversize == "skip" else large[:0]
    graphs = np.delete(np.arange(len(sizes.n_edge)), skipped)
    packed = pack_graphs(
        sizes,
        caps.ordinary,
        settings.seed,
        shares=NEAR if settings.near else AT_MOST,
        larger=caps.larger,
        graphs=graphs,
    )
    shape = choose_shapes(sizes, packed, n_shapes)
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
        skipped=tuple(skipped.tolist()),
        report=plan_report(
            sizes,
            batches,
            shape,
            shapes,
            lower_bound=_lower_bound(sizes, packed, caps, near=settings.near),
            requested=settings.n_edge,
        ),
    )


def _make_room(
    datasets: Sequence[SizedDataset],
    sizes: GraphSizes,
    large: NDArray[np.int64],
    settings: PlanSettings,
) -> tuple[_Caps, int]:
    """Say what becomes of graphs that are larger than the cap; return caps and number of shapes."""
    largest = large[sizes.n_edge[large].argmax()]
    most = int(sizes.n_edge[largest])
    found = (
        f"{_place(datasets, int(largest))}: has {most} edges, more than the cap of "
        f"{settings.n_edge}"
    )
    found += f", as {len(large) - 1} other graphs do" if len(large) > 1 else ""
    if settings.oversize == "error" or len(large) == len(sizes.n_edge) and settings.oversize == "skip":
        message = f"{found}; raise the cap or choose another --oversize"
        raise DataError(message)
    if settings.oversize == "skip":
        log.warning("%s; skipped: %s", found, _some(large))
        return _Caps(settings.n_edge), settings.n_shapes
    if settings.oversize == "raise" and settings.n_shapes == 1:
        log.warning("%s; the cap is raised to %d", found, most)
        return _Caps(most), 1
    log.warning("%s; such graphs get a larger shape", found)
    n_shapes = settings.n_shapes + (settings.oversize == "own-shape")
    large = large[np.argsort(sizes.n_edge[large], kind="stable")]
    n_edge, n_node = sizes.n_edge[large], sizes.n_node[large]
    ends = [*best_cuts(n_edge, n_node, n_shapes - 1), len(large)]
    return _Caps(settings.n_edge, tuple(int(n_edge[end - 1]) for end in ends)), n_shapes


def _some(graphs: NDArray[np.int64], most: int = 10) -> str:
    """Return the first few ids as text."""
    text = ", ".join(map(str, graphs[:most]))
    return text if len(graphs) <= most else f"{text}, … ({len(graphs)})"


def _place(datasets: Sequence[SizedDataset], graph: int) -> str:
    """Return where a graph stands."""
    for sized in datasets:
        if graph < sized.dataset.n_structures:
            return sized.place(graph)
        graph -= sized.dataset.n_structures
    raise IndexError(graph)


def _lower_bound(sizes: GraphSizes, batches: Batches, caps: _Caps, *, near: bool) -> int:
    """Return ceil(edges / cap), where batches of larger graphs count with what they could hold."""
    n_edge = batches.sums(sizes.n_edge)
    kind = np.searchsorted([caps.ordinary, *caps.larger], sizes.n_edge[batches.ids[batches.offsets[:-1]]])
    ordinary = int(n_edge[kind == 0].max(initial=1)) if near else caps.ordinary
    held = sum(caps.larger[index - 1] for index in kind[kind > 0])
    return int((kind > 0).sum()) + max(math.ceil((int(n_edge.sum()) - held) / ordinary), 0) or 1
