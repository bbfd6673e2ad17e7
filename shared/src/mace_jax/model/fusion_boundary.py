"""A boundary that XLA does not fuse across.

XLA's CPU compiler takes elementwise work for free and repeats it wherever a gather reads its
result. Work that is read many times has to be computed apart.
"""

from collections.abc import Callable
from typing import ParamSpec

import jax
from jax import Array
from jax.experimental.xla_metadata import set_xla_metadata

P = ParamSpec("P")


def computed_apart(function: Callable[P, Array]) -> Callable[P, Array]:
    """Return ``function`` compiled so that, on CPU, its result is computed once and stored."""
    apart = jax.jit(function)

    def on_cpu(*args: P.args, **kwargs: P.kwargs) -> Array:
        with set_xla_metadata(inlineable="false"):
            return apart(*args, **kwargs)

    def call(*args: P.args, **kwargs: P.kwargs) -> Array:
        return jax.lax.platform_dependent(*args, **kwargs, cpu=on_cpu, default=function)

    return call
