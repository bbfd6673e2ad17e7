"""Products over the components of features, whose derivatives are such products again.

JAX's own derivative sums over components, an axis of one to seven inside the array, and XLA's CPU
compiler is slow at such sums. Here they are written out.
"""

from functools import reduce

import jax
from jax import Array


@jax.custom_vjp
def scaled(factors: Array, features: Array) -> Array:
    """Multiply each channel ``[…, channels]`` with its components ``[…, 2l+1, channels]``."""
    axes = (*range(factors.ndim - 1), factors.ndim)
    return jax.lax.mul(jax.lax.broadcast_in_dim(factors, features.shape, axes), features)


@jax.custom_vjp
def contracted(a: Array, b: Array) -> Array:
    """Sum products over components, ``[…, 2l+1, channels]`` to ``[…, channels]``."""
    products = jax.lax.mul(a, b)
    components = (
        jax.lax.index_in_dim(products, m, axis=-2, keepdims=False) for m in range(a.shape[-2])
    )
    return reduce(jax.lax.add, components)


scaled.defvjp(
    lambda factors, features: (scaled(factors, features), (factors, features)),
    lambda operands, cotangent: (
        contracted(cotangent, operands[1]),
        scaled(operands[0], cotangent),
    ),
)
contracted.defvjp(
    lambda a, b: (contracted(a, b), (a, b)),
    lambda operands, cotangent: (scaled(cotangent, operands[1]), scaled(cotangent, operands[0])),
)
