"""Distances to weights: the radial basis, its envelope and the MLP on top."""

from collections.abc import Sequence
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from mace_jax.model.activation import normalized_activation
from mace_jax.model.initial_weights import normal


def bessel_basis(lengths: Array, r_max: float, num_bessel: int) -> Array:
    """Return sqrt(2 / r_max) sin(n π r / r_max) / r for n = 1 … num_bessel.

    Args:
        lengths: Å, ``[n_edge]``, not zero.
        r_max: cutoff, Å.
        num_bessel: number of functions.

    Returns: ``[n_edge, num_bessel]``.

    Source: Batatia et al. 2022, eq. 7; mace-torch ``BesselBasis``.
    """
    lengths = lengths[:, None]
    frequencies = jnp.arange(1, num_bessel + 1, dtype=lengths.dtype) * (jnp.pi / r_max)
    return jnp.sqrt(2 / r_max).astype(lengths.dtype) * jnp.sin(frequencies * lengths) / lengths


def polynomial_cutoff(lengths: Array, r_max: float, p: int) -> Array:
    """Return an envelope that goes from 1 to 0 at ``r_max`` with two vanishing derivatives.

    Args:
        lengths: Å, ``[n_edge]``.
        r_max: cutoff, Å.
        p: order of the polynomial.

    Returns: ``[n_edge]``; exactly 0 from ``r_max`` on.

    Source: Gasteiger et al. 2020, eq. 8; mace-torch ``PolynomialCutoff``.
    """
    x = lengths / r_max
    envelope = (
        1
        - (p + 1) * (p + 2) / 2 * x**p
        + p * (p + 2) * x ** (p + 1)
        - p * (p + 1) / 2 * x ** (p + 2)
    )
    return jnp.where(x < 1, envelope, 0)


class RadialMLP(nnx.Module):
    """Layers without bias, silu between them; e3nn's ``FullyConnectedNet``."""

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
        """Map ``[n_edge, widths[0]]`` to ``[n_edge, widths[-1]]``."""
        activation = normalized_activation("silu")
        for weight in self.layers[:-1]:
            x = activation(x @ weight[...] / weight.shape[0] ** 0.5)
        weight = self.layers[-1]
        return x @ weight[...] / weight.shape[0] ** 0.5
