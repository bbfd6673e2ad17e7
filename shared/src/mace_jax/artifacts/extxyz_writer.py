"""Structures as extended XYZ that keeps every number: what is read back is what was written.

ASE's own writer rounds columns to eight decimals.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.atomic_write import atomic_file
from mace_jax.artifacts.versioned import Document
from mace_jax.elements import SYMBOLS
from mace_jax.errors import DataError
from mace_jax.structures.extxyz_parser import parse_frame
from mace_jax.structures.frame import to_structure
from mace_jax.structures.label_keys import LabelKeys
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure

# Of labels: the first key that readers of this chain, and of Torch MACE's, look for.
LABEL_PREFIX = "REF_"


class ExtxyzWriter:
    """Appends frames to a file; the first says where the file came from."""

    def __init__(self, file: TextIO, provenance: dict[str, Any]) -> None:
        """Write nothing yet.

        Args:
            file: open for text.
            provenance: record of ``make_provenance``.
        """
        self._file = file
        self._entries = flat_metadata({"provenance": provenance})

    def write(self, structures: Sequence[Structure]) -> None:
        """Append structures with their labels, weights, config types, heads and inputs.

        Raises:
            DataError: a config type or head is one that extended XYZ cannot hold.
        """
        for structure in structures:
            self._file.write(frame_text(structure, self._entries))
            self._entries = {}


@contextmanager
def writing_extxyz(path: Path, provenance: dict[str, Any]) -> Iterator[ExtxyzWriter]:
    """Write a file of structures atomically, in memory that does not grow with it."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield ExtxyzWriter(file, provenance)


def frame_text(structure: Structure, entries: Mapping[str, str]) -> str:
    """Return one frame.

    Args:
        structure: what is written.
        entries: more for the comment line.

    Raises:
        DataError: a config type or head is one that extended XYZ cannot hold.
    """
    from ase.io.extxyz import key_val_dict_to_str

    for name in (structure.config_type, structure.head):
        if not _is_read_back(name):
            message = (
                f"{structure.place}: extended XYZ cannot hold the name {name!r}, expected one that "
                "is read as it is written; write HDF5, or correct config_type and head"
            )
            raise DataError(message)
    per_atom, per_structure = _columns_and_entries(structure)
    columns = {"pos": structure.positions, **per_atom}
    rows = np.concatenate(
        [np.reshape(values, (len(structure), -1)) for values in columns.values()], axis=1
    )
    kinds = [f"{name}:R:{np.size(values[0])}" for name, values in columns.items()]
    comment = key_val_dict_to_str(
        {
            **({"Lattice": structure.cell.ravel()} if structure.cell.any() else {}),
            "Properties": ":".join(["species:S:1", *kinds]),
            **per_structure,
            **entries,
            "pbc": structure.pbc,
        }
    )
    lines = [
        f"{SYMBOLS[number]} {' '.join(map(repr, row))}"
        for number, row in zip(structure.atomic_numbers.tolist(), rows.tolist(), strict=True)
    ]
    return "\n".join([str(len(structure)), comment, *lines, ""])


def _columns_and_entries(
    structure: Structure,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Return what has a row for each atom, and what is of the whole structure."""
    columns: dict[str, NDArray[np.float64]] = {}
    entries: dict[str, Any] = {"config_type": structure.config_type, "head": structure.head}
    weights = {"config_weight": structure.weight} | {
        f"config_{name}_weight": structure.property_weights.get(name, 1.0)
        for name in structure.properties
    }
    entries |= {key: weight for key, weight in weights.items() if weight != 1}
    for name, value in structure.properties.items():
        place = columns if "n" in PROPERTY_SHAPES[name] else entries
        place[LABEL_PREFIX + name] = value
    for name, value in structure.inputs.items():
        (columns if value.ndim and len(value) == len(structure) else entries)[name] = value
    return columns, {
        key: np.ravel(value) if np.ndim(value) else value for key, value in entries.items()
    }


@cache
def _is_read_back(name: str) -> bool:
    """Return whether a name on the comment line is no number, word or escape of another meaning."""
    from ase.io.extxyz import key_val_dict_to_str

    comment = key_val_dict_to_str({"config_type": name, "head": name})
    try:
        frame = parse_frame(comment.encode(), b"H 0 0 0\n", 1, "", 0)
        return to_structure(frame, LabelKeys(), "", (), "")[0].config_type == name
    except (DataError, UnicodeEncodeError):
        return False


def flat_metadata(metadata: Document) -> dict[str, str]:
    """Return metadata as comment-line entries, one a field: the C parser refuses long ones."""
    record = {**metadata, **metadata["provenance"]}
    del record["provenance"]
    inputs = {f"input_{number}": item for number, item in enumerate(record.pop("inputs"))}
    return {
        f"mace_jax_{name}": json.dumps(value, ensure_ascii=False)
        for name, value in {**record, **inputs}.items()
    }
