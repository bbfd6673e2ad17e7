"""A boundary that XLA does not fuse across.

XLA's CPU compiler takes elementwise work for free and repeats it wherever a gather reads its
result. Work that is read many times has to be computed apart.
"""

from collections.abc import Callable, Hashable
from typing import TypeVar

import jax
from jax import Array
from jax.experimental.xla_metadata import set_xla_metadata

Static = TypeVar("Static", bound=Hashable)
Arrays = TypeVar("Arrays")


def computed_apart(
    function: Callable[[Static, Arrays], Array],
) -> Callable[[Static, Arrays], Array]:
    """Return ``function`` so that, on CPU, its result is computed once and stored.

    Args:
        function: of something hashable and of arrays.
    """
    compiled = jax.jit(function, static_argnums=0)

    def call(static: Static, arrays: Arrays) -> Array:
        if jax.default_backend() != "cpu":
            return compiled(static, arrays)
        with set_xla_metadata(inlineable="false"):
            return compiled(static, arrays)

    return call
