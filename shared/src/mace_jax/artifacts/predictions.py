"""Predictions as ``.npz``, ``.extxyz`` or ``.parquet``, in the order of the input."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.atomic_write import atomic_file
from mace_jax.artifacts.versioned import Document, check_document, tag
from mace_jax.errors import ArtifactError, ConfigError
from mace_jax.structures.structure import Structure, volume

KIND = "predictions"
# What numpy and zipfile raise on damaged files.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
)
SUFFIXES = (".npz", ".extxyz", ".xyz", ".parquet")


@dataclass(frozen=True)
class Predictions:
    """Predicted quantities of many structures, in input order.

    Attributes:
        energy: total energy, eV, ``[n_graph]``.
        forces: eV/Å, ``[n_atoms_total, 3]``.
        stress: eV/Å³, ``[n_graph, 3, 3]``; zero for a structure without a periodic cell.
        node_energy: eV, E0 included, ``[n_atoms_total]``.
        n_node: atoms of each structure, ``[n_graph]``.
    """

    energy: NDArray[np.float64]
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]
    node_energy: NDArray[np.float64]
    n_node: NDArray[np.int64]

    def of_structure(self, index: int) -> dict[str, NDArray[np.float64]]:
        """Return the arrays of one structure."""
        end = int(self.n_node[: index + 1].sum())
        atoms = slice(end - int(self.n_node[index]), end)
        return {
            "energy": self.energy[index],
            "forces": self.forces[atoms],
            "stress": self.stress[index],
            "node_energy": self.node_energy[atoms],
        }


def require_predictions_suffix(path: Path) -> None:
    """Check that a format can be told from the suffix.

    Raises:
        ConfigError: it cannot.
    """
    if path.suffix not in SUFFIXES:
        message = f"{path}: unknown suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}"
        raise ConfigError(message)


def write_predictions(
    path: Path,
    predictions: Predictions,
    structures: Sequence[Structure],
    head: str,
    provenance: dict[str, Any],
) -> None:
    """Write predictions atomically in the format of the suffix.

    Args:
        path: target.
        predictions: the numbers.
        structures: what they belong to; written along in extxyz.
        head: the readout head used.
        provenance: record of ``make_provenance``.
    """
    require_predictions_suffix(path)
    metadata = {
        "schema": tag(KIND),
        "provenance": provenance,
        "head": head,
        "quantities": ["energy", "forces", "stress", "node_energy"],
        "n_graph": len(predictions.n_node),
    }
    check_document(metadata, KIND, path)
    with atomic_file(path) as temporary:
        if path.suffix == ".npz":
            _write_npz(temporary, predictions, metadata)
        elif path.suffix == ".parquet":
            _write_parquet(temporary, predictions, metadata)
        else:
            _write_extxyz(temporary, predictions, structures, metadata)


def _write_npz(path: Path, predictions: Predictions, metadata: Document) -> None:
    with path.open("wb") as file:
        np.savez(file, **vars(predictions), metadata=np.array(json.dumps(metadata)))


def _write_parquet(path: Path, predictions: Predictions, metadata: Document) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    per_atom = np.concatenate([[0], np.cumsum(predictions.n_node)])
    atoms = [slice(*bounds) for bounds in pairwise(per_atom)]
    table = pa.table(
        {
            "energy": predictions.energy,
            "n_node": predictions.n_node,
            "forces": [predictions.forces[rows].ravel() for rows in atoms],
            "stress": list(predictions.stress.reshape(-1, 9)),
            "node_energy": [predictions.node_energy[rows] for rows in atoms],
        }
    )
    pq.write_table(table.replace_schema_metadata({"mace_jax": json.dumps(metadata)}), path)


def _write_extxyz(
    path: Path, predictions: Predictions, structures: Sequence[Structure], metadata: Document
) -> None:
    from ase import Atoms
    from ase.io.extxyz import write_extxyz

    with path.open("w", encoding="utf-8") as file:
        for index, structure in enumerate(structures):
            predicted = predictions.of_structure(index)
            atoms = Atoms(
                numbers=structure.atomic_numbers,
                positions=structure.positions,
                cell=structure.cell,
                pbc=structure.pbc,
            )
            atoms.info["energy"] = float(predicted["energy"])
            if np.isfinite(volume(structure)):
                atoms.info["stress"] = predicted["stress"]
            if index == 0:
                atoms.info.update(_flat_metadata(metadata))
            atoms.arrays["forces"] = predicted["forces"]
            atoms.arrays["node_energy"] = predicted["node_energy"]
            write_extxyz(file, [atoms], write_results=False)


def _flat_metadata(metadata: Document) -> dict[str, str]:
    """Return metadata as comment-line entries, one a field: the C parser refuses long ones."""
    record = {**metadata, **metadata["provenance"]}
    del record["provenance"]
    inputs = {f"input_{number}": item for number, item in enumerate(record.pop("inputs"))}
    return {
        f"mace_jax_{name}": json.dumps(value, ensure_ascii=False)
        for name, value in {**record, **inputs}.items()
    }


def read_predictions(path: Path) -> tuple[Document, Predictions]:
    """Read an ``.npz`` of predictions.

    Raises:
        ArtifactError: it is missing, damaged or of another kind.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        metadata = json.loads(str(arrays.pop("metadata")[()]))
        predictions = Predictions(**arrays)
    except _UNREADABLE as error:
        message = f"{path}: not a predictions file ({error}); create it with mace-jax-predict"
        raise ArtifactError(message) from error
    _check_shapes(predictions, path)
    return check_document(metadata, KIND, path), predictions


def _check_shapes(predictions: Predictions, path: Path) -> None:
    n_graph, n_atoms = predictions.n_node.size, int(predictions.n_node.sum())
    shapes = {
        "energy": (n_graph,),
        "forces": (n_atoms, 3),
        "stress": (n_graph, 3, 3),
        "node_energy": (n_atoms,),
    }
    for name, shape in shapes.items():
        found = getattr(predictions, name).shape
        if found != shape:
            message = (
                f"{path}: {name}: shape {found}, expected {shape}; create it with mace-jax-predict"
            )
            raise ArtifactError(message)
