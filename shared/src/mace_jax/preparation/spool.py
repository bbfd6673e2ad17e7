"""Structures of a split as they are read, kept in a flat file until their order is known."""

from array import array
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.dataset import DatasetWriter
from mace_jax.structures.structure import Structure


class Spool(AbstractContextManager["Spool"]):
    """Appends structures to a file, and remembers where each came from.

    Attributes:
        path: the file, a flat dataset; complete once the context has ended.
        elements: atoms of each element.
        labels: structures that have each label.
    """

    def __init__(self, path: Path, provenance: dict[str, Any]) -> None:
        """Open the file."""
        self.path = path
        self.elements: Counter[int] = Counter()
        self.labels: Counter[str] = Counter()
        self._writer = DatasetWriter(path, provenance, layout="flat")
        self._sources, self._frames, self._config_types = array("l"), array("q"), array("l")
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        """Return the number of structures."""
        return len(self._frames)

    def add(self, structure: Structure, source: int, frame: int) -> None:
        """Append a structure: frame number ``frame`` of file number ``source``."""
        self._writer.write([structure])
        self._sources.append(source)
        self._frames.append(frame)
        self._config_types.append(self._codes.setdefault(structure.config_type, len(self._codes)))
        self.elements.update(structure.atomic_numbers.tolist())
        self.labels.update(structure.properties.keys())

    def origins(self) -> NDArray[np.int64]:
        """Return file and frame number of each structure, ``[n, 2]``."""
        return np.stack([np.array(self._sources, np.int64), np.array(self._frames)], axis=1)

    def by_config_type(self) -> dict[str, NDArray[np.int64]]:
        """Return which structures are of each config type."""
        codes = np.array(self._config_types)
        return {name: np.flatnonzero(codes == code) for name, code in self._codes.items()}

    def __enter__(self) -> "Spool":
        """Open the writer."""
        self._writer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Complete the file, or remove it after an error."""
        self._writer.__exit__(kind, error, trace)
