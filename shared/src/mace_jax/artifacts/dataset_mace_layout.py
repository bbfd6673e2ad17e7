"""The HDF5 tree of Torch MACE's ``mace_prepare_data``: one group per structure.

``/config_batch_0/config_<j>/{atomic_numbers, positions, cell, pbc, weight, config_type,
properties/…, property_weights/…}``. mace-torch 0.3.16 ``HDF5Dataset`` reads what is written here
and the other way round. A missing property is the text ``None`` with weight 0.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.versioned import Document
from mace_jax.errors import ArtifactError
from mace_jax.structures.neighbor_list import PairList
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure, check_structure
from mace_jax.units import symmetric_matrix

_BATCH = "config_batch_0"
_MISSING = "None"
_TEXT = h5py.string_dtype()


class MaceWriter:
    """Appends structures to an empty file."""

    def __init__(self, file: h5py.File) -> None:
        """Create the one batch that holds all structures of the file."""
        self._batch = file.create_group(_BATCH)
        self.n_structures = 0

    def write(self, structures: Sequence[Structure], pairs: Sequence[PairList] | None) -> None:
        """Append structures; the layout has no place for pairs."""
        for structure in structures:
            _write_structure(self._batch.create_group(f"config_{self.n_structures}"), structure)
            self.n_structures += 1

    def finish(self) -> None:
        """Write what can be known at the end only: nothing."""


def _write_structure(group: h5py.Group, structure: Structure) -> None:
    group["atomic_numbers"] = structure.atomic_numbers.astype(np.int64)
    group["positions"] = structure.positions
    group["cell"] = structure.cell
    group["pbc"] = structure.pbc
    group["weight"] = np.float64(structure.weight)
    group.create_dataset("config_type", data=structure.config_type, dtype=_TEXT)
    properties = group.create_group("properties")
    weights = group.create_group("property_weights")
    for name in PROPERTY_SHAPES:
        if name in structure.properties:
            properties[name] = structure.properties[name]
            weights[name] = np.float64(structure.property_weights.get(name, 1.0))
        else:
            properties.create_dataset(name, data=_MISSING, dtype=_TEXT)
            weights[name] = np.float64(0.0)
    properties.create_dataset("head", data=structure.head, dtype=_TEXT)
    weights["head"] = np.float64(1.0)


class MaceFile:
    """The structures of one file, by number."""

    layout = "mace"
    r_max = None

    def __init__(self, file: h5py.File, attributes: Document | None) -> None:
        """Find the structures.

        Raises:
            ArtifactError: the tree is not Torch MACE's, or holds another number of structures than
                the file says.
        """
        self._file = file
        self._paths = structure_paths(file)
        if attributes and attributes["n_structures"] != len(self._paths):
            message = (
                f"{file.filename}: holds {len(self._paths)} structures, expected "
                f"{attributes['n_structures']}; create it again"
            )
            raise ArtifactError(message)

    def __len__(self) -> int:
        """Return the number of structures."""
        return len(self._paths)

    def place(self, number: int) -> str:
        """Return where structure ``number`` stands, for messages."""
        return f"{self._file.filename}: {self._paths[number]}"

    def read(self, numbers: NDArray[np.int64]) -> list[Structure]:
        """Read structures in the given order."""
        found = []
        for number in numbers.tolist():
            structure = read_structure(self._file, self._paths[number])
            structure = replace(structure, place=self.place(number))
            check_structure(structure)
            found.append(structure)
        return found

    def read_pairs(self, numbers: NDArray[np.int64]) -> list[PairList]:
        """There are none in this layout."""
        raise NotImplementedError


def structure_paths(file: h5py.File) -> list[str]:
    """Return the path of each structure's group, in numeric order.

    Raises:
        ArtifactError: the tree is not Torch MACE's.
    """
    paths = []
    try:
        batches = [name for name in file if name.startswith("config_batch_")]
        for batch in sorted(batches, key=_number):
            paths += [f"{batch}/{config}" for config in sorted(file[batch], key=_number)]
    except (KeyError, ValueError, IndexError, TypeError, RuntimeError):
        paths = []  # names without numbers, or no groups: not a MACE tree
    if not paths:
        message = (
            f"{file.filename}: holds no config_batch_*/config_* groups, expected a MACE dataset; "
            "create it with mace-jax-preprocess"
        )
        raise ArtifactError(message)
    return paths


def read_structure(file: h5py.File, path: str) -> Structure:
    """Read the structure of group ``path``.

    Raises:
        ArtifactError: an item is missing or has an impossible shape.
    """
    group = file[path]
    try:
        properties: dict[str, NDArray[np.float64]] = {}
        weights: dict[str, float] = {}
        for name, item in group["properties"].items():
            value = item[()]
            if name not in PROPERTY_SHAPES or _text(value) == _MISSING:
                continue
            value = np.asarray(value, dtype=np.float64)
            if name in ("stress", "virials", "polarizability"):
                value = symmetric_matrix(value)
            properties[name] = value
            weights[name] = float(group["property_weights"][name][()])
        return Structure(
            group["atomic_numbers"][()].astype(np.int64),
            group["positions"][()].astype(np.float64),
            _array_or_default(group["cell"][()], np.zeros((3, 3))),
            _array_or_default(group["pbc"][()], np.zeros(3)).astype(bool),
            properties,
            weights,
            float(group["weight"][()]),
            _text(group["config_type"][()]) or "Default",
            _head(group),
        )
    except (KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError) as error:
        message = f"{file.filename}: {path}: {error}; create the dataset again"
        raise ArtifactError(message) from error


def _head(group: h5py.Group) -> str:
    head = _text(group["properties"]["head"][()]) if "head" in group["properties"] else ""
    return head if head and head != _MISSING else "Default"


def _array_or_default(value: Any, default: NDArray[Any]) -> NDArray[Any]:
    return default if _text(value) == _MISSING else np.asarray(value)


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else None


def _number(name: str) -> int:
    return int(name.rsplit("_", 1)[1])
