"""Structures with their labels in the format of a file's suffix: HDF5 or extended XYZ."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from mace_jax.artifacts.dataset import SUFFIXES as HDF5_SUFFIXES
from mace_jax.artifacts.dataset import DatasetWriter, Layout
from mace_jax.artifacts.extxyz_writer import writing_extxyz
from mace_jax.errors import ConfigError, DataError
from mace_jax.structures.read_structures import EXTXYZ_SUFFIXES
from mace_jax.structures.structure import Structure


class StructuresWriter(Protocol):
    """Takes structures in order, within a context that completes the file."""

    def write(self, structures: Sequence[Structure]) -> None:
        """Append structures.

        Raises:
            DataError: one cannot be stored in this format.
        """
        ...


def require_structures_suffix(path: Path) -> None:
    """Check that a format can be told from the suffix.

    Raises:
        ConfigError: it cannot.
    """
    known = (*HDF5_SUFFIXES, *EXTXYZ_SUFFIXES)
    if path.suffix not in known:
        message = f"{path}: unknown suffix {path.suffix!r}, expected one of {', '.join(known)}"
        raise ConfigError(message)


@contextmanager
def writing_structures(
    path: Path, provenance: dict[str, Any], *, layout: Layout = "mace"
) -> Iterator[StructuresWriter]:
    """Write a file of structures atomically, in memory that does not grow with it.

    Args:
        path: target; its suffix says the format.
        provenance: record of ``make_provenance``.
        layout: of HDF5.

    Raises:
        ConfigError: the suffix is none of structures.
    """
    require_structures_suffix(path)
    if path.suffix in EXTXYZ_SUFFIXES:
        with writing_extxyz(path, provenance) as extxyz:
            yield extxyz
    else:
        with DatasetWriter(path, provenance, layout=layout) as hdf5:
            yield _WithoutInputs(hdf5)


class _WithoutInputs:
    """Refuses what HDF5 would leave out: inputs of models."""

    def __init__(self, writer: DatasetWriter) -> None:
        self._writer = writer

    def write(self, structures: Sequence[Structure]) -> None:
        for structure in structures:
            if structure.inputs:
                message = (
                    f"{self._writer.path}: {structure.place} has {', '.join(structure.inputs)}, "
                    "for which HDF5 has no place; write extended XYZ (.xyz)"
                )
                raise DataError(message)
        self._writer.write(structures)
