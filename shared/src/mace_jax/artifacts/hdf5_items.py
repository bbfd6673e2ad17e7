"""Small items of HDF5 groups, each written and read with the fewest possible calls.

A dataset in Torch MACE's tree has two dozen items a structure. h5py's usual interface spends a
hundred microseconds on each, most of it on describing types and shapes that never change.
"""

from functools import lru_cache
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5p, h5s, h5t
from numpy.typing import NDArray

Item = NDArray[Any] | str

_KINDS = tuple(np.dtype(name) for name in ("<f8", "<i8", "?"))
_TYPES = {kind: h5t.py_create(kind) for kind in _KINDS}
_REAL, _INTEGER, _FLAG = _KINDS
_TEXT = h5t.py_create(h5py.string_dtype(), logical=True)  # in the file: UTF-8 of any length
_PYTHON_TEXT = h5t.py_create(h5py.string_dtype())
_SCALAR = h5s.create(h5s.SCALAR)
_COMPACT_BYTES = 60_000  # HDF5 keeps up to 64 kB, header included, beside the item's description
_CACHE_BYTES = 1 << 18


def limit_metadata_cache(file: h5py.File) -> None:
    """Keep little of what was read of groups and items: HDF5 keeps half a gigabyte otherwise."""
    config = file.id.get_mdc_config()
    config.set_initial_size = True
    config.initial_size = config.min_size = config.max_size = _CACHE_BYTES
    file.id.set_mdc_config(config)


def create_group(parent: h5g.GroupID, name: str) -> h5g.GroupID:
    """Create a group."""
    return h5g.create(parent, name.encode(), gcpl=_GROUP)


def write_item(group: h5g.GroupID, name: str, value: Item) -> None:
    """Write an array of float64, int64 or bool, or a text."""
    if isinstance(value, str):
        item = h5d.create(group, name.encode(), _TEXT, _SCALAR, _COMPACT)
    else:
        plan = _COMPACT if value.nbytes <= _COMPACT_BYTES else _CONTIGUOUS
        kind, space = _TYPES[value.dtype], _space(value.shape)
        item = h5d.create(group, name.encode(), kind, space, plan)
    _write(item, value)


def replace_item(group: h5g.GroupID, path: str, value: Item) -> None:
    """Write a value of the same type and shape into an item that is there."""
    _write(h5d.open(group, path.encode()), value)


def _write(item: h5d.DatasetID, value: Item) -> None:
    if isinstance(value, str):
        item.write(h5s.ALL, h5s.ALL, np.array(value.encode(), object), _PYTHON_TEXT)
    else:
        item.write(h5s.ALL, h5s.ALL, value, _TYPES[value.dtype])


def read_item(group: h5g.GroupID, path: str) -> Item:
    """Read an item as an array of float64, int64 or bool, or as a text.

    Raises:
        KeyError: it is missing.
        TypeError: it is of another kind.
        ValueError, OSError, RuntimeError: it is damaged.
    """
    item = h5d.open(group, path.encode())
    kind = item.get_type()
    match kind.get_class():
        case h5t.FLOAT:
            return _read(item, _REAL, _TYPES[_REAL])
        case h5t.INTEGER:
            return _read(item, _INTEGER, _TYPES[_INTEGER])
        case h5t.ENUM if kind.get_size() == 1:
            return _read(item, np.dtype("u1"), kind) != 0
        case h5t.STRING:
            return _read_text(item, kind)
    message = f"{path} of type {kind.dtype}, expected numbers or a text"
    raise TypeError(message)


def read_item_if_present(group: h5g.GroupID, path: str) -> Item | None:
    """Read an item, or return None if there is none at that path; errors as of ``read_item``."""
    try:
        return read_item(group, path)
    except KeyError:
        if path.encode() in group:
            raise
        return None


def _read(item: h5d.DatasetID, dtype: np.dtype[Any], kind: h5t.TypeID) -> NDArray[Any]:
    value = np.empty(item.get_space().shape, dtype)
    item.read(h5s.ALL, h5s.ALL, value, kind)
    return value


def _read_text(item: h5d.DatasetID, kind: h5t.TypeStringID) -> str:
    shape = item.get_space().shape
    if shape != ():
        message = f"texts of shape {shape}, expected one text"
        raise ValueError(message)
    if kind.is_variable_str():
        value: NDArray[Any] = np.empty((), object)
        item.read(_SCALAR, _SCALAR, value, _PYTHON_TEXT)
    else:
        value = np.empty((), f"S{kind.get_size()}")
        item.read(_SCALAR, _SCALAR, value, kind)
    return bytes(value[()]).decode()


@lru_cache(maxsize=256)
def _space(shape: tuple[int, ...]) -> h5s.SpaceID:
    return h5s.create_simple(shape) if shape else _SCALAR


def _creation(layout: int) -> h5p.PropDCID:
    plan = _untimed(h5p.create(h5p.DATASET_CREATE))
    plan.set_layout(layout)
    return plan


def _untimed(plan: h5p.PropOCID) -> h5p.PropOCID:
    plan.set_obj_track_times(False)  # equal content is to give equal bytes
    return plan


_COMPACT, _CONTIGUOUS = _creation(h5d.COMPACT), _creation(h5d.CONTIGUOUS)
_GROUP = _untimed(h5p.create(h5p.GROUP_CREATE))
