"""Wigner 3j symbols of real spherical harmonics, in the sign convention of e3nn (torch) 0.4.

That convention is part of Torch MACE's numbers: weights trained there are only right with it.
"""

from functools import cache

import e3nn_jax as e3nn
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
    symbol = e3nn.clebsch_gordan(l1, l2, l3)
    symbol = symbol / np.linalg.norm(symbol)
    leading = symbol[l1, l2, l3]
    if abs(leading) < _ZERO:
        leading = symbol.ravel()[np.flatnonzero(np.abs(symbol) > _ZERO)[0]]
    return symbol * np.sign(leading)
