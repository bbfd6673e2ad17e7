"""One atomic structure with whatever labels it has; the unit that flows through the chain."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.elements import MAX_ATOMIC_NUMBER
from mace_jax.errors import DataError

# Shape of each label in terms of the number of atoms n.
PROPERTY_SHAPES: dict[str, tuple[str | int, ...]] = {
    "energy": (),
    "forces": ("n", 3),
    "stress": (3, 3),
    "virials": (3, 3),
    "dipole": (3,),
    "charges": ("n",),
    "polarizability": (3, 3),
}

# No quantity in Å, eV, e or units made of them is larger; sums of its square are finite.
LARGEST = 1e12
# Å; images of an atom are never nearer, and a search for neighbours would find millions of them.
_SMALLEST_SPACING = 0.1
# Of unit vectors: the square of the volume they span. Rounding leaves 1e-16 of none.
_SMALLEST_GRAM_DETERMINANT = 1e-12


@dataclass(frozen=True, eq=False)
class Structure:
    """Atoms, their cell and their labels.

    Attributes:
        atomic_numbers: int64 ``[n]``.
        positions: Å, ``[n, 3]``.
        cell: Å, ``[3, 3]``, rows are vectors; zeros for a molecule without a cell.
        pbc: bool ``[3]``.
        properties: the labels that exist, by name; shapes as in ``PROPERTY_SHAPES``, units as in
            ``mace_jax.units``. A missing label is absent, never zero.
        property_weights: weight of each label in the loss; 1 where not given.
        weight: weight of the whole structure in the loss.
        config_type: name of the group of data it belongs to.
        head: name of the readout head it is for.
        place: where it was read, for messages, such as ``train.xyz: frame 3``.
        inputs: what a model may be told beside atoms and positions, such as ``total_charge``; per
            atom ``[n]`` or ``[n, k]``, or per structure ``[]``.
        group: of structures that belong into the same split; where a key for it was given.
    """

    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    properties: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    property_weights: Mapping[str, float] = field(default_factory=dict)
    weight: float = 1.0
    config_type: str = "Default"
    head: str = "Default"
    place: str = "structure"
    inputs: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    group: str = ""

    def __len__(self) -> int:
        """Return the number of atoms."""
        return len(self.atomic_numbers)

    def label_weight(self, name: str) -> float:
        """Return the weight of the label ``name`` in the loss; 0 where there is none."""
        if name not in self.properties:
            return 0.0
        return self.weight * self.property_weights.get(name, 1.0)


def weighted_by_config_type(structure: Structure, weights: Mapping[str, float]) -> Structure:
    """Return ``structure`` with its weight times that of its config type; 1 where not given."""
    factor = weights.get(structure.config_type, 1.0)
    return structure if factor == 1 else replace(structure, weight=structure.weight * factor)


def structure_digest(structure: Structure) -> str:
    """Return 32 hexadecimal digits that name the geometry: elements, positions, cell and pbc.

    Labels, weights and where it was read do not count: frames that differ in these alone are equal.
    """
    digest = hashlib.blake2b(digest_size=16)
    for array, kind in (
        (structure.atomic_numbers, "<i8"),
        (structure.positions, "<f8"),
        (structure.cell, "<f8"),
        (structure.pbc, "|b1"),
    ):
        digest.update(np.where(array == 0, 0, array).astype(kind).tobytes())  # -0.0 is 0.0
    return digest.hexdigest()


def volume(structure: Structure) -> float:
    """Return the volume of the physical cell, Å³; infinite without a periodic cell."""
    return float(volumes(structure.cell, structure.pbc))


def volumes(cells: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the volumes of physical cells ``[…, 3, 3]`` as ``volume`` does, Å³, ``[…]``."""
    found = np.abs(np.linalg.det(cells))
    return np.where(pbc.any(axis=-1) & (found > 0), found, np.inf)


@cache
def property_shape(name: str, n_atoms: int) -> tuple[int, ...]:
    """Return the shape of label ``name`` of a structure of ``n_atoms``."""
    return tuple(size if isinstance(size, int) else n_atoms for size in PROPERTY_SHAPES[name])


def has_shapes(structure: Structure) -> bool:
    """Return whether arrays and labels have the shapes that they must have."""
    n = len(structure)
    return (
        structure.positions.shape == (n, 3)
        and structure.cell.shape == (3, 3)
        and structure.pbc.shape == (3,)
        and all(
            value.shape == property_shape(name, n) for name, value in structure.properties.items()
        )
    )


def check_structure(structure: Structure) -> None:
    """Check that shapes agree, every number is possible, and a periodic cell has a volume.

    Raises:
        DataError: names the place, the quantity, and the first atom that is wrong.
    """
    n, place = len(structure), structure.place
    if n == 0:
        message = f"{place}: has no atoms, expected at least one; remove the structure"
        raise DataError(message)
    _check_array(structure.positions, (n, 3), place, "positions", per_atom=True)
    _check_array(structure.cell, (3, 3), place, "cell")
    _check_array(structure.pbc, (3,), place, "pbc")
    check_cell(structure)
    for name, weight in {"structure": structure.weight, **structure.property_weights}.items():
        if not 0 <= weight <= LARGEST:
            message = f"{place}: weight {weight} of {name}, expected a number ≥ 0; correct it"
            raise DataError(message)
    numbers = structure.atomic_numbers
    bad = (numbers < 1) | (numbers > MAX_ATOMIC_NUMBER)
    if bad.any():
        atom = bad.argmax()
        message = (
            f"{place}: atom {atom}: atomic number {numbers[atom]}, "
            f"expected 1 to {MAX_ATOMIC_NUMBER}; correct the element"
        )
        raise DataError(message)
    for name, value in structure.properties.items():
        shape = property_shape(name, n)
        _check_array(value, shape, place, name, per_atom="n" in PROPERTY_SHAPES[name])
    for name, value in structure.inputs.items():
        _check_array(value, value.shape, place, name, per_atom=value.ndim > 0)


def check_cell(structure: Structure) -> None:
    """Check that the cell vectors along which the structure is periodic are independent.

    Raises:
        DataError: one is zero, they lie in a plane or on a line, or are too short.
    """
    if not structure.pbc.any():
        return
    vectors = structure.cell[structure.pbc]
    lengths = np.sqrt((vectors * vectors).sum(axis=1))
    along = ", ".join("abc"[i] for i in np.flatnonzero(structure.pbc))
    if not lengths.all():
        what = "a cell vector of zero length" if structure.cell.any() else "no cell"
        message = f"{structure.place}: periodic along {along} with {what}, expected independent "
        raise DataError(message + "cell vectors; correct the lattice or pbc")
    directions = vectors / lengths[:, None]
    gram = np.linalg.det(directions @ directions.T)
    if gram < _SMALLEST_GRAM_DETERMINANT:
        message = (
            f"{structure.place}: periodic along {along} with cell vectors in one plane or on one "
            "line, expected independent cell vectors; correct the lattice or pbc"
        )
        raise DataError(message)
    if lengths.prod() * np.sqrt(gram) < _SMALLEST_SPACING ** len(vectors):
        message = (
            f"{structure.place}: periodic along {along} with images of an atom nearer than "
            f"{_SMALLEST_SPACING} Å, expected cell vectors in Å; correct the lattice or pbc"
        )
        raise DataError(message)


def possible_cells(cells: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which cells ``[n, 3, 3]`` pass ``check_cell``, ``[n]``."""
    passed = np.ones(len(cells), np.bool_)
    periodic = pbc.any(axis=1)
    along = pbc[periodic]
    vectors = np.where(along[:, :, None], cells[periodic], 0.0)
    lengths = np.sqrt((vectors * vectors).sum(axis=2))
    lengths = np.where(lengths > 0, lengths, 1.0)
    directions = vectors / lengths[:, :, None]
    # the open directions are as good as perpendicular to all others
    gram = directions @ directions.transpose(0, 2, 1) + (~along)[:, :, None] * np.eye(3)
    squares = np.linalg.det(gram)
    spanned = lengths.prod(axis=1) * np.sqrt(np.maximum(squares, 0))
    passed[periodic] = (squares >= _SMALLEST_GRAM_DETERMINANT) & (
        spanned >= _SMALLEST_SPACING ** along.sum(axis=1)
    )
    return passed


def _check_array(
    value: NDArray[Any],
    shape: tuple[str | int, ...],
    place: str,
    name: str,
    *,
    per_atom: bool = False,
) -> None:
    if value.shape != shape:
        message = (
            f"{place}: {name}: shape {value.shape}, expected {shape}; correct or remove the label"
        )
        raise DataError(message)
    possible = np.abs(value) <= LARGEST
    if not possible.all():
        index = tuple(int(i) for i in np.argwhere(~possible)[0])
        where = f" of atom {index[0]}" if per_atom else ""
        wanted = f"one up to {LARGEST:g}" if np.isfinite(value[index]) else "a finite number"
        message = (
            f"{place}: {name}{where} is {value[index]}, expected {wanted}; "
            "correct the structure or remove it"
        )
        raise DataError(message)
