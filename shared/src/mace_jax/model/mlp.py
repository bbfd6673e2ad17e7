"""Networks that turn the radial basis, and what is joined to it, into weights of an edge."""

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from mace_jax.model.activation import normalized_activation
from mace_jax.model.initial_weights import Dense, normal

_EPSILON = 1e-5  # torch's default for LayerNorm


class FullyConnectedNet(nnx.Module):
    """Layers without bias, silu between them; e3nn class of the same name."""

    def __init__(self, widths: Sequence[int], *, dtype: str, rng: np.random.Generator) -> None:
        """Draw standard normal weights; they are scaled by 1/sqrt(inputs) when applied.

        Args:
            widths: of the input, the hidden layers and the output.
            dtype: of the weights.
            rng: draws the initial weights.
        """
        self.layers = nnx.List(
            nnx.Param(normal(rng, (n_in, n_out), dtype)) for n_in, n_out in pairwise(widths)
        )

    def __call__(self, x: Array) -> Array:
        """Map ``[…, widths[0]]`` to ``[…, widths[-1]]``."""
        activation = normalized_activation("silu")
        for weight in self.layers[:-1]:
            x = activation(x @ weight[...] / weight.shape[0] ** 0.5)
        weight = self.layers[-1]
        return x @ weight[...] / weight.shape[0] ** 0.5


class LayerNorm(nnx.Module):
    """Mean 0 and variance 1 over the last axis, then scaled and shifted."""

    def __init__(self, width: int, *, dtype: str) -> None:
        """Start from the identity."""
        self.scale = nnx.Param(jnp.ones(width, dtype))
        self.bias = nnx.Param(jnp.zeros(width, dtype))

    def __call__(self, x: Array) -> Array:
        """Normalise ``[n, width]``."""
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + _EPSILON) * self.scale[...] + self.bias[...]


class RadialMLP(nnx.Module):
    """Layers with bias, layer norm and silu between them; mace-torch class of the same name."""

    def __init__(self, widths: Sequence[int], *, dtype: str, rng: np.random.Generator) -> None:
        """Draw the weights as torch does; arguments as in ``FullyConnectedNet``."""
        self.layers = nnx.List(
            Dense(n_in, n_out, use_bias=True, dtype=dtype, rng=rng)
            for n_in, n_out in pairwise(widths)
        )
        self.norms = nnx.List(LayerNorm(width, dtype=dtype) for width in widths[1:-1])

    def __call__(self, x: Array) -> Array:
        """Map ``[…, widths[0]]`` to ``[…, widths[-1]]``."""
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = jax.nn.silu(norm(layer(x)))
        return self.layers[-1](x)
