"""The units and sign conventions of every number in this project, stated once.

Energies in eV, lengths in Å, forces ``-dE/dx`` in eV/Å. Stress is ``(1/V) dE/dstrain`` in eV/Å³
with the volume of the physical cell, ``virials = -V * stress`` in eV. Inside the library stress is
a 3×3 matrix; files that carry six numbers use ASE's Voigt order xx, yy, zz, yz, xz, xy.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

UNITS = {"energy": "eV", "length": "Å", "forces": "eV/Å", "stress": "eV/Å³"}

# One Debye in e·Å, from the speed of light (m/s) and the elementary charge (C).
DEBYE = 1e-11 / 299792458.0 / 1.602176634e-19

_VOIGT_ORDER = np.array([0, 5, 4, 5, 1, 3, 4, 3, 2])


def symmetric_matrix(values: ArrayLike) -> NDArray[np.float64]:
    """Return a stress or virial given as 6 (Voigt), 9 or 3×3 numbers as ``[3, 3]``.

    Raises:
        ValueError: the shape is none of these.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape == (6,):
        numbers = numbers[_VOIGT_ORDER]
    if numbers.shape not in ((9,), (3, 3)):
        message = f"shape {numbers.shape}, expected (6,), (9,) or (3, 3)"
        raise ValueError(message)
    return numbers.reshape(3, 3)
