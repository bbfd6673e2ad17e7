"""The HDF5 tree of Torch MACE's ``mace_prepare_data``: one group per structure.

``/config_batch_0/config_<j>/{atomic_numbers, positions, cell, pbc, weight, config_type,
properties/…, property_weights/…}``. mace-torch 0.3.16 ``HDF5Dataset`` reads what is written here
and the other way round.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5g, h5o
from numpy.typing import NDArray

from mace_jax.artifacts.hdf5_items import (
    Item,
    create_group,
    read_item_if_present,
    replace_item,
    write_item,
)
from mace_jax.artifacts.hdf5_mapped_records import Column, MappedRecords
from mace_jax.artifacts.mace_layout_items import items_of, structures_of
from mace_jax.artifacts.versioned import Document
from mace_jax.errors import ArtifactError
from mace_jax.structures.structure import Structure
from mace_jax.structures.structure_block import StructureBlock, check_structures

_BATCH, _CONFIG = "config_batch_", "config_"
# Kinds of structures whose groups are copied, which takes a quarter of the time of writing them.
_MOST_MODELS = 1024
# What h5py, numpy and the checks below raise on items that are damaged or not what they should be.
_UNREADABLE = (KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError, MemoryError)


class MaceWriter:
    """Appends structures to an empty file."""

    def __init__(self, file: h5py.File) -> None:
        """Create the one batch that holds all structures of the file."""
        self._file = file
        self._batch = create_group(file.id, f"{_BATCH}0")
        self._models: dict[tuple[Any, ...], _Model] = {}
        self.n_structures = 0

    def write(self, block: StructureBlock) -> None:
        """Append checked structures."""
        for structure in block.structures():
            self._write(f"{_CONFIG}{self.n_structures}", structure)
            self.n_structures += 1

    def _write(self, name: str, structure: Structure) -> None:
        """Write a group: the first of a kind item by item, the others as copies with changes."""
        items = items_of(structure)
        kind = (len(structure), *structure.properties)
        model = self._models.get(kind)
        if model is None:
            _write_items(create_group(self._batch, name), items)
            if len(self._models) == _MOST_MODELS:
                self._models.clear()
            self._models[kind] = _Model(name, items)
            return
        h5o.copy(self._batch, model.name.encode(), self._batch, name.encode())
        for path, value in items.items():
            if not _equal(value, model.items[path]):
                replace_item(self._batch, f"{name}/{path}", value)

    def finish(self, n_in_set: int | None) -> None:
        """Write Torch MACE's flag: whether the whole set has an odd number of structures."""
        n_in_set = self.n_structures if n_in_set is None else n_in_set
        self._file.attrs["drop_last"] = n_in_set % 2 == 1


class _Model(NamedTuple):
    """A group that was written, and what it holds; others of its kind begin as its copies."""

    name: str
    items: Mapping[str, Item]


def _write_items(group: h5g.GroupID, items: Mapping[str, Item]) -> None:
    groups = {"": group}
    for path, value in items.items():
        folder, _, name = path.rpartition("/")
        if folder not in groups:
            groups[folder] = create_group(group, folder)
        write_item(groups[folder], name, value)


def _equal(value: Item, other: Item) -> bool:
    if isinstance(value, str) or isinstance(other, str):
        return value is other or value == other
    return value.tobytes() == other.tobytes()


class _Batch(NamedTuple):
    """A group ``config_batch_<i>`` and the numbers ``j`` of its structures, ascending."""

    name: str
    group: h5g.GroupID
    numbers: range | NDArray[np.int64]


class MaceFile:
    """The structures of one file, by number; not for several threads at once."""

    layout = "mace"
    r_max = None

    def __init__(self, file: h5py.File, attributes: Document | None) -> None:
        """Find the structures.

        Args:
            file: open for reading.
            attributes: what the file says about itself; None if Torch MACE wrote it.

        Raises:
            ArtifactError: the tree is not Torch MACE's, or holds another number of structures than
                the file says.
        """
        self._name = file.filename
        self._records = MappedRecords(Path(file.filename)) if attributes else None
        try:
            self._batches = [_own_batch(file)] if attributes else _listed_batches(file)
        except _UNREADABLE:  # names without numbers, or no groups: not a MACE tree
            self._batches = []
        if not (self._batches and (attributes or any(len(b.numbers) for b in self._batches))):
            message = (
                f"{self._name}: holds no {_BATCH}*/{_CONFIG}* groups, expected a MACE dataset; "
                "create it with mace-jax-preprocess"
            )
            raise ArtifactError(message)
        self._ends = np.cumsum([len(batch.numbers) for batch in self._batches]).tolist()
        if attributes and attributes["n_structures"] != len(self):
            message = (
                f"{self._name}: holds {len(self)} structures, expected "
                f"{attributes['n_structures']}; create it again"
            )
            raise ArtifactError(message)

    def __len__(self) -> int:
        """Return the number of structures."""
        return self._ends[-1]

    def _find(self, number: int) -> tuple[_Batch, str]:
        index = bisect_right(self._ends, number)
        batch = self._batches[index]
        return batch, f"{_CONFIG}{batch.numbers[number - self._ends[index]]}"

    def place(self, number: int) -> str:
        """Return where structure ``number`` stands, for messages."""
        batch, config = self._find(number)
        return f"{self._name}: {batch.name}/{config}"

    def read_block(self, numbers: NDArray[np.int64]) -> StructureBlock:
        """Read structures in the given order; errors as of ``read``."""
        return StructureBlock.of(self.read(numbers))

    def read(self, numbers: NDArray[np.int64]) -> list[Structure]:
        """Read structures in the given order.

        Raises:
            ArtifactError, DataError: one is damaged or holds an impossible number.
        """
        wanted = numbers.tolist()
        found = self._read_records(wanted)
        for index, number in enumerate(wanted):
            if index not in found:  # perhaps it is like one that has been read since
                found[index] = self._read_records([number]).get(0) or self._read_by_hdf5(number)
        structures = [found[index] for index in range(len(wanted))]
        check_structures(structures)
        return structures

    def _read_records(self, numbers: Sequence[int]) -> dict[int, Structure]:
        """Read the structures that are like one before, by their indices in ``numbers``."""
        if self._records is None:
            return {}
        found: dict[int, Structure] = {}
        try:
            for which, columns in self._records.read([self._address(n) for n in numbers]):
                structures = structures_of(columns.get, [self.place(numbers[i]) for i in which])
                found.update(zip(which, structures, strict=True))
        except _UNREADABLE:  # HDF5 says what is wrong, and where
            return {}
        return found

    def _read_by_hdf5(self, number: int) -> Structure:
        batch, config = self._find(number)
        try:
            group = h5g.open(batch.group, config.encode())
            for folder in ("properties", "property_weights"):
                h5g.open(group, folder.encode())  # without labels, but never without these
            (structure,) = structures_of(partial(_column, group), [self.place(number)])
            if self._records:
                self._records.learn(group, self._address(number))
        except _UNREADABLE as error:
            message = f"{self.place(number)}: {error}; create the dataset again"
            raise ArtifactError(message) from error
        return structure

    def _address(self, number: int) -> int:
        """Return where the header of a structure's group stands in the file."""
        batch, config = self._find(number)
        return int(batch.group.links.get_info(config.encode()).u)


def _own_batch(file: h5py.File) -> _Batch:
    """Return the batch of a file of ours, whose structures are counted and not listed."""
    group = h5g.open(file.id, f"{_BATCH}0".encode())
    return _Batch(f"{_BATCH}0", group, range(group.get_num_objs()))


def _listed_batches(file: h5py.File) -> list[_Batch]:
    names = [name for name in file if name.startswith(_BATCH)]
    return [_listed_batch(file, name) for name in sorted(names, key=_number)]


def _listed_batch(file: h5py.File, name: str) -> _Batch:
    numbers = np.fromiter((_number(config) for config in file[name]), np.int64)
    return _Batch(name, h5g.open(file.id, name.encode()), np.sort(numbers))


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])


def _column(group: h5g.GroupID, path: str) -> Column | None:
    """Read an item of one group."""
    item = read_item_if_present(group, path)
    if item is None:
        return None
    return [item] if isinstance(item, str) else item[None]
