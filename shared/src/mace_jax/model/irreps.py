"""Features by irrep: ``{irrep: [n, 2l+1, channels]}``, channels last, as used in every block.

Channels last makes every contraction over channels a plain matrix product.
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from mace_jax.equivariance.irreps import Irrep, Irreps

Features = dict[Irrep, Array]


def join_components(features: Features) -> Array:
    """Join the irreps of features along components: ``[n, sum of 2l+1, channels]``."""
    return jnp.concatenate(list(features.values()), axis=1)


def complete(features: Features, irreps: Irreps, n: int, dtype: DTypeLike) -> Features:
    """Return features of ``irreps``, in order; those that nothing contributed to are zero."""
    return {
        irrep: features[irrep] if irrep in features else jnp.zeros((n, irrep.dim, channels), dtype)
        for irrep, channels in irreps.items()
    }
