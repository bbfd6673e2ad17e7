"""Non-linearities scaled so that a standard normal input gives a second moment of one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from mace_jax.architecture import ACTIVATION_SCALES

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "abs": jnp.abs,
    "sigmoid": jax.nn.sigmoid,
}


def normalized_activation(name: str) -> Callable[[Array], Array]:
    """Return the activation ``silu``, ``tanh``, ``abs``, ``sigmoid`` or ``None`` (the identity).

    Source: e3nn (torch) 0.4 ``normalize2mom``.
    """
    if name == "None":
        return lambda x: x
    function, scale = _ACTIVATIONS[name], ACTIVATION_SCALES[name]
    return lambda x: scale * function(x)
