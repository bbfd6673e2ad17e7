"""Non-linearities scaled so that a standard normal input gives a second moment of one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

# Torch e3nn estimates 1/sqrt(E[f(z)²]) from a million samples of one seed; its digits are part of
# every Torch MACE model, so they are used here instead of the exact integrals.
_ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], float]] = {
    "silu": (jax.nn.silu, 1.6791767923989418),
    "tanh": (jnp.tanh, 1.5937334472592695),
    "abs": (jnp.abs, 1.001110600838467),
    "sigmoid": (jax.nn.sigmoid, 1.8467055342154763),
}


def normalized_activation(name: str) -> Callable[[Array], Array]:
    """Return the activation ``silu``, ``tanh``, ``abs``, ``sigmoid`` or ``None`` (the identity).

    Source: e3nn (torch) 0.4 ``normalize2mom``.
    """
    if name == "None":
        return lambda x: x
    function, scale = _ACTIVATIONS[name]
    return lambda x: scale * function(x)
