"""What is to be predicted: extxyz or HDF5, read as one list of structures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mace_jax.artifacts.dataset import SUFFIXES, Dataset
from mace_jax.artifacts.provenance import Input, external_input
from mace_jax.structures.read_structures import read_structures
from mace_jax.structures.structure import Structure


class LoadedStructures(NamedTuple):
    """Structures and the provenance entry of their file."""

    structures: list[Structure]
    as_input: Input


def read_input(path: Path, inputs: Sequence[str] = ()) -> LoadedStructures:
    """Read an extxyz file, or an HDF5 file, folder or glob.

    Args:
        path: what to read.
        inputs: names of what a model is told beside atoms and positions; HDF5 holds none.

    Raises:
        DataError, ArtifactError: it cannot be read.
    """
    if path.is_dir() or path.suffix in SUFFIXES:
        with Dataset(path) as dataset:
            return LoadedStructures(list(dataset), dataset.as_input("structures"))
    structures, _ = read_structures(path, inputs=inputs)
    return LoadedStructures(structures, external_input("structures", path, "extxyz"))
