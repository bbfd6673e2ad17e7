"""Predictions: what is in a file of them, and the ``.npz`` form."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.versioned import Document, check_document, tag
from mace_jax.errors import ArtifactError, ConfigError
from mace_jax.structures.structure import Structure

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
HDF5_SUFFIXES = (".h5", ".hdf5")
EXTXYZ_SUFFIXES = (".extxyz", ".xyz")
SUFFIXES = (*HDF5_SUFFIXES, ".npz", *EXTXYZ_SUFFIXES, ".parquet")
# How files say that each structure was predicted by the readout head that it names.
OWN_HEADS = "each structure's own"

# Shape of each quantity in terms of the number of atoms n, and of features k.
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
    "descriptors": ("n", "k"),
}


def is_per_atom(name: str) -> bool:
    """Return whether a quantity has a row for each atom, and not one for the structure."""
    return "n" in SHAPES[name]


@dataclass(frozen=True)
class Predictions:
    """Predicted quantities of many structures, in input order.

    Attributes:
        n_node: atoms of each structure, ``[n_graph]``.
        quantities: by name, what the model predicts, ``[n_graph, …]`` or ``[n_atoms_total, …]``:
            ``energy`` (total, eV), ``forces`` (eV/Å), ``stress`` (eV/Å³, zero for a structure
            without a periodic cell), ``virials`` (eV), ``node_energy`` (eV, E0 included),
            ``dipole`` and ``atomic_dipoles`` (Debye; e·Å by AtomicDielectricMACE),
            ``charges`` (e), ``polarizability``, ``descriptors``.
    """

    n_node: NDArray[np.int64]
    quantities: Mapping[str, NDArray[np.floating]]

    def of_structure(self, index: int) -> dict[str, NDArray[np.floating]]:
        """Return the arrays of one structure."""
        end = int(self.n_node[: index + 1].sum())
        atoms = slice(end - int(self.n_node[index]), end)
        return {
            name: array[atoms] if is_per_atom(name) else array[index]
            for name, array in self.quantities.items()
        }


class PredictedBlock(NamedTuple):
    """Some structures in succession and what was predicted of them.

    Attributes:
        structures: with the labels that they came with.
        sources, frames: the file that each was read from, and its number there, from 0.
        heads: the readout head that predicted each.
        predictions: rows of all of them, as in ``Predictions.quantities``.
    """

    structures: Sequence[Structure]
    sources: Sequence[str]
    frames: NDArray[np.int64]
    heads: Sequence[str]
    predictions: Mapping[str, NDArray[np.floating]]

    @property
    def n_node(self) -> NDArray[np.int64]:
        """Atoms of each structure."""
        return np.array([len(structure) for structure in self.structures], np.int64)


def require_predictions_suffix(path: Path) -> None:
    """Check that a format can be told from the suffix.

    Raises:
        ConfigError: it cannot.
    """
    if path.suffix not in SUFFIXES:
        message = f"{path}: unknown suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}"
        raise ConfigError(message)


def predictions_metadata(
    path: Path,
    provenance: dict[str, Any],
    *,
    head: str,
    quantities: Sequence[str],
    labels: Sequence[str],
    n_graph: int,
    n_skipped: int = 0,
) -> Document:
    """Return the checked metadata of a file of predictions.

    Args:
        path: of the file, for messages.
        provenance: record of ``make_provenance``.
        head: the readout head used, or ``OWN_HEADS``.
        quantities: names of what was predicted.
        labels: names of the labels that are written along.
        n_graph: structures.
        n_skipped: structures of the input that were passed over.
    """
    metadata = {
        "schema": tag(KIND),
        "provenance": provenance,
        "head": head,
        "quantities": list(quantities),
        "labels": list(labels),
        "n_graph": n_graph,
        "n_skipped": n_skipped,
    }
    return check_document(metadata, KIND, path)


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
        sizes = {"n": n_atoms, "k": array.shape[-1] if array.ndim else 0}
        shape = tuple(sizes[size] if isinstance(size, str) else size for size in SHAPES[name])
        expected = shape if is_per_atom(name) else (n_graph, *shape)
        if array.shape != expected:
            message = f"{path}: {name}: shape {array.shape}, expected {expected}; {remedy}"
            raise ArtifactError(message)
