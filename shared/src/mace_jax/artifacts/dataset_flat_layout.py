"""The flat layout: all structures of a file end to end in a few long arrays.

A structure is a row of ``structures``, ``n_node`` rows of the arrays of atoms and ``n_pair`` rows
of ``pairs``. Each label has an array of its own with the values of those structures that have it,
and no others. So structures that follow each other cost one access to each array.
"""

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.hdf5_rows import (
    Ragged,
    RaggedRows,
    Rows,
    Wanted,
    in_order,
    offsets_of,
    read_names,
)
from mace_jax.artifacts.versioned import Document
from mace_jax.elements import MAX_ATOMIC_NUMBER
from mace_jax.errors import ArtifactError
from mace_jax.structures.neighbor_list import PairList
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure, check_structure

COUNT, FLAG, NUMBER, REAL = (np.dtype(name) for name in ("<i4", "?", "u1", "<f8"))
STRUCTURE = np.dtype(
    [
        ("cell", "<f8", (3, 3)),
        ("pbc", "?", (3,)),
        ("weight", "<f8"),
        ("property_weights", "<f8", (len(PROPERTY_SHAPES),)),  # 0 where there is no label
        ("head", "<i4"),
        ("config_type", "<i4"),
    ]
)
PAIR = np.dtype([("sender", "<u2"), ("receiver", "<u2"), ("shift", "i1", (3,))])
# Structures that are read before the pages they are on are given back.
_PAGES_KEPT = 128
_COLUMN = {name: column for column, name in enumerate(PROPERTY_SHAPES)}


def is_per_atom(name: str) -> bool:
    """Return whether a label has a row for each atom, and not one for the structure."""
    return "n" in PROPERTY_SHAPES[name]


def row_shape(name: str) -> tuple[int, ...]:
    """Return the shape of a row of a label."""
    return tuple(size for size in PROPERTY_SHAPES[name] if isinstance(size, int))


def present_name(name: str) -> str:
    """Return the name of the array that says which structures have a label."""
    return f"properties/{name}/present"


def values_name(name: str) -> str:
    """Return the name of the array of a label's values."""
    return f"properties/{name}/values"


class FlatFile:
    """The structures of one file, by number; not for several threads at once."""

    layout = "flat"

    def __init__(self, file: h5py.File, attributes: Document) -> None:
        """Read how many atoms and pairs each structure has, and check all arrays against that.

        Args:
            file: open for reading.
            attributes: what the file says about itself.

        Raises:
            ArtifactError: an array is missing, of another kind, too long or too short.
        """
        self._file, self._name = file, file.filename
        with Path(file.filename).open("rb") as opened:
            self._pages = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self._mapped = np.frombuffer(self._pages, np.uint8)
        self._n_read = 0
        self._len: int = attributes["n_structures"]
        self.r_max: float | None = attributes.get("r_max")
        self._names = read_names(file, "names")
        self._structures = self._of_length(self._len, "structures", STRUCTURE)
        n_node = self._counts("n_node", 1)
        atoms = offsets_of(n_node)
        self._atomic_numbers = self._ragged(atoms, "atomic_numbers", NUMBER)
        self._positions = self._ragged(atoms, "positions", REAL, 3)
        self._labels: Mapping[str, Ragged] = {
            name: self._label(name, atoms) for name in self._label_names()
        }
        if self.r_max is not None:
            self._pairs = self._ragged(offsets_of(self._counts("n_pair", 0)), "pairs", PAIR)

    def _of_length(self, length: int, name: str, dtype: np.dtype[Any], *shape: int) -> Rows:
        rows = Rows(self._file, self._mapped, name, dtype, *shape)
        rows.require_length(length)
        return rows

    def _counts(self, name: str, minimum: int) -> NDArray[np.int32]:
        counts = self._of_length(self._len, name, COUNT).read_all()
        bad = np.flatnonzero(counts < minimum)
        if bad.size:
            raise self._damaged(bad[0], f"{name} {counts[bad[0]]}, expected at least {minimum}")
        return counts

    def _ragged(
        self, offsets: NDArray[np.int64], name: str, dtype: np.dtype[Any], *shape: int
    ) -> Ragged:
        return Ragged(self._of_length(int(offsets[-1]), name, dtype, *shape), offsets)

    def _label_names(self) -> list[str]:
        group = self._file.get("properties", {})
        names = list(group) if isinstance(group, Mapping) else ["of no group"]
        unknown = set(names) - set(PROPERTY_SHAPES)
        if unknown:
            message = (
                f"{self._name}: properties {sorted(unknown)}, expected some of "
                f"{sorted(PROPERTY_SHAPES)}; create the dataset again"
            )
            raise ArtifactError(message)
        return names

    def _label(self, name: str, atoms: NDArray[np.int64]) -> Ragged:
        present = self._of_length(self._len, present_name(name), FLAG).read_all()
        if present.all() and is_per_atom(name):
            offsets = atoms
        else:
            offsets = offsets_of(present * np.diff(atoms) if is_per_atom(name) else present)
        return self._ragged(offsets, values_name(name), REAL, *row_shape(name))

    def __len__(self) -> int:
        """Return the number of structures."""
        return self._len

    def place(self, number: int) -> str:
        """Return where structure ``number`` stands, for messages."""
        return f"{self._name}: structure {number}"

    def _damaged(self, number: int, what: str) -> ArtifactError:
        return ArtifactError(f"{self.place(int(number))}: {what}; create the dataset again")

    def read(self, numbers: NDArray[np.int64]) -> list[Structure]:
        """Read structures in the given order.

        Raises:
            ArtifactError, DataError: one is damaged or holds an impossible number.
        """
        wanted, order = in_order(numbers)
        structures = self._read_in_order(wanted)
        self._give_back_pages(len(order))
        return [structures[k] for k in order]

    def _give_back_pages(self, n_read: int) -> None:
        """Let go of the file's pages now and then, which count as memory of this process."""
        self._n_read += n_read
        if self._n_read >= _PAGES_KEPT and hasattr(mmap, "MADV_DONTNEED"):
            self._pages.madvise(mmap.MADV_DONTNEED)
            self._n_read = 0

    def _read_in_order(self, wanted: Wanted) -> list[Structure]:
        table = self._structures.read(wanted.first, wanted.last + 1)
        self._check_names(table, wanted.numbers)
        block = _Block(
            table,
            self._atomic_numbers.read(wanted),
            self._positions.read(wanted),
            {name: label.read(wanted) for name, label in self._labels.items()},
        )
        cells, pbc = np.ascontiguousarray(table["cell"]), table["pbc"].view(np.uint8) != 0
        atomic_numbers = block.atomic_numbers.rows.astype(np.int64)
        weights, heads, groups = (
            table[name].tolist() for name in ("weight", "head", "config_type")
        )
        structures = []
        for k, number in enumerate(wanted.numbers.tolist()):
            atoms = block.positions.of(k)
            properties, property_weights = block.labels_of(k)
            structures.append(
                Structure(
                    atomic_numbers[atoms],
                    block.positions.rows[atoms],
                    cells[k],
                    pbc[k],
                    properties,
                    property_weights,
                    weights[k],
                    self._names[groups[k]],
                    self._names[heads[k]],
                    self.place(number),
                )
            )
        if not block.is_sound():
            for structure in structures:
                check_structure(structure)
        return structures

    def _check_names(self, table: NDArray[np.void], numbers: NDArray[np.int64]) -> None:
        for column in ("head", "config_type"):
            bad = np.flatnonzero((table[column] < 0) | (table[column] >= len(self._names)))
            if bad.size:
                found = f"{column} is name {table[column][bad[0]]}"
                raise self._damaged(
                    numbers[bad[0]], f"{found}, expected 0 to {len(self._names) - 1}"
                )

    def read_pairs(self, numbers: NDArray[np.int64]) -> list[PairList]:
        """Read the pairs of structures in the given order.

        Raises:
            ArtifactError: a pair names an atom that is not there.
        """
        wanted, order = in_order(numbers)
        pairs = self._pairs.read(wanted)
        self._check_pairs(pairs, wanted.numbers)
        columns = [pairs.rows[name].astype(np.int32) for name in ("sender", "receiver", "shift")]
        rows = [pairs.of(k) for k in range(len(wanted.numbers))]
        found = [PairList(*(column[some] for column in columns)) for some in rows]
        return [found[k] for k in order]

    def _check_pairs(self, pairs: RaggedRows, numbers: NDArray[np.int64]) -> None:
        n_node = np.repeat(self._positions.counts(numbers), self._pairs.counts(numbers))
        bad = np.flatnonzero(np.maximum(pairs.rows["sender"], pairs.rows["receiver"]) >= n_node)
        if bad.size:
            owner = np.searchsorted(pairs.offsets, bad[0], side="right") - 1
            sender, receiver, _ = pairs.rows[bad[0]]
            found = f"a pair of atoms {sender} and {receiver}"
            raise self._damaged(numbers[owner], f"{found}, expected below {n_node[bad[0]]}")


class _Block(NamedTuple):
    """What was read of some structures at once."""

    table: NDArray[np.void]
    atomic_numbers: RaggedRows
    positions: RaggedRows
    labels: Mapping[str, RaggedRows]

    def labels_of(self, k: int) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
        """Return the labels of structure ``k`` and their weights."""
        properties = {}
        for name, label in self.labels.items():
            rows = label.of(k)
            if rows.stop > rows.start:
                properties[name] = label.rows[rows if is_per_atom(name) else (rows.start, ...)]
        row = self.table["property_weights"][k]
        return properties, {name: float(row[_COLUMN[name]]) for name in properties}

    def is_sound(self) -> bool:
        """Check all numbers at once; one by one takes longer than reading them."""
        weights = (self.table["weight"], self.table["property_weights"])
        labels = (label.rows for label in self.labels.values())
        return (
            all(np.isfinite(reals).all() for reals in (self.positions.rows, self.table["cell"]))
            and all(np.isfinite(reals).all() for reals in labels)
            and all(np.isfinite(reals).all() and (reals >= 0).all() for reals in weights)
            and bool((self.atomic_numbers.rows - 1 < MAX_ATOMIC_NUMBER).all())  # 0 wraps to 255
        )
