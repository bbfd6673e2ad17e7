"""Writing predictions block by block: ``.h5``, ``.extxyz``, ``.parquet`` and ``.npz``.

Memory does not grow with the number of blocks, but for ``.npz``, which is one piece.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.atomic_write import atomic_file
from mace_jax.artifacts.extxyz_writer import LABEL_PREFIX, flat_metadata
from mace_jax.artifacts.hdf5_rows import GrowingArrays, write_names
from mace_jax.artifacts.predictions import (
    EXTXYZ_SUFFIXES,
    HDF5_SUFFIXES,
    OWN_HEADS,
    SHAPES,
    PredictedBlock,
    Predictions,
    is_per_atom,
    predictions_metadata,
    require_predictions_suffix,
)
from mace_jax.artifacts.predictions_file import STRUCTURE, label_group
from mace_jax.artifacts.versioned import Document
from mace_jax.structures.ragged import offsets_of
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure, volume, volumes
from mace_jax.structures.structure_block import StructureBlock

# Of what is predicted, in extxyz.
PREFIX = "MACE_"


class BlockWriter(Protocol):
    """Takes blocks in order, within a context that completes the file."""

    def write(self, block: PredictedBlock) -> None:
        """Append structures and their predictions."""
        ...


@contextmanager
def writing_predictions(
    path: Path, metadata: Document, *, prefix: str = PREFIX
) -> Iterator[BlockWriter]:
    """Write predictions atomically in the format of the suffix.

    Args:
        path: target.
        metadata: of ``predictions_metadata``; every block must have all of its quantities.
        prefix: of predictions in extxyz.
    """
    require_predictions_suffix(path)
    with atomic_file(path) as temporary:
        if path.suffix in HDF5_SUFFIXES:
            writer: Any = _Hdf5Writer(temporary, metadata)
        elif path.suffix in EXTXYZ_SUFFIXES:
            writer = _ExtxyzWriter(temporary, metadata, prefix)
        elif path.suffix == ".parquet":
            writer = _ParquetWriter(temporary, metadata)
        else:
            writer = _NpzWriter(temporary, metadata)
        with writer:
            yield writer


def write_predictions(
    path: Path,
    predictions: Predictions,
    structures: Sequence[Structure],
    head: str,
    provenance: dict[str, Any],
) -> None:
    """Write predictions that are in memory atomically in the format of the suffix.

    Args:
        path: target.
        predictions: the numbers.
        structures: what they belong to; their labels are written along.
        head: the readout head used, or ``OWN_HEADS``.
        provenance: record of ``make_provenance``.
    """
    require_predictions_suffix(path)
    known = {name for structure in structures for name in structure.properties}
    metadata = predictions_metadata(
        path,
        provenance,
        head=head,
        quantities=list(predictions.quantities),
        labels=[name for name in PROPERTY_SHAPES if name in known],
        n_graph=len(predictions.n_node),
    )
    block = PredictedBlock(
        structures,
        ["structures"] * len(structures),
        np.arange(len(structures)),
        [structure.head if head == OWN_HEADS else head for structure in structures],
        predictions.quantities,
    )
    with writing_predictions(path, metadata) as writer:
        writer.write(block)


class _Writer:
    """What the writers share: they complete the file unless there was an error."""

    def finish(self) -> None:
        """Complete the file."""

    def close(self) -> None:
        """Close the file, complete or not."""

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.close()


class _Hdf5Writer(_Writer):
    """Appends to the arrays of the HDF5 form."""

    def __init__(self, path: Path, metadata: Document) -> None:
        self._file = h5py.File(path, "w", libver=("earliest", "v110"))
        self._metadata = metadata
        self._arrays = GrowingArrays(self._file)
        self._codes: dict[str, int] = {}

    def write(self, block: PredictedBlock) -> None:
        append = self._arrays.append
        structures = StructureBlock.of(block.structures)
        append("n_node", structures.n_atoms.astype(np.int32))
        append("atomic_numbers", structures.atomic_numbers.astype(np.uint8))
        table = np.empty(len(structures), STRUCTURE)
        table["source"], table["frame"] = self._codes_of(block.sources), block.frames
        table["head"] = self._codes_of(block.heads)
        table["config_type"] = self._codes_of(structures.config_types)
        table["volume"] = volumes(structures.cells, structures.pbc)
        append("structures", table)
        for name, rows in block.predictions.items():
            append(f"predictions/{name}", rows)
        for name in self._metadata["labels"]:
            present, values = structures.label(name)
            append(f"{label_group(name)}/present", present)
            append(f"{label_group(name)}/values", values)

    def _codes_of(self, names: Any) -> list[int]:
        return [self._codes.setdefault(name, len(self._codes)) for name in names]

    def finish(self) -> None:
        self._arrays.finish()
        write_names(self._file, "names", self._codes)
        for name, value in self._metadata.items():
            self._file.attrs[name] = json.dumps(value, ensure_ascii=False)

    def close(self) -> None:
        self._file.close()


class _NpzWriter(_Writer):
    """Keeps everything until the end; holds predictions alone."""

    def __init__(self, path: Path, metadata: Document) -> None:
        self._path, self._metadata = path, {**metadata, "labels": []}
        self._pieces: dict[str, list[NDArray[Any]]] = {}

    def write(self, block: PredictedBlock) -> None:
        for name, rows in {"n_node": block.n_node, **block.predictions}.items():
            self._pieces.setdefault(name, []).append(rows)

    def finish(self) -> None:
        arrays: dict[str, Any] = {
            name: np.concatenate(pieces) for name, pieces in self._pieces.items()
        }
        with self._path.open("wb") as file:
            np.savez(file, **arrays, metadata=np.array(json.dumps(self._metadata)))


class _ParquetWriter(_Writer):
    """Writes a row for each structure, and a row group for each block."""

    def __init__(self, path: Path, metadata: Document) -> None:
        self._path, self._metadata = path, metadata
        self._writer: Any = None

    def write(self, block: PredictedBlock) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(dict(self._columns(block)))
        if self._writer is None:
            schema = table.schema.with_metadata({"mace_jax": json.dumps(self._metadata)})
            self._writer = pq.ParquetWriter(self._path, schema)
        self._writer.write_table(table.replace_schema_metadata(self._writer.schema.metadata))

    def _columns(self, block: PredictedBlock) -> Iterator[tuple[str, Any]]:
        import pyarrow as pa

        structures = block.structures
        yield "source", pa.array(block.sources, pa.string())
        yield "frame", pa.array(block.frames, pa.int64())
        yield "head", pa.array(block.heads, pa.string())
        yield "config_type", pa.array([s.config_type for s in structures], pa.string())
        yield "n_node", pa.array(block.n_node, pa.int64())
        yield (
            "atomic_numbers",
            pa.array([s.atomic_numbers for s in structures], pa.list_(pa.int64())),
        )
        for name in block.predictions:
            rows = [predicted[name] for predicted in one_by_one(block)]
            real = pa.from_numpy_dtype(block.predictions[name].dtype)
            yield name, _column(rows, scalar=not SHAPES[name], real=real)
        for name in self._metadata["labels"]:
            values = [structure.properties.get(name) for structure in structures]
            scalar = not PROPERTY_SHAPES[name]
            yield LABEL_PREFIX + name, _column(values, scalar=scalar, real=pa.float64())

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _column(rows: list[Any], *, scalar: bool, real: Any) -> Any:
    """Return an Arrow array of numbers, or of flat lists; None where there is nothing."""
    import pyarrow as pa

    flat = [None if row is None else float(row) if scalar else np.ravel(row) for row in rows]
    return pa.array(flat, real if scalar else pa.list_(real))


class _ExtxyzWriter(_Writer):
    """Writes frames with predictions, labels, and what else the structures came with."""

    def __init__(self, path: Path, metadata: Document, prefix: str) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._metadata: Document | None = metadata
        self._prefix = prefix

    def write(self, block: PredictedBlock) -> None:
        from ase import Atoms
        from ase.io.extxyz import write_extxyz

        pairs = zip(block.structures, block.heads, one_by_one(block), strict=True)
        for structure, head, predicted in pairs:
            atoms = Atoms(
                numbers=structure.atomic_numbers,
                positions=structure.positions,
                cell=structure.cell,
                pbc=structure.pbc,
            )
            if self._metadata:
                atoms.info.update(flat_metadata(self._metadata))
                self._metadata = None
            atoms.info |= {"config_type": structure.config_type, "head": head}
            for name, value in structure.inputs.items():
                (atoms.arrays if value.ndim else atoms.info)[name] = _plain(value)
            for prefix, values, shapes in (
                (self._prefix, predicted, SHAPES),
                (LABEL_PREFIX, structure.properties, PROPERTY_SHAPES),
            ):
                for name, value in with_meaning(values, structure):
                    place = atoms.arrays if "n" in shapes[name] else atoms.info
                    place[prefix + name] = _plain(value)
            write_extxyz(self._file, [atoms], write_results=False)

    def close(self) -> None:
        self._file.close()


def with_meaning(
    values: Mapping[str, NDArray[Any]], structure: Structure
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield values of one structure by name; a molecule has neither stress nor virials."""
    in_a_cell = bool(np.isfinite(volume(structure)))
    for name, value in values.items():
        if in_a_cell or name not in ("stress", "virials"):
            yield name, value


def _plain(value: NDArray[Any]) -> Any:
    return value if np.ndim(value) else float(value)


def one_by_one(block: PredictedBlock) -> Iterator[dict[str, NDArray[np.floating]]]:
    """Yield the predictions of each structure by name, in the shapes of one structure."""
    for index, (start, stop) in enumerate(pairwise(offsets_of(block.n_node).tolist())):
        yield {
            name: rows[start:stop] if is_per_atom(name) else rows[index, ...]
            for name, rows in block.predictions.items()
        }
