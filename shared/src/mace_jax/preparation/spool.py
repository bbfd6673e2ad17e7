"""Structures of a split as they are read, kept in a flat file until their order is known."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.atomic_write import FileWriter
from mace_jax.artifacts.dataset import DatasetWriter
from mace_jax.elements import MAX_ATOMIC_NUMBER
from mace_jax.structures.structure_block import StructureBlock

_ORIGINS = ".origins"
_ORIGIN = np.dtype([("source", "<i4"), ("config_type", "<i4"), ("frame", "<i8")])


class Spool(FileWriter):
    """Appends structures to a file, and where each came from to another beside it.

    Attributes:
        path: the file, a flat dataset; complete once the context has ended.
        labels: structures that have each label.
    """

    def __init__(self, path: Path, provenance: dict[str, Any]) -> None:
        """Open the files."""
        self.path = path
        self.labels: Counter[str] = Counter()
        self._n_atoms = np.zeros(MAX_ATOMIC_NUMBER + 1, np.int64)
        self._writer = DatasetWriter(path, provenance, layout="flat")
        self._origins = path.with_suffix(_ORIGINS).open("wb")
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        """Return the number of structures."""
        return self._writer.n_structures

    def add(self, block: StructureBlock, source: int, frames: Sequence[int]) -> None:
        """Append structures: frames number ``frames`` of file number ``source``."""
        self._writer.write_block(block)
        origins = np.empty(len(block), _ORIGIN)
        origins["source"], origins["frame"] = source, frames
        origins["config_type"] = [
            self._codes.setdefault(name, len(self._codes)) for name in block.config_types
        ]
        self._origins.write(origins.tobytes())
        self._n_atoms += np.bincount(block.atomic_numbers, minlength=len(self._n_atoms))
        self.labels.update({name: int(label.present.sum()) for name, label in block.labels.items()})

    @property
    def elements(self) -> list[int]:
        """Return the atomic numbers that occur."""
        return np.flatnonzero(self._n_atoms).tolist()

    def by_config_type(self) -> dict[str, NDArray[np.int64]]:
        """Return which structures are of each config type."""
        codes = _mapped_origins(self.path)["config_type"]
        return {name: np.flatnonzero(codes == code) for name, code in self._codes.items()}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._writer, self._origins:
            yield


def read_origins(path: Path, numbers: NDArray[np.int64] | None = None) -> NDArray[np.void]:
    """Return where structures of the spool at ``path``, by default all, came from.

    Fields: ``source`` and ``frame``, as given to ``add``.
    """
    if numbers is None:
        return np.array(_mapped_origins(path))
    size = _ORIGIN.itemsize
    with path.with_suffix(_ORIGINS).open("rb") as file:  # mapped, it would count as memory
        rows = [os.pread(file.fileno(), size, number * size) for number in numbers.tolist()]
    return np.frombuffer(b"".join(rows), _ORIGIN)


def _mapped_origins(path: Path) -> NDArray[np.void]:
    """Return all of them, in no memory of their own."""
    return np.memmap(path.with_suffix(_ORIGINS), _ORIGIN, "r")
