"""A structure as the items of a group of Torch MACE's, and back.

A missing property is the text ``None`` with weight 0.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.hdf5_items import Item
from mace_jax.artifacts.hdf5_mapped_records import Column
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure
from mace_jax.units import symmetric_matrix

_MISSING = "None"
# From the path of an item to its values in several groups; None: they have no such item.
Items = Callable[[str], Column | None]


def items_of(structure: Structure) -> dict[str, Item]:
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


def structures_of(items: Items, places: Sequence[str]) -> list[Structure]:
    """Return the structures of groups that have the same items.

    Raises:
        KeyError, TypeError, ValueError: an item is missing, or is of another kind or shape.
    """
    n = len(places)
    labels = dict(_labels(items))
    weights = {name: _numbers(items, f"property_weights/{name}").tolist() for name in labels}
    atomic_numbers = _array(items, "atomic_numbers")
    if atomic_numbers.dtype != np.int64:
        message = f"atomic_numbers of type {atomic_numbers.dtype}, expected integers"
        raise TypeError(message)
    fields = zip(
        atomic_numbers,
        _real(_array(items, "positions")),
        _array_or(items, "cell", np.zeros((n, 3, 3))),
        _array_or(items, "pbc", np.zeros((n, 3))) != 0,
        _numbers(items, "weight").tolist(),
        _texts(items, "config_type"),
        _texts(items, "properties/head", [""] * n),
        places,
        strict=True,
    )
    return [
        Structure(
            numbers,
            positions,
            cell,
            pbc,
            {name: values[k, ...] for name, values in labels.items()},
            {name: values[k] for name, values in weights.items()},
            weight,
            config_type or "Default",
            "Default" if head in ("", _MISSING) else head,
            place,
        )
        for k, (numbers, positions, cell, pbc, weight, config_type, head, place) in enumerate(
            fields
        )
    ]


def _labels(items: Items) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield the labels that the groups have."""
    for name, shape in PROPERTY_SHAPES.items():
        values = items(f"properties/{name}")
        if values is None or _is_missing(values):
            continue
        if shape == (3, 3):
            yield name, np.array([symmetric_matrix(value) for value in values])
        else:
            yield name, _real(values)


def _array(items: Items, path: str) -> NDArray[Any]:
    values = items(path)
    if values is None:
        message = f"{path} is missing"
        raise KeyError(message)
    if isinstance(values, list):
        message = f"{path} is the text {values[0]!r}, expected numbers"
        raise TypeError(message)
    return values


def _array_or(items: Items, path: str, missing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers, or what stands for them where the text ``None`` does."""
    values = items(path)
    return missing if values is not None and _is_missing(values) else _real(_array(items, path))


def _numbers(items: Items, path: str) -> NDArray[np.float64]:
    """Return one number of each group."""
    values = _array(items, path)
    return _real(values.reshape(len(values)))


def _texts(items: Items, path: str, missing: list[str] | None = None) -> list[str]:
    values = items(path)
    values = missing if values is None else values
    if not isinstance(values, list):
        found = "missing" if values is None else f"an array of {values.dtype}"
        message = f"{path} is {found}, expected a text"
        raise TypeError(message)
    return values


def _is_missing(values: Column) -> bool:
    return isinstance(values, list) and all(value == _MISSING for value in values)


def _real(value: Any) -> NDArray[np.float64]:
    return np.asarray(value, "<f8", order="C")
