"""How large the graphs of a dataset are: counted in the data, or read from its index."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import PlannedDataset
from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.provenance import Input
from mace_jax.structures.neighbor_list import neighbor_list
from mace_jax.tracking import Track, track_silently


@dataclass(frozen=True)
class GraphSizes:
    """Atoms and edges of graphs.

    Attributes:
        n_node: atoms of each graph, one at least, int64 ``[n_graph]``.
        n_edge: directed edges of each graph, int64 ``[n_graph]``.
        n_neighbors: edges that each atom receives, graph after graph, ``[sum(n_node)]``.
    """

    n_node: NDArray[np.int64]
    n_edge: NDArray[np.int64]
    n_neighbors: NDArray[np.integer]

    @classmethod
    def from_lists(cls, n_neighbors: Sequence[NDArray[np.integer]]) -> "GraphSizes":
        """Return the sizes of graphs whose atoms receive ``n_neighbors`` edges, an array each."""
        return cls(
            np.array([len(counts) for counts in n_neighbors], np.int64),
            np.array([int(counts.sum()) for counts in n_neighbors], np.int64),
            np.concatenate(n_neighbors),
        )

    @classmethod
    def joined(cls, several: Sequence["GraphSizes"]) -> "GraphSizes":
        """Number the graphs of several datasets through."""
        if len(several) == 1:
            return several[0]
        return cls(
            np.concatenate([sizes.n_node for sizes in several]),
            np.concatenate([sizes.n_edge for sizes in several]),
            np.concatenate([sizes.n_neighbors for sizes in several]),
        )

    def sums(self, of_atoms: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the sum over the atoms of each graph, ``[n_graph]``."""
        starts = np.cumsum(self.n_node) - self.n_node
        return np.add.reduceat(of_atoms, starts, dtype=np.int64)


@dataclass(frozen=True)
class SizedDataset:
    """A dataset as far as planning must know it.

    Attributes:
        dataset: name, digest and number of structures.
        sizes: of its graphs.
        place: where a structure stands, for messages.
        input: for the provenance record.
    """

    dataset: PlannedDataset
    sizes: GraphSizes
    place: Callable[[int], str]
    input: Input


def graph_sizes(dataset: Dataset, r_max: float, track: Track = track_silently) -> GraphSizes:
    """Count the nodes and edges of every structure at cutoff ``r_max`` Å."""
    return GraphSizes.from_lists(
        [
            np.bincount(neighbor_list(structure, r_max).receivers, minlength=len(structure))
            for structure in track(dataset, "counting edges", len(dataset))
        ]
    )


def sized_dataset(
    dataset: Dataset, r_max: float, track: Track = track_silently
) -> SizedDataset:
    """Count the edges of a dataset at cutoff ``r_max`` Å."""
    return SizedDataset(
        PlannedDataset(dataset.path.name, dataset.sha256(), len(dataset)),
        graph_sizes(dataset, r_max, track),
        dataset.place,
        dataset.as_input("dataset"),
    )
