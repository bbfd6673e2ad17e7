"""Random initial weights, drawn with NumPy: the same on every machine, and nothing to compile."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array


def normal(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> Array:
    """Return standard normal numbers of ``shape``."""
    return jnp.asarray(rng.standard_normal(shape), dtype)


def uniform(rng: np.random.Generator, shape: Sequence[int], limit: float, dtype: str) -> Array:
    """Return numbers of ``shape`` uniform between -limit and limit."""
    return jnp.asarray(rng.uniform(-limit, limit, shape), dtype)


class Dense(nnx.Module):
    """A matrix and a bias, not normalised; torch's ``Linear`` and its initial weights."""

    def __init__(
        self, n_in: int, n_out: int, *, use_bias: bool, dtype: str, rng: np.random.Generator
    ) -> None:
        """Draw weights ``[n_in, n_out]`` and, if asked for, a bias ``[n_out]``."""
        limit = 1 / n_in**0.5
        self.weight = nnx.Param(uniform(rng, (n_in, n_out), limit, dtype))
        self.bias = nnx.Param(uniform(rng, (n_out,), limit, dtype)) if use_bias else None

    def __call__(self, x: Array) -> Array:
        """Map ``[n, n_in]`` to ``[n, n_out]``."""
        x = x @ self.weight[...]
        return x if self.bias is None else x + self.bias[...]
