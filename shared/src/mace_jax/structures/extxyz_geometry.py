"""Cell, periodic boundaries and elements, as extended XYZ writes them."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.elements import SYMBOLS
from mace_jax.errors import DataError
from mace_jax.structures.frame import shown


def cell_and_pbc(info: dict[str, Any], place: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Take ``Lattice`` and ``pbc`` out of ``info``; by ASE's rule a lattice alone means periodic.

    Returns: the cell, rows are vectors and zeros where there is none, ``[3, 3]``, and pbc ``[3]``.

    Raises:
        DataError: one of them cannot be used.
    """
    lattice, pbc = info.pop("Lattice", None), info.pop("pbc", None)
    cell = np.zeros((3, 3)) if lattice is None else _cell(np.asarray(lattice), place)
    if pbc is None:
        return cell, np.full(3, lattice is not None)
    if isinstance(pbc, np.ndarray) and (pbc.dtype, pbc.shape) == (np.bool_, (3,)):
        return cell, pbc
    flags = np.asarray(pbc, dtype=object)
    if flags.shape not in ((), (3,)) or not all(flag in (0, 1) for flag in flags.flat):
        message = (
            f"{place}: pbc is {shown(pbc)}, expected T or F along each cell vector; correct it"
        )
        raise DataError(message)
    return cell, np.full(3, flags, dtype=bool)


def _cell(lattice: NDArray[Any], place: str) -> NDArray[np.float64]:
    numeric = lattice.dtype.kind in "if"
    if numeric and lattice.shape in ((9,), (3, 3)):
        # as three by three both parsers give the vectors as columns
        return lattice.T.reshape(3, 3).astype(np.float64)
    found = f"{lattice.size} numbers" if numeric else shown(lattice)
    message = f"{place}: Lattice is {found}, expected the nine numbers of three vectors; correct it"
    raise DataError(message)


def atomic_numbers(arrays: dict[str, Any], place: str) -> NDArray[np.int64]:
    """Take ``species`` and ``Z`` out of ``arrays``; symbols with capitals or not, as ASE has them.

    Returns: atomic numbers, ``[n]``.

    Raises:
        DataError: a symbol is unknown, or symbol and number of an atom disagree.
    """
    given, species = arrays.pop("Z", None), arrays.pop("species", None)
    if species is None:
        return np.asarray(given).astype(np.int64)
    symbols = tuple(species.tolist())
    numbers = np.array(_numbers_of(symbols))
    wrong = (numbers < 0) if given is None else (numbers != given)
    if wrong.any():
        atom = int(wrong.argmax())
        what = "unknown element" if numbers[atom] < 0 else f"Z {given[atom]} of element"
        message = (
            f"{place}: atom {atom}: {what} {symbols[atom]!r}, expected a chemical symbol"
            f"{'' if given is None else ' and its number'}; correct it"
        )
        raise DataError(message)
    return numbers


@lru_cache(maxsize=256)
def _numbers_of(symbols: tuple[str, ...]) -> tuple[int, ...]:
    """Return atomic numbers, -1 of what is none; the same molecule comes again and again."""
    return tuple(_NUMBERS.get(name) or _NUMBERS.get(name.capitalize(), -1) for name in symbols)


_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS)}
