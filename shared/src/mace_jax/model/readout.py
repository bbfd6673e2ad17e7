"""Readouts: from the features of an atom to its energy by each head, or to its dipole."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from mace_jax.architecture import gate_input
from mace_jax.equivariance.irreps import SCALAR, Irreps
from mace_jax.model.activation import normalized_activation
from mace_jax.model.gate import gated
from mace_jax.model.irreps import Features, complete
from mace_jax.model.linear import EquivariantLinear


class LinearReadoutBlock(nnx.Module):
    """A linear map of the scalars; mace-torch class of the same name."""

    def __init__(
        self, inputs: Irreps, n_heads: int, *, dtype: str, rng: np.random.Generator
    ) -> None:
        """Build the block."""
        self.n_heads = n_heads
        self.linear = EquivariantLinear(inputs, Irreps([(SCALAR, n_heads)]), dtype=dtype, rng=rng)

    def __call__(self, features: Features, node_head: Array) -> Array:
        """Return the energy of each node by its own head, ``[n_node]``."""
        return _of_head(_scalars(self.linear, features, self.n_heads), node_head)


class NonLinearReadoutBlock(nnx.Module):
    """Two layers with a gate between them; mace-torch class of the same name."""

    def __init__(
        self,
        inputs: Irreps,
        hidden: int,
        gate: str,
        n_heads: int,
        *,
        dtype: str,
        rng: np.random.Generator,
        use_bias: bool = False,
    ) -> None:
        """Build the block with ``hidden`` scalars for each head."""
        self.gate, self.n_heads, self.width = gate, n_heads, n_heads * hidden
        middle, outputs = Irreps([(SCALAR, self.width)]), Irreps([(SCALAR, n_heads)])
        self.linear_1 = EquivariantLinear(inputs, middle, dtype=dtype, rng=rng)
        self.linear_2 = EquivariantLinear(middle, outputs, dtype=dtype, rng=rng, use_bias=use_bias)

    def __call__(self, features: Features, node_head: Array) -> Array:
        """Return the energy of each node by its own head, ``[n_node]``."""
        hidden = self.activate(_scalars(self.linear_1, features, self.width), node_head)
        return _of_head(self.linear_2(hidden)[SCALAR], node_head)

    def activate(self, x: Array, node_head: Array) -> Features:
        """Apply the gate and set the hidden scalars of other heads to 0."""
        x = normalized_activation(self.gate)(x)
        if self.n_heads > 1:
            by_head = x.reshape(*x.shape[:2], self.n_heads, -1)
            own = (node_head[:, None] == jnp.arange(self.n_heads))[:, None, :, None]
            x = jnp.where(own, by_head, 0).reshape(x.shape)
        return {SCALAR: x}


class NonLinearBiasReadoutBlock(NonLinearReadoutBlock):
    """Three layers, the last two with bias; mace-torch class of the same name."""

    def __init__(
        self,
        inputs: Irreps,
        hidden: int,
        gate: str,
        n_heads: int,
        *,
        dtype: str,
        rng: np.random.Generator,
    ) -> None:
        """Build the block; arguments as in ``NonLinearReadoutBlock``."""
        super().__init__(inputs, hidden, gate, n_heads, dtype=dtype, rng=rng, use_bias=True)
        middle = Irreps([(SCALAR, self.width)])
        self.linear_mid = EquivariantLinear(middle, middle, dtype=dtype, rng=rng, use_bias=True)

    def __call__(self, features: Features, node_head: Array) -> Array:
        """Return the energy of each node by its own head, ``[n_node]``."""
        hidden = self.activate(_scalars(self.linear_1, features, self.width), node_head)
        hidden = self.activate(self.linear_mid(hidden)[SCALAR], node_head)
        return _of_head(self.linear_2(hidden)[SCALAR], node_head)


class LinearDipoleReadoutBlock(nnx.Module):
    """A linear map to whatever irreps a model of dipoles predicts.

    Source: mace-torch ``LinearDipoleReadoutBlock`` and ``LinearDipolePolarReadoutBlock``.
    """

    def __init__(
        self, inputs: Irreps, outputs: Irreps, *, dtype: str, rng: np.random.Generator
    ) -> None:
        """Build the block."""
        self.linear = EquivariantLinear(inputs, outputs, dtype=dtype, rng=rng)

    def __call__(self, features: Features) -> Features:
        """Return ``[n_node, 2l+1, channels]`` of each irrep that the features have."""
        return self.linear(features)


class NonLinearDipoleReadoutBlock(nnx.Module):
    """Two linear maps with a gate between them.

    Source: mace-torch ``NonLinearDipoleReadoutBlock`` and ``NonLinearDipolePolarReadoutBlock``.
    """

    def __init__(
        self,
        inputs: Irreps,
        hidden: Irreps,
        gate: str,
        outputs: Irreps,
        *,
        dtype: str,
        rng: np.random.Generator,
    ) -> None:
        """Build the block with features ``hidden`` between the maps."""
        self.gate, self.hidden = gate, hidden
        self.linear_1 = EquivariantLinear(inputs, gate_input(hidden), dtype=dtype, rng=rng)
        self.linear_2 = EquivariantLinear(hidden, outputs, dtype=dtype, rng=rng)

    def __call__(self, features: Features) -> Features:
        """Return ``[n_node, 2l+1, channels]`` of each irrep that the features have."""
        x = next(iter(features.values()))
        hidden = complete(self.linear_1(features), gate_input(self.hidden), len(x), x.dtype)
        return self.linear_2(gated(hidden, self.hidden, self.gate, self.gate))


def _scalars(linear: EquivariantLinear, features: Features, channels: int) -> Array:
    """Return the scalars of a linear map, ``[n_node, 1, channels]``; 0 of features without any."""
    x = next(iter(features.values()))
    return complete(linear(features), Irreps([(SCALAR, channels)]), len(x), x.dtype)[SCALAR]


def _of_head(energies: Array, node_head: Array) -> Array:
    """Pick from ``[n_node, 1, n_heads]`` each node's head."""
    return jnp.take_along_axis(energies[:, 0], node_head[:, None], axis=1)[:, 0]
