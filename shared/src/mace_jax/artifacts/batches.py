"""Batches of graph ids as two arrays, and the Arrow file that holds those of a large plan."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.atomic_write import atomic_file
from mace_jax.artifacts.provenance import file_sha256
from mace_jax.errors import ArtifactError


@dataclass(frozen=True, eq=False)
class Batches(Sequence[NDArray[np.int64]]):
    """A list of batches: ``batches[i]`` are the graph ids of batch ``i``, in order.

    Attributes:
        ids: graph ids of all batches, one after the other, int64 ``[n_graph]``.
        offsets: where each batch begins in ``ids``, and where the last one ends, int64
            ``[n_batch + 1]``.
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @classmethod
    def from_lists(cls, batches: Iterable[Sequence[int]]) -> "Batches":
        """Join lists of graph ids."""
        pieces = [np.asarray(batch, np.int64) for batch in batches]
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.int64), *pieces]), np.append(np.int64(0), ends))

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> NDArray[np.int64]: ...

    @overload
    def __getitem__(self, index: slice) -> "Batches": ...

    def __getitem__(self, index: int | slice) -> "NDArray[np.int64] | Batches":
        """Return the graph ids of one batch, or several batches."""
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        index = range(len(self))[index]
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def __eq__(self, other: object) -> bool:
        """Return whether both have the same ids in the same batches."""
        if not isinstance(other, Batches):
            return NotImplemented
        return np.array_equal(self.ids, other.ids) and np.array_equal(self.offsets, other.offsets)

    __hash__ = None  # type: ignore[assignment]

    @property
    def n_graph(self) -> NDArray[np.int64]:
        """Graphs of each batch, ``[n_batch]``."""
        return np.diff(self.offsets)

    def sums(self, sizes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the sum over each batch of what ``sizes`` says of every graph, ``[n_batch]``."""
        total = np.concatenate([[0], np.cumsum(sizes[self.ids], dtype=np.int64)])
        return np.diff(total[self.offsets])

    def select(self, order: NDArray[np.integer]) -> "Batches":
        """Return the batches of ``order``, in that order."""
        n_graph = self.n_graph[order]
        ends = np.cumsum(n_graph)
        places = np.arange(n_graph.sum()) + np.repeat(self.offsets[order] - ends + n_graph, n_graph)
        return Batches(self.ids[places], np.append(np.int64(0), ends))

    def to_lists(self) -> list[list[int]]:
        """Return the ids of each batch."""
        return [batch.tolist() for batch in self]


def write_batches(path: Path, batches: Batches, metadata: dict[str, Any]) -> str:
    """Write an Arrow file with one column ``graphs``, a list of ids for each batch.

    Returns: its SHA-256.
    """
    import pyarrow as pa

    column = pa.ListArray.from_arrays(
        pa.array(batches.offsets, pa.int32()), pa.array(batches.ids, pa.int64())
    )
    table = pa.table({"graphs": column}, metadata={"mace_jax": json.dumps(metadata)})
    with atomic_file(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table)
    return file_sha256(path)


def read_batches(path: Path, sha256: str, named_in: Path) -> Batches:
    """Read the Arrow file that a plan names.

    Raises:
        ArtifactError: it is missing, damaged, or another file than the plan was written with.
    """
    import pyarrow as pa

    found = file_sha256(path)
    if found != sha256:
        message = (
            f"{path}: sha256 {found[:12]}…, expected {sha256[:12]}… as {named_in} says; "
            "copy both files together or create the plan again"
        )
        raise ArtifactError(message)
    try:
        with pa.memory_map(str(path)) as file:
            column = pa.ipc.open_file(file).read_all()["graphs"].combine_chunks()
            ids, offsets = column.values.to_numpy(), column.offsets.to_numpy()
            return Batches(ids.astype(np.int64), offsets.astype(np.int64))
    except (pa.ArrowException, OSError, KeyError, AttributeError) as error:
        message = f"{path}: not the batches of a plan ({error}); create the plan again"
        raise ArtifactError(message) from error
