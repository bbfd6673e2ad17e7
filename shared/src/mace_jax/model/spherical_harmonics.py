"""Real spherical harmonics, each order from the one before it."""

from functools import cache
from math import sqrt

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from mace_jax.equivariance.wigner_3j import wigner_3j


def spherical_harmonics(vectors: Array, l_max: int) -> Array:
    """Return the harmonics of directions, l = 0 … ``l_max``, of mean square 1 over the sphere.

    Args:
        vectors: ``[n, 3]``, of any length but zero.
        l_max: highest order.

    Returns: ``[n, (l_max + 1)²]``; of order 1 the components are √3 (x, y, z) / length.

    Source: e3nn ``o3.spherical_harmonics`` with ``normalization="component"``.
    """
    unit = (vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)).T
    order = [jnp.ones_like(unit[0])]
    harmonics = list(order)
    for l in range(1, l_max + 1):
        order = [_component(terms, order, unit) for terms in _recurrence(l)]
        harmonics += order
    return jnp.stack(harmonics, axis=1)


def _component(terms: list[tuple[int, int, float]], order: list[Array], unit: Array) -> Array:
    # written out, because XLA fuses sums of products into one kernel and small matrices not
    first, *others = (factor * order[m] * unit[axis] for m, axis, factor in terms)
    return sum(others, start=first)


@cache
def _recurrence(l: int) -> list[list[tuple[int, int, float]]]:
    """Return, for each component of order ``l``, its terms: component before, axis, factor."""
    coupling: NDArray[np.float64] = wigner_3j(l - 1, 1, l)
    # along the middle axis only the middle components are not zero: √(2l-1) becomes √(2l+1)
    coupling = coupling * sqrt((2 * l + 1) / (2 * l - 1)) / coupling[l - 1, 1, l]
    return [
        [(int(m), int(axis), float(component[m, axis])) for m, axis in np.argwhere(component)]
        for component in np.moveaxis(coupling, 2, 0)
    ]
