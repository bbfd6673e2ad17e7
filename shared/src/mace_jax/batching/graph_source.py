"""Where a loader's graphs come from."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.dataset import Dataset
from mace_jax.batching.graph import Graph, GraphBuilder

Ids = Sequence[int] | NDArray[np.integer]


class GraphSource(Protocol):
    """Returns graphs by number; to be read in other processes it must be pickled."""

    def __call__(self, ids: Ids) -> list[Graph]:
        """Return the graphs with these numbers, in this order."""
        ...


class DatasetGraphs:
    """The graphs of datasets, numbered through; a copy in another process opens the files itself.

    Pairs that a dataset stores at the builder's cutoff are used, and others searched for.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        builder: GraphBuilder,
        paths: Sequence[Path] | None = None,
        heads: Sequence[str | None] | None = None,
    ) -> None:
        """Keep the datasets, which stay the caller's to close.

        Args:
            datasets: open ones.
            builder: what turns structures into graphs.
            paths: where other processes find them; by default where they were opened.
            heads: readout head of all structures of each dataset; None: each structure's own.
        """
        self.datasets = datasets
        self.builder = builder
        self.paths = paths or [dataset.path for dataset in datasets]
        self.heads = heads or [None] * len(datasets)
        self._ends = np.cumsum([len(dataset) for dataset in datasets])

    def __call__(self, ids: Ids) -> list[Graph]:
        """Return the graphs with these numbers, in this order.

        Raises:
            ArtifactError, DataError: a structure is damaged or does not fit the model.
        """
        wanted = np.asarray(ids, np.int64)
        sources = np.searchsorted(self._ends, wanted, side="right")
        found: dict[int, Graph] = {}
        for source in np.unique(sources):
            dataset = self.datasets[source]
            numbers = wanted[sources == source]
            inside = numbers - (self._ends[source] - len(dataset))
            stored = dataset.r_max == self.builder.r_max
            pairs = dataset.read_pairs(inside) if stored else None
            structures = dataset.read(inside)
            graphs = self.builder.build_all(structures, pairs, head=self.heads[source])
            found.update(zip(numbers.tolist(), graphs, strict=True))
        return [found[number] for number in wanted.tolist()]

    def places(self, ids: Ids) -> str:
        """Return where structures stand, for messages, such as ``frame 3, frame 5 of a.xyz``."""
        named: dict[str, list[str]] = {}
        for number in np.sort(ids).tolist():
            source = int(np.searchsorted(self._ends, number, side="right"))
            dataset = self.datasets[source]
            place = dataset.place(number - int(self._ends[source]) + len(dataset))
            file, _, inside = place.rpartition(": ")
            named.setdefault(file, []).append(inside)
        return ", ".join(f"{', '.join(inside)} of {file}" for file, inside in named.items())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle paths instead of open files."""
        origins = [dataset.converted_from for dataset in self.datasets]
        files = tuple(zip(self.paths, origins, strict=True))
        return _UnopenedGraphs, (files, self.builder, tuple(self.heads))


class _UnopenedGraphs:
    """The graphs of datasets that are opened when the first is asked for, not while unpickled."""

    def __init__(
        self,
        files: Sequence[tuple[Path, str | None]],
        builder: GraphBuilder,
        heads: Sequence[str | None],
    ) -> None:
        self._files, self._builder, self._heads = files, builder, heads

    @cached_property
    def _graphs(self) -> DatasetGraphs:
        datasets = [Dataset(path, origin) for path, origin in self._files]
        return DatasetGraphs(datasets, self._builder, heads=self._heads)

    def __call__(self, ids: Ids) -> list[Graph]:
        """Return the graphs with these numbers, in this order."""
        return self._graphs(ids)
