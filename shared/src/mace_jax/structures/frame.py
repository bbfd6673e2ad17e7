"""A frame as its parser left it, and the structure made of it."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from mace_jax.errors import DataError
from mace_jax.structures.label_keys import LabelKeys, find_label
from mace_jax.structures.structure import LARGEST, Structure, property_shape
from mace_jax.units import symmetric_matrix

_SYMMETRIC = ("stress", "virials", "polarizability")


class Frame(NamedTuple):
    """One frame of a file, before labels are told from other columns.

    Attributes:
        atomic_numbers: int64 ``[n]``.
        positions: Å, ``[n, 3]``.
        cell: Å, ``[3, 3]``, rows are vectors; zeros where there is none.
        pbc: bool ``[3]``.
        info: everything else about the frame.
        arrays: everything else about the atoms, ``[n]`` or ``[n, k]``.
        calculated: results a calculator left.
    """

    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    info: Mapping[str, Any]
    arrays: Mapping[str, Any]
    calculated: Mapping[str, Any]

    def keys(self) -> set[str]:
        """Return the names of everything that might be a label."""
        return {*self.info, *self.arrays, *self.calculated}


def shown(value: Any) -> str:
    """Return the start of a value on one line, for messages."""
    text = " ".join(repr(value.tolist() if isinstance(value, np.ndarray) else value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


def to_structure(
    frame: Frame, keys: LabelKeys, head: str, inputs: Sequence[str], place: str
) -> tuple[Structure, dict[str, str]]:
    """Return the structure of a frame, and the key of each label found.

    Args:
        frame: what was read.
        keys: where labels, head and config type are.
        head: head of a frame that names none.
        inputs: names of further columns or entries to keep.
        place: where it was read, for messages.

    Raises:
        DataError: a value that is wanted cannot be used; names its key.
    """
    found, properties, weights = {}, {}, {}
    seen = frame.keys()
    for name, candidates in keys.of_labels.items():
        if name not in frame.calculated and seen.isdisjoint(candidates):
            continue
        label = find_label(name, keys, (frame.info, frame.arrays), frame.calculated)
        if label is not None:
            found[name] = label[0]
            shape = property_shape(name, len(frame.atomic_numbers))
            properties[name] = _label(name, label[1], shape, f"{place}: {label[0]}")
            weights[name] = _weight(frame.info, f"config_{name}_weight", place)
    structure = Structure(
        frame.atomic_numbers,
        frame.positions,
        frame.cell,
        frame.pbc,
        properties,
        weights,
        _weight(frame.info, "config_weight", place),
        _name(frame.info, keys.config_type, "Default", place),
        _name(frame.info, keys.head, head, place),
        place,
        _inputs(frame, inputs, place),
        _name(frame.info, keys.group, None, place) if keys.group else "",
    )
    return structure, found


def _label(name: str, value: Any, shape: tuple[int, ...], place: str) -> NDArray[np.float64]:
    try:
        array = _real_numbers(value)
        if name in _SYMMETRIC:
            return _symmetric(array)
        if array.shape != shape:
            _refuse(f"shape {array.shape}, expected {shape}")
    except (TypeError, ValueError) as error:
        message = f"{place}: {name} cannot be used: {error}; correct or remove the label"
        raise DataError(message) from error
    return array


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)


def _symmetric(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a symmetric 3×3 matrix.

    Programs print them to a few digits, and the parsers differ in which of nine numbers in a row
    are those of the first row; the mean of both halves depends on neither.

    Raises:
        ValueError: the values are none.
    """
    matrix = symmetric_matrix(values)
    if not np.isfinite(matrix).all():
        return matrix  # check_structure says which label it is
    difference = np.abs(matrix - matrix.T)
    if (difference > 1e-3 * np.abs(matrix).max() + 1e-6).any():
        i, j = np.unravel_index(difference.argmax(), (3, 3))
        _refuse(
            f"element {i},{j} is {matrix[i, j]:g} and {j},{i} is {matrix[j, i]:g}, "
            "expected a symmetric matrix"
        )
    return (matrix + matrix.T) / 2


def _inputs(frame: Frame, names: Sequence[str], place: str) -> dict[str, NDArray[np.float64]]:
    found = {}
    for name, columns in itertools.product(names, (frame.arrays, frame.info)):
        if name not in columns:
            continue
        try:
            found[name] = _real_numbers(columns[name])
        except (TypeError, ValueError) as error:
            message = f"{place}: {name} cannot be used: {error}; correct or remove it"
            raise DataError(message) from error
    return found


def _real_numbers(value: Any) -> NDArray[np.float64]:
    """Return numbers as float64; what is true, false or text is no number.

    Raises:
        TypeError, ValueError: it is none.
    """
    array = np.asarray(value)
    if array.dtype.kind in "iuf":
        return array.astype(np.float64)
    if array.dtype.kind == "U" and str(value).strip("+-").lower() in ("nan", "inf", "infinity"):
        return np.array(float(value))  # the parser takes these for words
    _refuse(f"{shown(value)} is not a number, expected numbers")


def _weight(info: Mapping[str, Any], key: str, place: str) -> float:
    if key not in info:
        return 1.0
    try:
        weight = float(_real_numbers(info[key]))
    except (TypeError, ValueError):
        weight = np.nan
    if not 0 <= weight <= LARGEST:
        message = f"{place}: weight {key} is {shown(info[key])}, expected a number ≥ 0; correct it"
        raise DataError(message)
    return weight


def _name(info: Mapping[str, Any], key: str, default: str | None, place: str) -> str:
    value = info.get(key, default)
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        return str(value)
    message = f"{place}: {key} is {shown(value)}, expected a name; correct or remove it"
    raise DataError(message)
