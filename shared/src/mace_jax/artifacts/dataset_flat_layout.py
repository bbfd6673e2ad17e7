"""The flat layout: all structures of a file end to end in a few long arrays.

A structure is a row of ``structures``, ``n_node`` rows of the arrays of atoms, and ``n_pair`` rows of
``pairs``. Each label has its own array, which holds the values of the structures that have it and no
others. Reading costs one access to each array for every run of neighbours in the file.
"""

from collections.abc import Sequence
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.hdf5_rows import GrowingArrays, Rows, read_names, write_names
from mace_jax.artifacts.versioned import Document
from mace_jax.elements import MAX_ATOMIC_NUMBER
from mace_jax.errors import ArtifactError, DataError
from mace_jax.structures.neighbor_list import PairList
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure, check_structure

BLOCK = 256  # structures that are written at once

_COUNT, _FLAG, _NUMBER, _REAL = (np.dtype(name) for name in ("<i4", "?", "u1", "<f8"))
_STRUCTURE = np.dtype(
    [
        ("cell", "<f8", (3, 3)),
        ("pbc", "?", (3,)),
        ("weight", "<f8"),
        ("head", "<i4"),
        ("config_type", "<i4"),
        ("property_weights", [(name, "<f8") for name in PROPERTY_SHAPES]),
    ]
)
_PAIR = np.dtype([("sender", "<u2"), ("receiver", "<u2"), ("shift", "i1", (3,))])


def _per_atom(name: str) -> bool:
    return "n" in PROPERTY_SHAPES[name]


def _row_shape(name: str) -> tuple[int, ...]:
    return tuple(size for size in PROPERTY_SHAPES[name] if isinstance(size, int))


class FlatWriter:
    """Appends structures to an empty file, in blocks of ``BLOCK`` of which only the last is shorter."""

    def __init__(self, file: h5py.File, *, with_pairs: bool) -> None:
        """Write into ``file``; with pairs, every structure comes with its own."""
        self._file = file
        self._with_pairs = with_pairs
        self._arrays: GrowingArrays | None = None
        self._codes: dict[str, int] = {}
        self._labels: set[str] = set()
        self.n_structures = 0

    def write(self, structures: Sequence[Structure], pairs: Sequence[PairList] | None) -> None:
        """Append one block.

        Raises:
            DataError: a structure is impossible, or its pairs don't fit into the file's numbers.
        """
        for structure in structures:
            check_structure(structure)
        if self._arrays is None:
            self._arrays = GrowingArrays(self._file, only_block=len(structures) < BLOCK)
        append = self._arrays.append
        append("n_node", np.array([len(s) for s in structures], _COUNT))
        append("structures", self._table(structures))
        append("atomic_numbers", _joined([s.atomic_numbers for s in structures], _NUMBER))
        append("positions", _joined([s.positions for s in structures], _REAL, 3))
        for name in PROPERTY_SHAPES:
            self._append_label(name, structures, append)
        if self._with_pairs:
            assert pairs is not None
            append("n_pair", np.array([len(p.senders) for p in pairs], _COUNT))
            append(
                "pairs",
                _joined([_rows(p, s) for s, p in zip(structures, pairs, strict=True)], _PAIR),
            )
        self.n_structures += len(structures)

    def _table(self, structures: Sequence[Structure]) -> NDArray[np.void]:
        table = np.zeros(len(structures), _STRUCTURE)
        for row, structure in zip(table, structures, strict=True):
            row["cell"], row["pbc"], row["weight"] = structure.cell, structure.pbc, structure.weight
            row["head"], row["config_type"] = (
                self._code(structure.head),
                self._code(structure.config_type),
            )
            for name in structure.properties:
                row["property_weights"][name] = structure.property_weights.get(name, 1.0)
        return table

    def _code(self, name: str) -> int:
        return self._codes.setdefault(name, len(self._codes))

    def _append_label(self, name, structures, append) -> None:
        present = np.array([name in s.properties for s in structures])
        if name not in self._labels:
            if not present.any():
                return
            self._labels.add(name)
            present = np.concatenate([np.zeros(self.n_structures, bool), present])
        append(f"properties/{name}/present", present)
        values = [s.properties[name] for s in structures if name in s.properties]
        if not _per_atom(name):
            values = [value[None] for value in values]
        append(f"properties/{name}/values", _joined(values, _REAL, *_row_shape(name)))

    def finish(self) -> None:
        """Write what is known at the end only: the names."""
        if self._arrays is None:
            self.write([], [])
        write_names(self._file, "names", self._codes)


def _joined(arrays, dtype, *shape):
    return np.concatenate([np.empty((0, *shape), dtype), *arrays], dtype=dtype, casting="unsafe")


def _rows(pairs: PairList, structure: Structure) -> NDArray[np.void]:
    rows = np.empty(len(pairs.senders), _PAIR)
    for name, values in zip(_PAIR.names or (), pairs, strict=True):
        info = np.iinfo(rows[name].dtype)
        if values.size and not info.min <= values.min() <= values.max() <= info.max:
            message = (
                f"{structure.place}: {name}s of pairs from {values.min()} to {values.max()}, expected "
                f"{info.min} to {info.max}; write the dataset without pairs"
            )
            raise DataError(message)
        rows[name] = values
    return rows


class _Ragged(NamedTuple):
    """An array with some rows for each structure: ``offsets[i]:offsets[i + 1]``."""

    rows: Rows
    offsets: NDArray[np.int64]

    def read(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray:
        return self.rows.read(self.offsets[first], self.offsets[last + 1])


class FlatFile:
    """The structures of one file, by number."""

    layout = "flat"

    def __init__(self, file: h5py.File, attributes: Document) -> None:
        """Read how many atoms and pairs each structure has, and check the arrays against that.

        Raises:
            ArtifactError: an array is missing, of another kind, too long or too short.
        """
        self._file = file
        self._mapped = np.memmap(file.filename, np.uint8, "r")
        self._len = attributes["n_structures"]
        self.r_max: float | None = attributes.get("r_max")
        self._n_node = self._counts("n_node", 1)
        atoms = _offsets(self._n_node)
        self._names = read_names(file, "names")
        self._structures = Rows(file, self._mapped, "structures", _STRUCTURE)
        self._structures.require_length(self._len)
        self._atomic_numbers = self._ragged("atomic_numbers", atoms, _NUMBER)
        self._positions = self._ragged("positions", atoms, _REAL, 3)
        self._labels = {
            name: self._label(name) for name in PROPERTY_SHAPES if f"properties/{name}" in file
        }
        if self.r_max is not None:
            self._n_pair = self._counts("n_pair", 0)
            self._pairs = self._ragged("pairs", _offsets(self._n_pair), _PAIR)

    def _counts(self, name: str, minimum: int) -> NDArray[np.int32]:
        rows = Rows(self._file, self._mapped, name, _COUNT)
        rows.require_length(self._len)
        counts = rows.read_all()
        bad = np.flatnonzero(counts < minimum)
        if bad.size:
            message = (
                f"{self.place(int(bad[0]))}: {name} {counts[bad[0]]}, expected at least {minimum}; "
                "create the dataset again"
            )
            raise ArtifactError(message)
        return counts

    def _ragged(self, name: str, offsets, dtype, *shape: int) -> _Ragged:
        rows = Rows(self._file, self._mapped, name, dtype, *shape)
        rows.require_length(int(offsets[-1]))
        return _Ragged(rows, offsets)

    def _label(self, name: str) -> _Ragged:
        present = Rows(self._file, self._mapped, f"properties/{name}/present", _FLAG)
        present.require_length(self._len)
        counts = present.read_all() * (self._n_node if _per_atom(name) else 1)
        return self._ragged(f"properties/{name}/values", _offsets(counts), _REAL, *_row_shape(name))

    def __len__(self) -> int:
        """Return the number of structures."""
        return self._len

    def place(self, number: int) -> str:
        """Return where structure ``number`` stands, for messages."""
        return f"{self._file.filename}: structure {number}"

    def read(self, numbers: NDArray[np.int64]) -> list[Structure]:
        """Read structures in the given order.

        Raises:
            ArtifactError, DataError: one is damaged or holds an impossible number.
        """
        unique, inverse = np.unique(numbers, return_inverse=True)
        first, last = _runs(unique)
        table = self._structures.read(first, last + 1)
        codes = np.stack([table["head"], table["config_type"]], axis=1)
        self._check_codes(codes, unique)
        z = self._atomic_numbers.read(first, last).astype(np.int64)
        x = self._positions.read(first, last)
        values = {name: label.read(first, last) for name, label in self._labels.items()}
        ends = {n: np.cumsum(np.diff(l.offsets)[unique]) for n, l in self._labels.items()}
        atoms = _offsets(self._n_node[unique])
        found = []
        for k, number in enumerate(unique.tolist()):
            a, b = atoms[k], atoms[k + 1]
            properties, weights = {}, {}
            for name, label in self._labels.items():
                n = int(label.offsets[number + 1] - label.offsets[number])
                if n:
                    stop = ends[name][k]
                    properties[name] = (
                        values[name][stop - n : stop]
                        if _per_atom(name)
                        else values[name][stop - 1, ...]
                    )
                    weights[name] = float(table["property_weights"][name][k])
            found.append(
                Structure(
                    z[a:b],
                    x[a:b],
                    table["cell"][k],
                    table["pbc"][k],
                    properties,
                    weights,
                    float(table["weight"][k]),
                    self._names[codes[k, 1]],
                    self._names[codes[k, 0]],
                    self.place(number),
                )
            )
            check_structure(found[-1])
        return [found[k] for k in inverse.tolist()]

    def _check_codes(self, codes, numbers) -> None:
        bad = np.flatnonzero(((codes < 0) | (codes >= len(self._names))).any(axis=1))
        if bad.size:
            message = (
                f"{self.place(int(numbers[bad[0]]))}: names {codes[bad[0]].tolist()}, expected numbers "
                f"below {len(self._names)}; create the dataset again"
            )
            raise ArtifactError(message)

    def read_pairs(self, numbers: NDArray[np.int64]) -> list[PairList]:
        """Read the pairs of structures in the given order.

        Raises:
            ArtifactError: a pair names an atom that is not there.
        """
        unique, inverse = np.unique(numbers, return_inverse=True)
        rows = self._pairs.read(*_runs(unique))
        n_node = np.repeat(self._n_node[unique], self._n_pair[unique])
        bad = np.flatnonzero((rows["sender"] >= n_node) | (rows["receiver"] >= n_node))
        ends = np.cumsum(self._n_pair[unique])
        if bad.size:
            number = int(unique[np.searchsorted(ends, bad[0], side="right")])
            message = (
                f"{self.place(number)}: a pair of atoms {rows['sender'][bad[0]]} and "
                f"{rows['receiver'][bad[0]]}, expected numbers below {n_node[bad[0]]}; "
                "create the dataset again"
            )
            raise ArtifactError(message)
        columns = [rows[name].astype(np.int32) for name in ("sender", "receiver", "shift")]
        parts = [np.split(column, ends[:-1]) for column in columns]
        found = [PairList(*part) for part in zip(*parts, strict=True)]
        return [found[k] for k in inverse.tolist()]


def _offsets(counts: NDArray) -> NDArray[np.int64]:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _runs(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first and last of each run of consecutive numbers."""
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    return numbers[np.concatenate([[0], breaks + 1])], numbers[np.concatenate([breaks, [-1]])]
