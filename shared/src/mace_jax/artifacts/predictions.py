"""Predictions as ``.npz``, ``.extxyz`` or ``.parquet``, in the order of the input."""

import json
import zipfile
from collections.abc import Mapping, Sequence
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


# Shape of each quantity in terms of the number of atoms n.
SHAPES: dict[str, tuple[str | int, ...]] = {
    "energy": (),
    "forces": ("n", 3),
    "stress": (3, 3),
    "virials": (3, 3),
    "node_energy": ("n",),
    "dipole": (3,),
    "atomic_dipoles": ("n", 3),
    "charges": ("n",),
    "polarizability": (3, 3),
}


@dataclass(frozen=True)
class Predictions:
    """Predicted quantities of many structures, in input order.

    Attributes:
        n_node: atoms of each structure, ``[n_graph]``.
        quantities: by name, what the model predicts, ``[n_graph, …]`` or ``[n_atoms_total, …]``:
            ``energy`` (total, eV), ``forces`` (eV/Å), ``stress`` (eV/Å³, zero for a structure
            without a periodic cell), ``virials`` (eV), ``node_energy`` (eV, E0 included),
            ``dipole`` and ``atomic_dipoles`` (Debye; e·Å by AtomicDielectricMACE),
            ``charges`` (e), ``polarizability``.
    """

    n_node: NDArray[np.int64]
    quantities: Mapping[str, NDArray[np.float64]]

    def of_structure(self, index: int) -> dict[str, NDArray[np.float64]]:
        """Return the arrays of one structure."""
        end = int(self.n_node[: index + 1].sum())
        atoms = slice(end - int(self.n_node[index]), end)
        return {
            name: array[atoms] if "n" in SHAPES[name] else array[index]
            for name, array in self.quantities.items()
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
        "quantities": list(predictions.quantities),
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
        arrays: dict[str, Any] = {"n_node": predictions.n_node, **predictions.quantities}
        np.savez(file, **arrays, metadata=np.array(json.dumps(metadata)))


def _write_parquet(path: Path, predictions: Predictions, metadata: Document) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    per_atom = np.concatenate([[0], np.cumsum(predictions.n_node)])
    atoms = [slice(*bounds) for bounds in pairwise(per_atom)]
    columns: dict[str, Any] = {"n_node": predictions.n_node}
    for name, array in predictions.quantities.items():
        if "n" in SHAPES[name]:
            columns[name] = [array[rows].ravel() for rows in atoms]
        else:
            columns[name] = list(array.reshape(len(array), -1)) if SHAPES[name] else array
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata({"mace_jax": json.dumps(metadata)}), path)


def _write_extxyz(
    path: Path, predictions: Predictions, structures: Sequence[Structure], metadata: Document
) -> None:
    from ase import Atoms
    from ase.io.extxyz import write_extxyz

    with path.open("w", encoding="utf-8") as file:
        for index, structure in enumerate(structures):
            atoms = Atoms(
                numbers=structure.atomic_numbers,
                positions=structure.positions,
                cell=structure.cell,
                pbc=structure.pbc,
            )
            if index == 0:
                atoms.info.update(_flat_metadata(metadata))
            for name, value in predictions.of_structure(index).items():
                if name in ("stress", "virials") and not np.isfinite(volume(structure)):
                    continue
                if "n" in SHAPES[name]:
                    atoms.arrays[name] = value
                else:
                    atoms.info[name] = value if SHAPES[name] else float(value)
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
        predictions = Predictions(arrays.pop("n_node"), arrays)
    except _UNREADABLE as error:
        message = f"{path}: not a predictions file ({error}); create it with mace-jax-predict"
        raise ArtifactError(message) from error
    metadata = check_document(metadata, KIND, path)
    _check_shapes(predictions, metadata["quantities"], path)
    return metadata, predictions


def _check_shapes(predictions: Predictions, quantities: Sequence[str], path: Path) -> None:
    remedy = "create it with mace-jax-predict"
    if set(predictions.quantities) != set(quantities):
        message = (
            f"{path}: arrays {sorted(predictions.quantities)}, expected {sorted(quantities)}; "
            f"{remedy}"
        )
        raise ArtifactError(message)
    n_graph, n_atoms = predictions.n_node.size, int(predictions.n_node.sum())
    for name, array in predictions.quantities.items():
        shape = tuple(size for size in SHAPES[name] if size != "n")
        expected = (n_atoms if "n" in SHAPES[name] else n_graph, *shape)
        if array.shape != expected:
            message = f"{path}: {name}: shape {array.shape}, expected {expected}; {remedy}"
            raise ArtifactError(message)
