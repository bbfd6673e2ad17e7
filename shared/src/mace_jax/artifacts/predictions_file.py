"""Reading the HDF5 form of predictions in blocks, with the labels beside them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.hdf5_rows import read_names
from mace_jax.artifacts.predictions import KIND, SHAPES, PredictedBlock, is_per_atom
from mace_jax.artifacts.versioned import Document, check_document
from mace_jax.errors import ArtifactError
from mace_jax.structures.structure import PROPERTY_SHAPES, volumes
from mace_jax.structures.structure_block import Label, StructureBlock
from mace_jax.structures.structure_block import is_per_atom as is_label_per_atom

STRUCTURE = np.dtype(
    [
        ("source", "<i4"),
        ("frame", "<i8"),
        ("head", "<i4"),
        ("config_type", "<i4"),
        ("volume", "<f8"),
    ]
)
_REMEDY = "create it with mace-jax-predict"


def label_group(name: str) -> str:
    """Return where a label stands in the file."""
    return f"labels/{name}"


class PredictionsBlock(NamedTuple):
    """Some structures of a file in succession, n with N atoms in all.

    Attributes:
        n_node: atoms of each structure, int64 ``[n]``.
        atomic_numbers: int64 ``[N]``.
        volumes: Å³, infinite without a periodic cell, ``[n]``.
        sources, frames: the file that each was read from, and its number there, from 0.
        heads: the readout head that predicted each.
        config_types: one a structure.
        predictions: rows by name, ``[n, …]`` or ``[N, …]``.
        labels: by name.
    """

    n_node: NDArray[np.int64]
    atomic_numbers: NDArray[np.int64]
    volumes: NDArray[np.float64]
    sources: list[str]
    frames: NDArray[np.int64]
    heads: list[str]
    config_types: list[str]
    predictions: Mapping[str, NDArray[np.floating]]
    labels: Mapping[str, Label]

    @classmethod
    def of(cls, block: PredictedBlock) -> "PredictionsBlock":
        """Return what a file says of structures that were just predicted."""
        structures = StructureBlock.of(block.structures)
        return cls(
            structures.n_atoms,
            structures.atomic_numbers,
            volumes(structures.cells, structures.pbc),
            list(block.sources),
            block.frames,
            list(block.heads),
            list(structures.config_types),
            block.predictions,
            structures.labels,
        )


class PredictionsFile:
    """An HDF5 file of predictions. Use it as a context manager, or call ``close``.

    Attributes:
        path: of the file.
        metadata: what the file says about itself.
    """

    def __init__(self, path: Path) -> None:
        """Open the file and check it.

        Raises:
            ArtifactError: it is missing, damaged, or something else.
        """
        self.path = path
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            message = f"{path}: not a predictions file in HDF5 ({error}); {_REMEDY}"
            raise ArtifactError(message) from error
        try:
            self.metadata = self._checked_metadata()
            self._names = read_names(self._file, "names")
            self._check_arrays()
        except BaseException:
            self.close()
            raise

    def _checked_metadata(self) -> Document:
        try:
            document = {name: json.loads(text) for name, text in self._file.attrs.items()}
        except (TypeError, ValueError, OSError) as error:
            message = f"{self.path}: root attributes: {error}; {_REMEDY}"
            raise ArtifactError(message) from error
        return check_document(document, KIND, self.path)

    def _check_arrays(self) -> None:
        n = self._check("n_node", np.dtype("<i4"), None)
        if n != self.metadata["n_graph"]:
            expected = str(self.metadata["n_graph"])
            error = self._wrong("n_node", f"{n} rows", expected)
            raise error
        n_node = self._file["n_node"][:]
        n_atoms = int(n_node.sum(dtype=np.int64))
        self._check("structures", STRUCTURE, n)
        self._check("atomic_numbers", np.dtype("u1"), n_atoms)
        for name in self.metadata["quantities"]:
            row = [size for size in SHAPES[name] if size != "n"]
            length = n_atoms if is_per_atom(name) else n
            self._check(f"predictions/{name}", None, length, *row)
        for name in self.metadata["labels"]:
            self._check(f"{label_group(name)}/present", np.dtype(bool), n)
            present = self._file[f"{label_group(name)}/present"][:]
            length = int(n_node[present].sum() if is_label_per_atom(name) else present.sum())
            row = [size for size in PROPERTY_SHAPES[name] if size != "n"]
            self._check(f"{label_group(name)}/values", np.dtype("<f8"), length, *row)

    def _check(self, name: str, dtype: np.dtype | None, length: int | None, *row: str | int) -> int:
        """Check an array, whose rows may have any length where ``row`` says ``k``; return rows."""
        array = self._file.get(name)
        if not isinstance(array, h5py.Dataset):
            raise self._wrong(name, "missing", "an array")
        fits = len(row) == array.ndim - 1 and all(
            size in ("k", found) for size, found in zip(row, array.shape[1:], strict=True)
        )
        if not fits or (length is not None and len(array) != length):
            expected = ("n" if length is None else length, *row)
            raise self._wrong(name, f"shape {array.shape}", str(expected))
        if array.dtype != dtype if dtype is not None else array.dtype.kind != "f":
            raise self._wrong(name, str(array.dtype), str(dtype or "real numbers"))
        return len(array)

    def _wrong(self, name: str, found: str, expected: str) -> ArtifactError:
        message = f"{self.path}: {name}: {found}, expected {expected}; {_REMEDY}"
        return ArtifactError(message)

    def __len__(self) -> int:
        """Return the number of structures."""
        return int(self.metadata["n_graph"])

    def blocks(self, size: int = 4096) -> Iterator[PredictionsBlock]:
        """Yield up to ``size`` structures at a time, in order.

        Raises:
            ArtifactError: the file is damaged.
        """
        atom, rows = 0, dict.fromkeys(self.metadata["labels"], 0)
        for start in range(0, len(self), size):
            structures = slice(start, min(start + size, len(self)))
            try:
                n_node = self._file["n_node"][structures].astype(np.int64)
                atoms = slice(atom, atom + int(n_node.sum()))
                yield self._block(structures, atoms, n_node, rows)
            except (OSError, IndexError) as error:
                message = f"{self.path}: damaged ({error}); {_REMEDY}"
                raise ArtifactError(message) from error
            atom = atoms.stop

    def _block(
        self, structures: slice, atoms: slice, n_node: NDArray[np.int64], rows: dict[str, int]
    ) -> PredictionsBlock:
        """Return a block, and let ``rows`` say where the labels of the next one begin."""
        table = self._file["structures"][structures]
        labels = {}
        for name in rows:
            group = self._file[label_group(name)]
            present = group["present"][structures]
            count = int((present * n_node).sum() if is_label_per_atom(name) else present.sum())
            labels[name] = Label(present, group["values"][rows[name] : rows[name] + count])
            rows[name] += count
        return PredictionsBlock(
            n_node,
            self._file["atomic_numbers"][atoms].astype(np.int64),
            table["volume"],
            self._texts(table["source"]),
            table["frame"],
            self._texts(table["head"]),
            self._texts(table["config_type"]),
            {
                name: self._file[f"predictions/{name}"][atoms if is_per_atom(name) else structures]
                for name in self.metadata["quantities"]
            },
            labels,
        )

    def _texts(self, codes: NDArray[np.integer]) -> list[str]:
        return [self._names[code] for code in codes.tolist()]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "PredictionsFile":
        """Return the file itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file."""
        self.close()
