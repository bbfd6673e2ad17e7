"""Writing the flat layout."""

from collections.abc import Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.dataset_flat_layout import (
    COUNT,
    FLAG,
    NUMBER,
    PAIR,
    STRUCTURE,
    present_name,
    values_name,
)
from mace_jax.artifacts.hdf5_rows import GrowingArrays, write_names
from mace_jax.errors import DataError
from mace_jax.structures.pair_block import PairBlock
from mace_jax.structures.structure import PROPERTY_SHAPES
from mace_jax.structures.structure_block import StructureBlock


class FlatWriter:
    """Appends structures to an empty file, in blocks."""

    def __init__(self, file: h5py.File, *, with_pairs: bool) -> None:
        """Write into ``file``; with pairs, every structure comes with its own."""
        self._file = file
        self._with_pairs = with_pairs
        self._arrays = GrowingArrays(file)
        self._codes: dict[str, int] = {}
        self._labels: set[str] = set()
        self.n_structures = 0

    def write(self, block: StructureBlock) -> None:
        """Append checked structures.

        Raises:
            DataError: pairs of a structure are impossible.
        """
        append = self._arrays.append
        append("n_node", block.n_atoms.astype(COUNT))
        append("structures", self._table(block))
        append("atomic_numbers", block.atomic_numbers.astype(NUMBER))
        append("positions", block.positions)
        self._write_labels(block)
        if self._with_pairs:
            pairs = block.pairs or PairBlock.of([])
            append("n_pair", pairs.n_pairs.astype(COUNT))
            append("pairs", _pair_rows(block, pairs))
        self.n_structures += len(block)

    def _table(self, block: StructureBlock) -> NDArray[np.void]:
        table = np.empty(len(block), STRUCTURE)
        table["cell"], table["pbc"] = block.cells, block.pbc
        table["weight"], table["property_weights"] = block.weights, block.property_weights
        table["head"] = self._codes_of(block.heads)
        table["config_type"] = self._codes_of(block.config_types)
        return table

    def _codes_of(self, names: Sequence[str]) -> list[int]:
        return [self._codes.setdefault(name, len(self._codes)) for name in names]

    def _write_labels(self, block: StructureBlock) -> None:
        """Append the labels that some structure up to here has."""
        for name in PROPERTY_SHAPES:
            label = block.label(name)
            present = label.present
            if name not in self._labels:
                if not present.any():
                    continue
                self._labels.add(name)
                present = np.concatenate([np.zeros(self.n_structures, FLAG), present])
            self._arrays.append(present_name(name), present)
            self._arrays.append(values_name(name), label.values)

    def finish(self) -> None:
        """Write what is known at the end only: the names of heads and groups of data."""
        if not self.n_structures:
            self.write(StructureBlock.of([]))
        self._arrays.finish()
        write_names(self._file, "names", self._codes)


def _pair_rows(block: StructureBlock, pairs: PairBlock) -> NDArray[np.void]:
    """Return the pairs of a block in the file's narrow numbers.

    Raises:
        DataError: one does not fit into them, or names an atom that is not there.
    """
    n_pairs, senders, receivers, shifts = pairs
    rows = np.empty(len(senders), PAIR)
    rows["sender"], rows["receiver"], rows["shift"] = senders, receivers, shifts
    n_node = np.repeat(block.n_atoms, n_pairs)
    kept = (rows["sender"] == senders) & (rows["receiver"] == receivers)
    kept &= (rows["shift"] == shifts).all(axis=1) & (senders < n_node) & (receivers < n_node)
    if not kept.all():
        bad = int(np.argmin(kept))
        owner = int(np.searchsorted(np.cumsum(n_pairs), bad, side="right"))
        message = (
            f"{block.places[owner]}: a pair of atoms {senders[bad]} and {receivers[bad]} "
            f"across {shifts[bad]} cells, expected atoms below {min(n_node[bad], 1 << 16)} and "
            "shifts from -128 to 127; write the dataset without pairs"
        )
        raise DataError(message)
    return rows
