"""Chemical elements: the range of atomic numbers, their symbols and ordered lists of them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mace_jax.errors import DataError

MAX_ATOMIC_NUMBER = 118


def symbol(atomic_number: int) -> str:
    """Return the chemical symbol of ``atomic_number``."""
    from ase.data import chemical_symbols

    return chemical_symbols[atomic_number]


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
