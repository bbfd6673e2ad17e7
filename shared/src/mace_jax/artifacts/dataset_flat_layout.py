"""The flat layout: all structures of a file end to end in a few long arrays.

A structure is a row of ``structures``, ``n_node`` rows of the arrays of atoms and ``n_pair`` rows
of ``pairs``. Each label has an array of its own with the values of those structures that have it,
and no others. So structures that follow each other cost one access to each array.
"""

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.hdf5_rows import Ragged, Rows, read_names
from mace_jax.artifacts.versioned import Document
from mace_jax.errors import ArtifactError
from mace_jax.structures.neighbor_list import PairList
from mace_jax.structures.pair_block import PairBlock
from mace_jax.structures.ragged import offsets_of
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure
from mace_jax.structures.structure_block import (
    Label,
    StructureBlock,
    check_block,
    is_per_atom,
    row_shape,
)

COUNT, FLAG, NUMBER, REAL, FRAME = (np.dtype(name) for name in ("<i4", "?", "u1", "<f8", "<i8"))
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
# Bytes of the file that are kept mapped, which count as memory of this process. Around each row
# that is read the system maps as much as this.
_MAPPED_KEPT, _MAPPED_AROUND = 1 << 22, 1 << 16


FRAMES = "frames"


def present_name(name: str) -> str:
    """Return the name of the array that says which structures have a label."""
    return f"properties/{name}/present"


def values_name(name: str) -> str:
    """Return the name of the array of a label's values."""
    return f"properties/{name}/values"


class FlatFile:
    """The structures of one file, by number; not for several threads at once."""

    layout = "flat"

    def __init__(
        self, file: h5py.File, attributes: Document, converted_from: str | None = None
    ) -> None:
        """Read how many atoms and pairs each structure has, and check all arrays against that.

        Args:
            file: open for reading.
            attributes: what the file says about itself.
            converted_from: the file whose frames these are, which messages speak of then.

        Raises:
            ArtifactError: an array is missing, of another kind, too long or too short.
        """
        self._file, self._name = file, file.filename
        with Path(file.filename).open("rb") as opened:
            self._pages = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self._mapped = np.frombuffer(self._pages, np.uint8)
        self._n_mapped = 0
        self._len: int = attributes["n_structures"]
        self.r_max: float | None = attributes.get("r_max")
        self._names = read_names(file, "names")
        self._structures = self._ragged(None, "structures", STRUCTURE)
        n_node = self._counts("n_node", 1)
        atoms = offsets_of(n_node)
        self._atomic_numbers = self._ragged(atoms, "atomic_numbers", NUMBER)
        self._positions = self._ragged(atoms, "positions", REAL, 3)
        self._labels: Mapping[str, Ragged] = {
            name: self._label(name, atoms) for name in self._label_names()
        }
        self._origin, self._frames = converted_from, np.empty(0, FRAME)
        if converted_from is not None:
            self._frames = self._of_length(self._len, FRAMES, FRAME).read_all()
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
        self, offsets: NDArray[np.int64] | None, name: str, dtype: np.dtype[Any], *shape: int
    ) -> Ragged:
        length = self._len if offsets is None else int(offsets[-1])
        return Ragged(self._of_length(length, name, dtype, *shape), offsets)

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
        if present.all():
            offsets = atoms if is_per_atom(name) else None
        else:
            offsets = offsets_of(present * np.diff(atoms) if is_per_atom(name) else present)
        return self._ragged(offsets, values_name(name), REAL, *row_shape(name))

    def __len__(self) -> int:
        """Return the number of structures."""
        return self._len

    def place(self, number: int) -> str:
        """Return where structure ``number`` stands, for messages."""
        if self._origin is not None:
            return f"{self._origin}: frame {self._frames[number]}"
        return f"{self._name}: structure {number}"

    def _damaged(self, number: int, what: str) -> ArtifactError:
        return ArtifactError(f"{self._name}: structure {number}: {what}; create the dataset again")

    def read(self, numbers: NDArray[np.int64]) -> list[Structure]:
        """Read structures in the given order; errors as of ``read_block``."""
        return self.read_block(numbers).structures()

    def read_block(self, numbers: NDArray[np.int64]) -> StructureBlock:
        """Read structures in the given order.

        Raises:
            ArtifactError, DataError: one is damaged or holds an impossible number.
        """
        table = self._rows(self._structures, numbers)
        self._check_names(table, numbers)
        config_types, heads = (
            [self._names[code] for code in table[column].tolist()]
            for column in ("config_type", "head")
        )
        labels = {name: self._read_label(name, numbers) for name in self._labels}
        block = StructureBlock(
            self._atomic_numbers.counts(numbers),
            self._rows(self._atomic_numbers, numbers).astype(np.int64),
            self._rows(self._positions, numbers),
            np.ascontiguousarray(table["cell"]),
            table["pbc"].view(np.uint8) != 0,
            {name: label for name, label in labels.items() if label.present.any()},
            np.ascontiguousarray(table["property_weights"]),
            np.ascontiguousarray(table["weight"]),
            config_types,
            heads,
            [self.place(number) for number in numbers.tolist()],
        )
        check_block(block)
        return block

    def _read_label(self, name: str, numbers: NDArray[np.int64]) -> Label:
        label = self._labels[name]
        return Label(label.counts(numbers) > 0, self._rows(label, numbers))

    def _rows(self, array: Ragged, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Read rows, those of so few structures at a time that little of the file is mapped."""
        step = _MAPPED_KEPT // _MAPPED_AROUND
        if len(numbers) <= step or (np.diff(numbers) == 1).all():
            return self._rows_at_once(array, numbers)
        pieces = [numbers[first : first + step] for first in range(0, len(numbers), step)]
        return np.concatenate([self._rows_at_once(array, piece) for piece in pieces])

    def _rows_at_once(self, array: Ragged, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Read rows, and let go of the file's pages now and then."""
        rows = array.read(numbers)
        n_runs = int(np.count_nonzero(np.diff(numbers) != 1)) + 1
        self._n_mapped += rows.nbytes + n_runs * _MAPPED_AROUND
        if self._n_mapped > _MAPPED_KEPT and hasattr(mmap, "MADV_DONTNEED"):
            self._pages.madvise(mmap.MADV_DONTNEED)
            self._n_mapped = 0
        return rows

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
        rows = self._rows(self._pairs, numbers)
        n_pairs = self._pairs.counts(numbers)
        self._check_pairs(rows, n_pairs, numbers)
        columns = (rows[name].astype(np.int32) for name in ("sender", "receiver", "shift"))
        return PairBlock(n_pairs, *columns).one_by_one()

    def _check_pairs(
        self, rows: NDArray[np.void], n_pairs: NDArray[np.int64], numbers: NDArray[np.int64]
    ) -> None:
        n_node = np.repeat(self._positions.counts(numbers), n_pairs)
        bad = np.flatnonzero(np.maximum(rows["sender"], rows["receiver"]) >= n_node)
        if bad.size:
            owner = np.searchsorted(np.cumsum(n_pairs), bad[0], side="right")
            sender, receiver, _ = rows[bad[0]]
            found = f"a pair of atoms {sender} and {receiver}"
            raise self._damaged(numbers[owner], f"{found}, expected below {n_node[bad[0]]}")
