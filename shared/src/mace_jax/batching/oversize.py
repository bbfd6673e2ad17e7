"""Graphs that have more edges than a batch should: a larger shape, or none."""

import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.batching.graph_sizes import GraphSizes, SizedDataset
from mace_jax.batching.shape_classes import best_cuts
from mace_jax.errors import DataError

Oversize = Literal["raise", "own-shape", "skip", "error"]

log = logging.getLogger(__name__)


class Room(NamedTuple):
    """Where every graph finds room.

    Attributes:
        cap: edges of ordinary batches.
        larger: edges of batches that open with a larger graph, ascending; ways to choose them,
            which differ in how many there are, and the preferred one first.
        n_shapes: padded shapes, at most.
        skipped: ids of graphs that find none, ascending.
    """

    cap: int
    larger: tuple[tuple[int, ...], ...]
    n_shapes: int
    skipped: NDArray[np.int64]


def place_large_graphs(
    datasets: Sequence[SizedDataset],
    sizes: GraphSizes,
    cap: int,
    n_shapes: int,
    oversize: Oversize,
) -> Room:
    """Say what becomes of graphs of more than ``cap`` edges, and warn if there are any.

    Args:
        datasets: where the graphs come from, to name one.
        sizes: of all their graphs.
        cap: edges that a batch should have at most.
        n_shapes: padded shapes, at most.
        oversize: ``raise``: the largest of the shapes is made large enough, and with it the cap if
            there is but one. ``own-shape``: one more shape is for them. ``skip``: they are left
            out. ``error``.

    Raises:
        DataError: there are such graphs and ``oversize`` is ``error``, or it is ``skip`` and there
            are no others.
    """
    large = np.flatnonzero(sizes.n_edge > cap)
    if not large.size:
        return Room(cap, ((),), n_shapes, large)
    largest = int(large[sizes.n_edge[large].argmax()])
    most = int(sizes.n_edge[largest])
    found = f"{_place(datasets, largest)}: has {most} edges, more than the cap of {cap}"
    if oversize == "error" or (oversize == "skip" and len(large) == len(sizes.n_edge)):
        message = f"{found}, {len(large)} graphs in all; raise the cap or change --oversize"
        raise DataError(message)
    if oversize == "skip":
        log.warning("%s; %d graphs are skipped: %s", found, len(large), _some(large))
        return Room(cap, ((),), n_shapes, large)
    if oversize == "raise" and n_shapes == 1:
        log.warning("%s; the cap is raised to %d", found, most)
        return Room(most, ((),), 1, large[:0])
    log.warning("%s; %d graphs get a larger shape", found, len(large))
    n_shapes += oversize == "own-shape"
    several, one = (_larger_caps(sizes, large, n_caps) for n_caps in (n_shapes - 1, 1))
    return Room(cap, (several, one), n_shapes, large[:0])


def _some(graphs: NDArray[np.int64], most: int = 20) -> str:
    """Return the first few ids; the plan has them all."""
    text = ", ".join(map(str, graphs[:most]))
    return f"{text}, …" if len(graphs) > most else text


def _larger_caps(sizes: GraphSizes, large: NDArray[np.int64], n_caps: int) -> tuple[int, ...]:
    """Return edge caps, ``n_caps`` at most, that cost least if each graph were alone."""
    large = large[np.argsort(sizes.n_edge[large], kind="stable")]
    n_edge = sizes.n_edge[large]
    ends = [*best_cuts(n_edge, sizes.n_node[large], n_caps), len(large)]
    return tuple(sorted({int(n_edge[end - 1]) for end in ends}))


def _place(datasets: Sequence[SizedDataset], graph: int) -> str:
    """Return where a graph stands."""
    for sized in datasets:
        if graph < sized.dataset.n_structures:
            break
        graph -= sized.dataset.n_structures
    return sized.place(graph)
