"""The index of a dataset: one row a structure, as Parquet.

It says what a dataset holds without its coordinates and labels, so that batches can be planned, and
data looked through, where the dataset is not.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mace_jax.artifacts.atomic_write import FileWriter, atomic_file
from mace_jax.artifacts.versioned import Document, check_document, parse_json, tag
from mace_jax.elements import SYMBOLS
from mace_jax.errors import ArtifactError, DataError, IncompatibleError
from mace_jax.structures.ragged import offsets_of
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure
from mace_jax.structures.structure_block import StructureBlock, block_digests

KIND = "index"
_ROW_GROUP = 5_000
_SYMBOL = re.compile(r"([A-Z][a-z]?)(\d*)")
_NAME = pa.dictionary(pa.int32(), pa.string())
_TYPES = {
    "source": _NAME,
    "frame": pa.int64(),
    "formula": _NAME,
    "n_atoms": pa.int32(),
    "n_edges": pa.int64(),
    "n_neighbors": pa.list_(pa.field("element", pa.uint16(), nullable=False)),
    "head": _NAME,
    "config_type": _NAME,
    "weight": pa.float64(),
    **dict.fromkeys(PROPERTY_SHAPES, pa.bool_()),
    "digest": pa.string(),
}
_SCHEMA = pa.schema([pa.field(name, kind, nullable=False) for name, kind in _TYPES.items()])


class IndexRow(NamedTuple):
    """What the index says about one structure.

    Attributes:
        source: name of the file it was read from.
        frame: its number there, from 0.
        formula: in Hill's order.
        n_edges: directed edges at the index's cutoff.
        n_neighbors: edges that each atom receives, ``[n_atoms]``.
        energy, forces, …: whether it has this label.
        digest: of its geometry, see ``structure_digest``.
    """

    source: str
    frame: int
    formula: str
    n_atoms: int
    n_edges: int
    n_neighbors: NDArray[np.uint16]
    head: str
    config_type: str
    weight: float
    energy: bool
    forces: bool
    stress: bool
    virials: bool
    dipole: bool
    charges: bool
    polarizability: bool
    digest: str


def index_row(
    structure: Structure, n_neighbors: NDArray[np.integer], source: str, frame: int
) -> IndexRow:
    """Describe one structure as ``index_rows`` does."""
    block = StructureBlock.of([structure])
    (row,) = index_rows(block, n_neighbors, [source], np.array([frame])).to_pylist()
    return IndexRow(**{**row, "n_neighbors": n_neighbors.astype(np.uint16)})


def index_rows(
    block: StructureBlock,
    n_neighbors: NDArray[np.integer],
    sources: Sequence[str],
    frames: NDArray[np.int64],
) -> pa.RecordBatch:
    """Describe structures.

    Args:
        block: any.
        n_neighbors: edges that each atom receives, ``[sum of n_atoms]``.
        sources: names of the files they were read from, ``[n]``.
        frames: their numbers there, ``[n]``.

    Raises:
        DataError: an atom has 65536 neighbors or more.
    """
    _require_short_counts(block, n_neighbors)
    offsets = offsets_of(block.n_atoms)
    columns = {
        "source": sources,
        "frame": frames,
        "formula": _formulas(block),
        "n_atoms": block.n_atoms,
        "n_edges": np.diff(offsets_of(n_neighbors)[offsets]),
        "head": block.heads,
        "config_type": block.config_types,
        "weight": block.weights,
        **{name: block.label(name).present for name in PROPERTY_SHAPES},
        "digest": block_digests(block),
    }
    arrays = {name: pa.array(values, _TYPES[name]) for name, values in columns.items()}
    counts = pa.array(n_neighbors.astype(np.uint16))
    arrays["n_neighbors"] = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), counts, type=_TYPES["n_neighbors"]
    )
    return pa.record_batch([arrays[name] for name in _TYPES], schema=_SCHEMA)


def _require_short_counts(block: StructureBlock, n_neighbors: NDArray[np.integer]) -> None:
    if n_neighbors.max(initial=0) <= np.iinfo(np.uint16).max:
        return
    at = int(n_neighbors.argmax())
    ends = np.cumsum(block.n_atoms)
    owner = int(np.searchsorted(ends, at, side="right"))
    message = (
        f"{block.places[owner]}: atom {at - ends[owner] + block.n_atoms[owner]} has "
        f"{n_neighbors[at]} neighbors, expected at most 65535; lower the cutoff"
    )
    raise DataError(message)


def _formulas(block: StructureBlock) -> list[str]:
    numbers, ends = block.atomic_numbers.astype(np.uint8), np.cumsum(block.n_atoms)[:-1]
    return [_formula(part.tobytes()) for part in np.split(numbers, ends)]


def hill_formula(atomic_numbers: NDArray[np.int64]) -> str:
    """Return a formula in Hill's order: C and H first, the others by symbol; without C all so.

    Args:
        atomic_numbers: ``[n_atoms]``, at least one.
    """
    return _formula(atomic_numbers.astype(np.uint8).tobytes())


@lru_cache(maxsize=256)
def _formula(atomic_numbers: bytes) -> str:
    counts = np.bincount(np.frombuffer(atomic_numbers, np.uint8))
    elements = {SYMBOLS[number]: int(counts[number]) for number in np.flatnonzero(counts)}
    first = ("C", "H") if "C" in elements else ()
    order = sorted(elements, key=lambda s: (first.index(s) if s in first else 2, s))
    return "".join(s if elements[s] == 1 else f"{s}{elements[s]}" for s in order)


class IndexWriter(FileWriter):
    """Writes an index row by row in constant memory.

    A context manager: the file appears, whole, when it is left without an error. Before that the
    digest of the dataset must be set, which is not known earlier.

    Attributes:
        dataset_name: name of the dataset's file or folder.
        dataset_sha256: digest of the dataset, see ``Dataset.sha256``.
    """

    def __init__(
        self, path: Path, provenance: dict[str, Any], *, r_max: float, dataset_name: str = ""
    ) -> None:
        """Say what is going to be written.

        Args:
            path: target.
            provenance: record of ``make_provenance``.
            r_max: cutoff at which edges are counted, Å.
            dataset_name: name of the dataset's file or folder.
        """
        self.path = path
        self.provenance = provenance
        self.r_max = r_max
        self.dataset_name = dataset_name
        self.dataset_sha256 = ""
        self.n_structures = 0
        self._waiting: list[pa.RecordBatch] = []

    def write(self, rows: Sequence[IndexRow]) -> None:
        """Append rows, in the order of the dataset."""
        arrays = [
            pa.array([getattr(row, name) for row in rows], kind) for name, kind in _TYPES.items()
        ]
        self.write_rows(pa.record_batch(arrays, schema=_SCHEMA))

    def write_rows(self, rows: pa.RecordBatch) -> None:
        """Append rows of ``index_rows``, in the order of the dataset."""
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= _ROW_GROUP:
            self._write_waiting(_ROW_GROUP)

    def _write_waiting(self, least: int) -> None:
        """Write row groups while ``least`` rows are waiting."""
        table = pa.Table.from_batches(self._waiting, _SCHEMA)
        while len(table) >= least:
            self._append(table[:_ROW_GROUP])
            table = table[_ROW_GROUP:]
        self._waiting = table.to_batches()

    def _append(self, table: pa.Table) -> None:
        self._parquet.write_table(table, row_group_size=_ROW_GROUP)
        self.n_structures += len(table)
        pa.default_memory_pool().release_unused()  # it keeps ten times what a group takes

    def _metadata(self) -> Document:
        return {
            "schema": tag(KIND),
            "provenance": self.provenance,
            "dataset": {"name": self.dataset_name or self.path.stem, "sha256": self.dataset_sha256},
            "n_structures": self.n_structures,
            "r_max": float(self.r_max),
        }

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with (
            atomic_file(self.path) as temporary,
            pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as self._parquet,
        ):
            yield
            self._write_waiting(1)
            metadata = check_document(self._metadata(), KIND, self.path)
            self._parquet.add_key_value_metadata({"mace_jax": json.dumps(metadata)})


@dataclass(frozen=True)
class Index:
    """An index that was read.

    Attributes:
        table: the columns that were asked for, one row a structure, in the order of the dataset.
        r_max: cutoff at which edges were counted, Å.
        dataset_name: name of the dataset's file or folder.
        dataset_sha256: digest of the dataset.
        n_structures: rows.
    """

    table: pa.Table
    r_max: float
    dataset_name: str
    dataset_sha256: str
    n_structures: int


def read_index(path: Path, columns: Sequence[str] | None = None) -> Index:
    """Read an index.

    Args:
        path: the Parquet file.
        columns: names of the columns that are needed; all without.

    Raises:
        ArtifactError: it is missing, damaged or of another kind.
        KeyError: there is no such column in any index.
    """
    for column in columns or ():
        _SCHEMA.field(column)
    with _open(path) as file:
        metadata = _read_metadata(file, path)
        try:
            table = file.read(None if columns is None else list(columns))
        except (OSError, pa.ArrowException) as error:
            message = f"{path}: damaged ({error}); create it again"
            raise ArtifactError(message) from error
    _check_counts(table, path)
    dataset = metadata["dataset"]
    return Index(
        table.replace_schema_metadata(),
        metadata["r_max"],
        dataset["name"],
        dataset["sha256"],
        metadata["n_structures"],
    )


def elements_of_index(path: Path) -> set[int]:
    """Return the atomic numbers that occur in a dataset.

    Raises:
        ArtifactError: the index is missing, damaged or of another kind.
    """
    return set(atoms_of_elements(read_index(path, ["formula"])))


def atoms_of_elements(index: Index) -> dict[int, int]:
    """Return atomic number -> atoms in the dataset, ascending; the index needs its formulas."""
    found: Counter[str] = Counter()
    for formula in pc.value_counts(index.table["formula"].cast(pa.string())).to_pylist():
        for symbol, count in _SYMBOL.findall(formula["values"]):
            found[symbol] += int(count or 1) * formula["counts"]
    return dict(sorted((SYMBOLS.index(symbol), count) for symbol, count in found.items()))


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        message = f"{path}: not an index ({error}); create it with mace-jax-preprocess"
        raise ArtifactError(message) from error


def _read_metadata(file: pq.ParquetFile, path: Path) -> Document:
    try:
        metadata = parse_json((file.metadata.metadata or {}).get(b"mace_jax", b"null"))
    except ValueError as error:
        message = f"{path}: metadata: {error}; create it with mace-jax-preprocess"
        raise ArtifactError(message) from error
    metadata = check_document(metadata, KIND, path)
    found = file.schema_arrow.remove_metadata()
    if not found.equals(_SCHEMA):
        message = (
            f"{path}: columns {_described(found)}, expected {_described(_SCHEMA)}; "
            "create it with mace-jax-preprocess"
        )
        raise ArtifactError(message)
    if file.metadata.num_rows != metadata["n_structures"]:
        message = (
            f"{path}: holds {file.metadata.num_rows} rows, expected {metadata['n_structures']}; "
            "create it again"
        )
        raise ArtifactError(message)
    return metadata


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _check_counts(table: pa.Table, path: Path) -> None:
    """Check that every atom has its number of neighbors, and that they add up."""
    if not {"n_atoms", "n_neighbors"} <= set(table.column_names):
        return
    lengths = pc.list_value_length(table["n_neighbors"])
    wrong = np.flatnonzero(lengths.to_numpy() != table["n_atoms"].to_numpy())
    if wrong.size:
        row = int(wrong[0])
        message = (
            f"{path}: row {row}: n_neighbors of {lengths[row]} atoms, expected "
            f"{table['n_atoms'][row]}; create it again"
        )
        raise ArtifactError(message)


def merge_indices(
    paths: Sequence[Path],
    target: Path,
    provenance: dict[str, Any],
    dataset_sha256: str,
    dataset_name: str = "",
) -> None:
    """Write the rows of several indices, one after another, as the index of one dataset.

    Args:
        paths: indices in the order of the dataset's files.
        target: where to.
        provenance: record of ``make_provenance``.
        dataset_sha256: digest of the whole dataset.
        dataset_name: name of the dataset's file or folder.

    Raises:
        ArtifactError: one is missing, damaged or of another kind.
        IncompatibleError: they count edges at different cutoffs.
    """
    with _open(paths[0]) as first:
        r_max = _read_metadata(first, paths[0])["r_max"]
    with IndexWriter(target, provenance, r_max=r_max, dataset_name=dataset_name) as writer:
        writer.dataset_sha256 = dataset_sha256
        for path in paths:
            with _open(path) as file:
                metadata = _read_metadata(file, path)
                if metadata["r_max"] != r_max:
                    message = (
                        f"{path}: r_max {metadata['r_max']}, expected {r_max} as in {paths[0]}; "
                        "create all with one cutoff"
                    )
                    raise IncompatibleError(message)
                for group in range(file.num_row_groups):  # each thread would keep memory of its own
                    writer._append(file.read_row_group(group, use_threads=False))
