"""Wigner 3j symbols of real spherical harmonics, in the sign convention of e3nn (torch) 0.4.

That convention is part of Torch MACE's numbers: weights trained there are only right with it.
"""

from fractions import Fraction
from functools import cache
from math import factorial, sqrt

import numpy as np
from numpy.typing import NDArray

_ZERO = 1e-10


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    """Return the invariant tensor of three irreps, of norm one.

    For ascending l the coefficient at m = 0, 0, 0 is positive or, where that vanishes, the first
    one that does not. Other orders follow by transposition, times (-1)^(l1 + l2 + l3) for an odd
    permutation.

    Args:
        l1, l2, l3: orders that satisfy the triangle inequality.

    Returns: ``[2 l1 + 1, 2 l2 + 1, 2 l3 + 1]``.

    Source: equals ``e3nn.o3.wigner_3j`` of the torch package.
    """
    orders = (l1, l2, l3)
    ascending = tuple(int(i) for i in np.argsort(orders, kind="stable"))
    symbol = _ascending_wigner_3j(*(orders[i] for i in ascending))
    symbol = np.transpose(symbol, np.argsort(ascending))
    odd = ascending in {(1, 0, 2), (0, 2, 1), (2, 1, 0)}
    return symbol * (-1) ** (l1 + l2 + l3) if odd else symbol


@cache
def _ascending_wigner_3j(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    symbol = np.einsum(
        "abc,ai,bj,ck->ijk",
        _complex_clebsch_gordan(l1, l2, l3),
        _real_harmonics(l1),
        _real_harmonics(l2),
        _real_harmonics(l3).conj(),
    )
    # up to a phase the invariant is real
    symbol = symbol.real if np.abs(symbol.real).max() > _ZERO else symbol.imag
    symbol = np.where(np.abs(symbol) < 1e-14, 0.0, symbol)
    symbol /= np.linalg.norm(symbol)
    leading = symbol[l1, l2, l3]
    if abs(leading) < _ZERO:
        leading = symbol.ravel()[np.flatnonzero(np.abs(symbol) > _ZERO)[0]]
    return symbol * np.sign(leading)


def _real_harmonics(l: int) -> NDArray[np.complex128]:
    """Return real spherical harmonics (columns) in terms of complex ones (rows), m = -l … l."""
    change = np.zeros((2 * l + 1, 2 * l + 1), dtype=np.complex128)
    change[l, l] = 1
    for m in range(1, l + 1):
        change[l - m, l + m] = change[l + m, l + m] = 1 / sqrt(2)
        change[l + m, l + m] *= (-1) ** m
        change[l - m, l - m] = -1j / sqrt(2)
        change[l + m, l - m] = 1j * (-1) ** m / sqrt(2)
    return change


def _complex_clebsch_gordan(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    """Return <l1 m1 l2 m2 | l3 m1+m2>, ``[2 l1 + 1, 2 l2 + 1, 2 l3 + 1]``."""
    table = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            table[l1 + m1, l2 + m2, l3 + m1 + m2] = _coefficient(l1, m1, l2, m2, l3)
    return table


def _coefficient(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """Return a Clebsch–Gordan coefficient by Racah's formula, in exact arithmetic."""
    f = factorial
    m3 = m1 + m2
    total = Fraction(0)
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        total += Fraction(
            (-1) ** k,
            f(k) * f(l1 + l2 - l3 - k) * f(l1 - m1 - k) * f(l2 + m2 - k)
            * f(l3 - l2 + m1 + k) * f(l3 - l1 - m2 + k),
        )  # fmt: skip
    triangle = Fraction(
        (2 * l3 + 1) * f(l3 + l1 - l2) * f(l3 - l1 + l2) * f(l1 + l2 - l3), f(l1 + l2 + l3 + 1)
    )
    states = f(l3 + m3) * f(l3 - m3) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2)
    return float(total) * sqrt(triangle * states)
