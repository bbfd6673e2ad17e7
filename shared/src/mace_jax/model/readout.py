"""Readouts: an energy for each atom and head from its scalar features."""

import e3nn_jax as e3nn
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from mace_jax.model.activation import normalized_activation
from mace_jax.model.irreps import Features
from mace_jax.model.linear import EquivariantLinear

_SCALAR = e3nn.Irrep("0e")


class LinearReadoutBlock(nnx.Module):
    """A linear map of the scalars; mace-torch class of the same name."""

    def __init__(
        self, channels: int, n_heads: int, *, dtype: str, rng: np.random.Generator
    ) -> None:
        """Build the block."""
        self.linear = EquivariantLinear({_SCALAR: (channels, n_heads)}, dtype=dtype, rng=rng)

    def __call__(self, features: Features, node_head: Array) -> Array:
        """Return the energy of each node by its own head, ``[n_node]``."""
        return _of_head(self.linear({_SCALAR: features[_SCALAR]})[_SCALAR], node_head)


class NonLinearReadoutBlock(nnx.Module):
    """Two layers with a gate between them; mace-torch class of the same name."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        gate: str,
        n_heads: int,
        *,
        dtype: str,
        rng: np.random.Generator,
    ) -> None:
        """Build the block with ``hidden`` scalars for each head."""
        self.gate, self.n_heads = gate, n_heads
        self.linear_1 = EquivariantLinear(
            {_SCALAR: (channels, n_heads * hidden)}, dtype=dtype, rng=rng
        )
        self.linear_2 = EquivariantLinear(
            {_SCALAR: (n_heads * hidden, n_heads)}, dtype=dtype, rng=rng
        )

    def __call__(self, features: Features, node_head: Array) -> Array:
        """Return the energy of each node by its own head, ``[n_node]``."""
        hidden = self.linear_1({_SCALAR: features[_SCALAR]})[_SCALAR]
        hidden = normalized_activation(self.gate)(hidden)
        if self.n_heads > 1:
            by_head = hidden.reshape(*hidden.shape[:2], self.n_heads, -1)
            own = (node_head[:, None] == jnp.arange(self.n_heads))[:, None, :, None]
            hidden = jnp.where(own, by_head, 0).reshape(hidden.shape)
        return _of_head(self.linear_2({_SCALAR: hidden})[_SCALAR], node_head)


def _of_head(energies: Array, node_head: Array) -> Array:
    """Pick from ``[n_node, 1, n_heads]`` each node's head."""
    return jnp.take_along_axis(energies[:, 0], node_head[:, None], axis=1)[:, 0]
