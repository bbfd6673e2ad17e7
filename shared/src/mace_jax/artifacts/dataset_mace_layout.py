"""The HDF5 tree of Torch MACE's ``mace_prepare_data``: one group per structure.

``/config_batch_0/config_<j>/{atomic_numbers, positions, cell, pbc, weight, config_type,
properties/…, property_weights/…}``. mace-torch 0.3.16 ``HDF5Dataset`` reads what is written here
and the other way round. A missing property is the text ``None`` with weight 0.
"""

from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5g, h5o
from numpy.typing import NDArray

from mace_jax.artifacts.hdf5_items import (
    Hdf5Group,
    Item,
    create_group,
    limit_metadata_cache,
    replace_item,
    write_item,
)
from mace_jax.artifacts.hdf5_mapped_items import MappedGroup, MappedItems, UnknownFormError
from mace_jax.artifacts.versioned import Document
from mace_jax.errors import ArtifactError
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure, check_structure
from mace_jax.structures.structure_block import StructureBlock
from mace_jax.units import symmetric_matrix

_BATCH, _CONFIG = "config_batch_", "config_"
_MISSING = "None"
_MATRICES = {name for name, shape in PROPERTY_SHAPES.items() if shape == (3, 3)}
# Kinds of structures whose groups are copied, which takes a quarter of the time of writing them.
_MOST_MODELS = 256
# What h5py, numpy and the checks below raise on items that are damaged or not what they should be.
_UNREADABLE = (KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError, MemoryError)


class MaceWriter:
    """Appends structures to an empty file."""

    def __init__(self, file: h5py.File) -> None:
        """Create the one batch that holds all structures of the file."""
        limit_metadata_cache(file)
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
        items = _items(structure)
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


def _items(structure: Structure) -> dict[str, Item]:
    """Return the items of a structure's group, by path."""
    items: dict[str, Item] = {
        "atomic_numbers": np.asarray(structure.atomic_numbers, "<i8", order="C"),
        "positions": _real(structure.positions),
        "cell": _real(structure.cell),
        "pbc": np.asarray(structure.pbc, "?", order="C"),
        "weight": _real(structure.weight),
        "config_type": structure.config_type,
    }
    for name in PROPERTY_SHAPES:
        present = name in structure.properties
        items[f"properties/{name}"] = _real(structure.properties[name]) if present else _MISSING
        weight = structure.property_weights.get(name, 1.0) if present else 0.0
        items[f"property_weights/{name}"] = _real(weight)
    return items | {"properties/head": structure.head, "property_weights/head": _real(1.0)}


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


def _real(value: Any) -> NDArray[np.float64]:
    return np.asarray(value, "<f8", order="C")


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
        limit_metadata_cache(file)
        self._name = file.filename
        self._mapped = MappedItems(Path(file.filename)) if attributes else None
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
        return [self._read(number) for number in numbers.tolist()]

    def _read(self, number: int) -> Structure:
        batch, config = self._find(number)
        place = f"{self._name}: {batch.name}/{config}"
        try:
            structure = self._read_mapped(batch, config, place) or self._read_by_hdf5(
                batch, config, place
            )
        except _UNREADABLE as error:
            message = f"{place}: {error}; create the dataset again"
            raise ArtifactError(message) from error
        check_structure(structure)
        return structure

    def _read_by_hdf5(self, batch: _Batch, config: str, place: str) -> Structure:
        group = h5g.open(batch.group, config.encode())
        structure = _read_structure(Hdf5Group(group), place)
        if self._mapped:
            self._mapped.learn(group, _address(batch, config))
        return structure

    def _read_mapped(self, batch: _Batch, config: str, place: str) -> Structure | None:
        """Read a structure like one before; None if there was none."""
        if not self._mapped:
            return None
        try:
            return _read_structure(self._mapped.group(_address(batch, config)), place)
        except UnknownFormError:
            return None


def _address(batch: _Batch, config: str) -> int:
    """Return where the header of a structure's group stands in the file."""
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


def _read_structure(group: Hdf5Group | MappedGroup, place: str) -> Structure:
    labels, label_weights = group.group("properties"), group.group("property_weights")
    properties = _read_labels(labels)
    weights = {name: _read_number(label_weights, name) for name in properties}
    atomic_numbers = _read_array(group, "atomic_numbers")
    if atomic_numbers.dtype != np.int64:
        message = f"atomic_numbers of type {atomic_numbers.dtype}, expected integers"
        raise TypeError(message)
    cell, pbc = group.read("cell"), group.read("pbc")
    return Structure(
        atomic_numbers,
        _real(_read_array(group, "positions")),
        np.zeros((3, 3)) if _is_missing(cell) else _real(cell),
        np.zeros(3, bool) if _is_missing(pbc) else np.asarray(pbc, bool),
        properties,
        weights,
        _read_number(group, "weight"),
        _read_text(group, "config_type") or "Default",
        _read_head(labels),
        place,
    )


def _read_labels(group: Hdf5Group | MappedGroup) -> dict[str, NDArray[np.float64]]:
    properties = {}
    for name in PROPERTY_SHAPES:
        value = group.read_if_present(name)
        if value is not None and not _is_missing(value):
            properties[name] = symmetric_matrix(value) if name in _MATRICES else _real(value)
    return properties


def _read_head(group: Hdf5Group | MappedGroup) -> str:
    head = group.read_if_present("head")
    if not (head is None or isinstance(head, str)):
        message = "head is no text"
        raise TypeError(message)
    return "Default" if head in (None, "", _MISSING) else head


def _read_array(group: Hdf5Group | MappedGroup, name: str) -> NDArray[Any]:
    value = group.read(name)
    if isinstance(value, str):
        message = f"{name} is the text {value!r}, expected numbers"
        raise TypeError(message)
    return value


def _read_text(group: Hdf5Group | MappedGroup, name: str) -> str:
    value = group.read(name)
    if not isinstance(value, str):
        message = f"{name} is an array of {value.dtype}, expected a text"
        raise TypeError(message)
    return value


def _read_number(group: Hdf5Group | MappedGroup, name: str) -> float:
    return float(_read_array(group, name).item())


def _is_missing(value: NDArray[Any] | str) -> bool:
    return isinstance(value, str) and value == _MISSING
