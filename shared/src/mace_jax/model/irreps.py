"""Features by irrep: ``{irrep: [n, 2l+1, channels]}``, channels last, as used in every block.

Channels last makes every contraction over channels a plain matrix product.
"""

import e3nn_jax as e3nn
import jax.numpy as jnp
from jax import Array

from mace_jax.errors import ConfigError

Features = dict[e3nn.Irrep, Array]


def parse_irreps(text: str, name: str) -> e3nn.Irreps:
    """Parse irreps such as ``32x0e + 32x1o``, one entry per irrep, in the order given.

    Raises:
        ConfigError: they cannot be read, or an irrep occurs twice.
    """
    try:
        irreps = e3nn.Irreps(text).simplify()
    except ValueError as error:
        message = f"{name}: {text!r} ({error}), expected irreps such as '32x0e + 32x1o'"
        raise ConfigError(message) from error
    if not irreps or len({irrep for _, irrep in irreps}) != len(irreps):
        message = f"{name}: {text!r}, expected each irrep once, such as '32x0e + 32x1o'"
        raise ConfigError(message)
    return irreps


def hidden_channels(hidden_irreps: e3nn.Irreps) -> int:
    """Return the number of channels, which all hidden irreps share in MACE.

    Raises:
        ConfigError: there are no scalars, or the channels differ.
    """
    channels = {multiplicity for multiplicity, _ in hidden_irreps}
    if "0e" not in hidden_irreps or len(channels) != 1:
        message = (
            f"hidden_irreps: {hidden_irreps}, expected 0e and the same number of channels for "
            "every irrep, such as '32x0e + 32x1o'"
        )
        raise ConfigError(message)
    return channels.pop()


def spherical_harmonics_irreps(max_ell: int) -> list[e3nn.Irrep]:
    """Return the irreps of the spherical harmonics up to ``max_ell``: 0e, 1o, 2e and so on."""
    return [e3nn.Irrep(ell, (-1) ** ell) for ell in range(max_ell + 1)]


def interaction_irreps(hidden_irreps: e3nn.Irreps, max_ell: int) -> list[e3nn.Irrep]:
    """Return the irreps of a message: those of the harmonics, of both parities with 0o hidden."""
    if "0o" in hidden_irreps:
        return [e3nn.Irrep(ell, parity) for ell in range(max_ell + 1) for parity in (-1, 1)]
    return spherical_harmonics_irreps(max_ell)


def join_components(features: Features) -> Array:
    """Join the irreps of features along components: ``[n, sum of 2l+1, channels]``."""
    return jnp.concatenate(list(features.values()), axis=1)
