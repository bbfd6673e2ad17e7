"""Numbers that belong to a network and its bundle but are not trained; torch calls them buffers."""

import jax.numpy as jnp
from flax import nnx
from numpy.typing import ArrayLike


class Constant(nnx.Variable):
    """An array that no optimizer touches."""


def constant(value: ArrayLike, dtype: str) -> Constant:
    """Return ``value`` as a constant of a network."""
    return Constant(jnp.asarray(value, dtype))
