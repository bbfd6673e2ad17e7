"""What a model reads of ASE's atoms: the structure, and what it is told beside."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mace_jax.errors import DataError
from mace_jax.structures.structure import Structure

_PLACE = "atoms"
# What mace-torch's calculator calls what a model is told.
_TORCH_KEYS = {"total_charge": "charge", "total_spin": "spin", "charges": "Qs"}


def structure_of(atoms: Atoms, inputs: Sequence[str]) -> Structure:
    """Return the atoms, whose arrays it shares, and what a model is told of them.

    Args:
        atoms: of ASE.
        inputs: names of what the model is told, in ``atoms.info`` or ``atoms.arrays``.

    Raises:
        DataError: an input is no number, or is there twice and not the same.
    """
    columns = {**atoms.arrays, **atoms.info} if inputs else {}
    told = {name: _told(columns, name) for name in inputs}
    return Structure(
        atoms.numbers.astype(np.int64),
        atoms.positions,
        atoms.cell.array,
        atoms.pbc,
        head=str(atoms.info.get("head", "Default")),
        place=_PLACE,
        inputs={name: value for name, value in told.items() if value is not None},
    )


def _told(columns: Mapping[str, Any], name: str) -> NDArray[np.float64] | None:
    """Return the input ``name`` under whichever key it is there, or None."""
    names = (name, f"REF_{name}", _TORCH_KEYS.get(name, name))
    keys = [key for key in dict.fromkeys(names) if key in columns]
    values = [_numbers(columns[key], key) for key in keys]
    for key, value in zip(keys[1:], values[1:], strict=True):
        if not np.array_equal(value, values[0]):
            message = f"{_PLACE}: {keys[0]} and {key} differ, expected one; remove the wrong one"
            raise DataError(message)
    return values[0] if values else None


def _numbers(value: Any, name: str) -> NDArray[np.float64]:
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        message = f"{_PLACE}: {name} cannot be used: {error}; correct or remove it"
        raise DataError(message) from error
