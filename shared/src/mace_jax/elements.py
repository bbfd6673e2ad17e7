"""Chemical elements: the range of atomic numbers, their symbols and ordered lists of them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mace_jax.errors import DataError

MAX_ATOMIC_NUMBER = 118
# By atomic number; X is none.
# fmt: off
SYMBOLS = (
    "X", "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S",
    "Cl", "Ar", "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge",
    "As", "Se", "Br", "Kr", "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd",
    "In", "Sn", "Sb", "Te", "I", "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd",
    "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg",
    "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm",
    "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn",
    "Nh", "Fl", "Mc", "Lv", "Ts", "Og",
)
# fmt: on


def symbol(atomic_number: int) -> str:
    """Return the chemical symbol of ``atomic_number``."""
    return SYMBOLS[atomic_number]


def sorted_elements(atomic_numbers: Iterable[int]) -> tuple[int, ...]:
    """Return the distinct atomic numbers, ascending."""
    return tuple(sorted({int(number) for number in atomic_numbers}))


def species_index(
    atomic_numbers: ArrayLike, elements: tuple[int, ...], place: str
) -> NDArray[np.int32]:
    """Map atomic numbers to their places in the ascending list ``elements``.

    Args:
        atomic_numbers: ``[n_node]``.
        elements: the elements a model or dataset knows, ascending.
        place: what to name in the error, such as ``"train.xyz: frame 3"``.

    Raises:
        DataError: an element is not in the list; it is never mapped to another one.
    """
    atomic_numbers = np.asarray(atomic_numbers)
    known = np.asarray(elements)
    unknown = np.setdiff1d(atomic_numbers, known)
    if unknown.size:
        names = ", ".join(f"{symbol(int(z))} ({z})" for z in unknown)
        message = (
            f"{place}: unknown element {names}, expected one of {list(elements)}; "
            "add it to the atomic numbers or remove the structure"
        )
        raise DataError(message)
    return np.searchsorted(known, atomic_numbers).astype(np.int32)
