"""Writing the flat layout."""

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.dataset_flat_layout import (
    COUNT,
    FLAG,
    NUMBER,
    PAIR,
    REAL,
    STRUCTURE,
    is_per_atom,
    present_name,
    row_shape,
    values_name,
)
from mace_jax.artifacts.hdf5_rows import GrowingArrays, write_names
from mace_jax.errors import DataError
from mace_jax.structures.neighbor_list import PairList
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure

BLOCK = 256  # structures that are written at once


class FlatWriter:
    """Appends structures to an empty file, in blocks."""

    def __init__(self, file: h5py.File, *, with_pairs: bool) -> None:
        """Write into ``file``; with pairs, every structure comes with its own."""
        self._file = file
        self._with_pairs = with_pairs
        self._arrays: GrowingArrays | None = None
        self._codes: dict[str, int] = {}
        self._labels: set[str] = set()
        self.n_structures = 0

    def write(self, structures: Sequence[Structure], pairs: Sequence[PairList]) -> None:
        """Append ``BLOCK`` checked structures, or the last ones of the file.

        Raises:
            DataError: pairs of a structure are impossible.
        """
        if self._arrays is None:
            self._arrays = GrowingArrays(self._file, only_block=len(structures) < BLOCK)
        append = self._arrays.append
        append("n_node", np.array([len(structure) for structure in structures], COUNT))
        append("structures", self._table(structures))
        append("atomic_numbers", _joined([s.atomic_numbers for s in structures], NUMBER))
        append("positions", _joined([s.positions for s in structures], REAL, 3))
        for name in PROPERTY_SHAPES:
            self._write_label(self._arrays, name, structures)
        if self._with_pairs:
            append("n_pair", np.array([len(one.senders) for one in pairs], COUNT))
            append("pairs", _pair_rows(structures, pairs))
        self.n_structures += len(structures)

    def _table(self, structures: Sequence[Structure]) -> NDArray[np.void]:
        table = np.empty(len(structures), STRUCTURE)
        if structures:
            table["cell"] = [structure.cell for structure in structures]
            table["pbc"] = [structure.pbc for structure in structures]
            table["weight"] = [structure.weight for structure in structures]
            table["head"] = [self._code(structure.head) for structure in structures]
            table["config_type"] = [self._code(structure.config_type) for structure in structures]
        for column, name in enumerate(PROPERTY_SHAPES):
            table["property_weights"][:, column] = [
                structure.property_weights.get(name, 1.0) if name in structure.properties else 0.0
                for structure in structures
            ]
        return table

    def _code(self, name: str) -> int:
        return self._codes.setdefault(name, len(self._codes))

    def _write_label(
        self, arrays: GrowingArrays, name: str, structures: Sequence[Structure]
    ) -> None:
        present = np.array([name in structure.properties for structure in structures], FLAG)
        if name not in self._labels:
            if not present.any():
                return
            self._labels.add(name)
            present = np.concatenate([np.zeros(self.n_structures, FLAG), present])
        arrays.append(present_name(name), present)
        values = [s.properties[name] for s in structures if name in s.properties]
        rows = values if is_per_atom(name) else [value[None] for value in values]
        arrays.append(values_name(name), _joined(rows, REAL, *row_shape(name)))

    def finish(self) -> None:
        """Write what is known at the end only: the names of heads and groups of data."""
        if self._arrays is None:
            self.write([], [])
        write_names(self._file, "names", self._codes)


def _joined(arrays: Sequence[NDArray[Any]], dtype: np.dtype[Any], *shape: int) -> NDArray[Any]:
    return np.concatenate([np.empty((0, *shape), dtype), *arrays], dtype=dtype, casting="unsafe")


def _pair_rows(structures: Sequence[Structure], pairs: Sequence[PairList]) -> NDArray[np.void]:
    """Return the pairs of a block in the file's narrow numbers.

    Raises:
        DataError: one does not fit into them, or names an atom that is not there.
    """
    integer = np.dtype(np.int64)
    senders = _joined([one.senders for one in pairs], integer)
    receivers = _joined([one.receivers for one in pairs], integer)
    shifts = _joined([one.shifts for one in pairs], integer, 3)
    rows = np.empty(len(senders), PAIR)
    rows["sender"], rows["receiver"], rows["shift"] = senders, receivers, shifts
    owners = np.repeat(np.arange(len(pairs)), [len(one.senders) for one in pairs])
    n_node = np.array([len(structure) for structure in structures], int)[owners]
    kept = (rows["sender"] == senders) & (rows["receiver"] == receivers)
    kept &= (rows["shift"] == shifts).all(axis=1) & (senders < n_node) & (receivers < n_node)
    if not kept.all():
        bad = int(np.argmin(kept))
        message = (
            f"{structures[owners[bad]].place}: a pair of atoms {senders[bad]} and {receivers[bad]} "
            f"across {shifts[bad]} cells, expected atoms below {min(n_node[bad], 1 << 16)} and "
            "shifts from -128 to 127; write the dataset without pairs"
        )
        raise DataError(message)
    return rows
