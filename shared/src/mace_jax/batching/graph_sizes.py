"""How large the graphs of a dataset are: counted in the data, or read from its index."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import PlannedDataset
from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.provenance import Input, file_sha256
from mace_jax.artifacts.versioned import tag
from mace_jax.errors import ConfigError, DataError, IncompatibleError
from mace_jax.structures.neighbor_list import count_neighbors, neighbor_pairs
from mace_jax.tracking import Track, track_silently

# Structures read at once.
_BLOCK = 1000


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
        r_max: cutoff that edges were counted at, Å.
        sizes: of its graphs.
        place: where a structure stands, for messages.
        input: for the provenance record.
    """

    dataset: PlannedDataset
    r_max: float
    sizes: GraphSizes
    place: Callable[[int], str]
    input: Input


def size_files(
    paths: Sequence[Path], r_max: float | None, stack: ExitStack, track: Track = track_silently
) -> list[SizedDataset]:
    """Find the sizes in datasets or, where a file is ``*.parquet``, in the index of one.

    Args:
        paths: in the order in which graphs are numbered.
        r_max: cutoff, Å; by default that of the first file, an index or a dataset with pairs.
        stack: keeps the datasets open, so that structures can be named.
        track: progress.

    Raises:
        ArtifactError: a file is missing or damaged.
        ConfigError: no cutoff is given, and the first file has none.
        DataError: a dataset is empty.
        IncompatibleError: an index has another cutoff.
    """
    several = []
    for path in paths:
        if path.suffix == ".parquet":
            several.append(size_index(path, r_max))
        else:
            dataset = stack.enter_context(Dataset(path))
            several.append(size_dataset(dataset, r_max or _stored_r_max(dataset), track))
        r_max = several[0].r_max
    return several


def _stored_r_max(dataset: Dataset) -> float:
    if dataset.r_max is None:
        message = f"{dataset.path}: stores no pairs that would say r_max; give --r-max"
        raise ConfigError(message)
    return dataset.r_max


def size_dataset(dataset: Dataset, r_max: float, track: Track = track_silently) -> SizedDataset:
    """Count the edges of a dataset at cutoff ``r_max`` Å.

    Raises:
        DataError: it is empty.
    """
    if not len(dataset):
        raise _empty(dataset.path)
    return SizedDataset(
        PlannedDataset(dataset.path.name, dataset.sha256(), len(dataset)),
        r_max,
        graph_sizes(dataset, r_max, track),
        dataset.place,
        dataset.as_input("dataset"),
    )


def _empty(path: Path) -> DataError:
    return DataError(f"{path}: holds no structures, expected at least one")


def graph_sizes(dataset: Dataset, r_max: float, track: Track = track_silently) -> GraphSizes:
    """Count the nodes and edges of every structure at cutoff ``r_max`` Å.

    Pairs that are stored at this cutoff are not searched again.
    """
    count = _count_stored if dataset.r_max == r_max else _count_edges
    counts = (
        n_neighbors.astype(np.int32)
        for start in range(0, len(dataset), _BLOCK)
        for n_neighbors in count(dataset, range(len(dataset))[start : start + _BLOCK], r_max)
    )
    return GraphSizes.from_lists(list(track(counts, "counting edges", len(dataset))))


def _count_edges(
    dataset: Dataset, indices: Sequence[int], r_max: float
) -> Iterator[NDArray[np.int64]]:
    for structure in dataset.read(indices):
        yield count_neighbors(neighbor_pairs(structure, r_max), len(structure))


def _count_stored(
    dataset: Dataset, indices: Sequence[int], _r_max: float
) -> Iterator[NDArray[np.int64]]:
    structures = dataset.read(indices)
    for structure, pairs in zip(structures, dataset.read_pairs(indices), strict=True):
        yield count_neighbors(pairs, len(structure))


def size_index(path: Path, r_max: float | None = None) -> SizedDataset:
    """Read the sizes from the index of a dataset, which need not be at hand.

    Args:
        path: the Parquet file.
        r_max: cutoff that is wanted, Å; by default that of the index.

    Raises:
        ArtifactError: it is missing or damaged.
        DataError: it is empty.
        IncompatibleError: its edges were counted at another cutoff.
    """
    import pyarrow.compute as pc

    from mace_jax.artifacts.index import KIND, read_index

    index = read_index(path, ["source", "frame", "n_atoms", "n_edges", "n_neighbors"])
    if r_max not in (None, index.r_max):
        message = (
            f"{path}: counts edges at r_max {index.r_max} Å, expected {r_max} Å; give the dataset "
            "itself, or make the index anew with mace-jax-preprocess"
        )
        raise IncompatibleError(message)
    if not index.n_structures:
        raise _empty(path)
    table = index.table
    sources, frames = table["source"], table["frame"]
    return SizedDataset(
        PlannedDataset(index.dataset_name, index.dataset_sha256, index.n_structures),
        index.r_max,
        GraphSizes(
            table["n_atoms"].to_numpy().astype(np.int64),
            table["n_edges"].to_numpy(),
            pc.list_flatten(table["n_neighbors"]).to_numpy(),
        ),
        lambda graph: f"{sources[graph].as_py()}: frame {frames[graph].as_py()}",
        Input("index", path, KIND, tag(KIND)["version"], file_sha256(path)),
    )
