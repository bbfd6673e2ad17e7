"""How the programs of a network are compiled."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax

# XLA's older emitter of loops: half of the memory and three quarters of the time to compile, and
# steps that cost the same.
_ON_A_CPU = {"xla_cpu_use_fusion_emitters": False}
_UNKNOWN = "No such compile option"


def jit(function: Callable[..., Any], **settings: Any) -> Any:
    """Return ``jax.jit(function, **settings)`` as what computes a network is compiled.

    It is to be called from Python, not inside another compiled function.
    """
    return jax.jit(function, compiler_options=_options(jax.default_backend()), **settings)


@cache
def _options(platform: str) -> dict[str, bool]:
    return known_options(_ON_A_CPU) if platform == "cpu" else {}


def known_options(options: dict[str, bool]) -> dict[str, bool]:
    """Return ``options`` of XLA if this version of it has them, else none."""
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if _UNKNOWN not in str(error):
            raise
        return {}
    return options
