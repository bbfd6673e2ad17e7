"""Random initial weights, drawn with NumPy: the same on every machine, and nothing to compile."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array


def normal(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> Array:
    """Return standard normal numbers of ``shape``."""
    return jnp.asarray(rng.standard_normal(shape), dtype)
