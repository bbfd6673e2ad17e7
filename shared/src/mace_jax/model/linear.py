"""Linear maps that mix the channels of each irrep; they commute with rotations."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from mace_jax.equivariance.irreps import SCALAR, Irreps
from mace_jax.model.backend import DENSE, Backend
from mace_jax.model.initial_weights import normal
from mace_jax.model.irreps import Features


class SpeciesEmbedding(nnx.Module):
    """A vector for each chemical element; an e3nn ``Linear`` of the element's one-hot.

    Source: mace-torch ``LinearNodeEmbeddingBlock``.
    """

    def __init__(
        self, n_elements: int, channels: int, *, dtype: str, rng: np.random.Generator
    ) -> None:
        """Draw standard normal weights ``[n_elements, channels]``."""
        self.weight = nnx.Param(normal(rng, (n_elements, channels), dtype))

    def __call__(self, species: Array) -> Array:
        """Return ``[n_node, 1, channels]`` for ``species [n_node]``."""
        return self.weight[...][species][:, None] / self.weight.shape[0] ** 0.5


class EquivariantLinear(nnx.Module):
    """One matrix per irrep; e3nn's ``o3.Linear``."""

    def __init__(
        self,
        inputs: Irreps,
        outputs: Irreps,
        *,
        dtype: str,
        rng: np.random.Generator,
        use_bias: bool = False,
    ) -> None:
        """Draw standard normal weights; they are scaled by 1/sqrt(inputs) when applied.

        Args:
            inputs, outputs: irreps; those in both get weights.
            dtype: of the weights.
            rng: draws the initial weights.
            use_bias: whether scalars get a bias, at first 0.
        """
        self.weights = nnx.Dict(
            {
                str(irrep): nnx.Param(normal(rng, (inputs[irrep], channels), dtype))
                for irrep, channels in outputs.items()
                if irrep in inputs
            }
        )
        self.bias = nnx.Param(jnp.zeros(outputs[SCALAR], dtype)) if use_bias else None

    def __call__(self, features: Features) -> Features:
        """Map ``[n, 2l+1, inputs]`` to ``[n, 2l+1, outputs]`` for each irrep that has weights."""
        result = {
            irrep: x @ self.weights[str(irrep)][...] / x.shape[-1] ** 0.5
            for irrep, x in features.items()
            if str(irrep) in self.weights
        }
        if self.bias is not None:
            result[SCALAR] = result[SCALAR] + self.bias[...]
        return result


class SpeciesLinear(nnx.Module):
    """One matrix per irrep and chemical element; e3nn's tensor product with the element's one-hot.

    Source: mace-torch's ``skip_tp`` (``FullyConnectedTensorProduct``).
    """

    def __init__(
        self,
        inputs: Irreps,
        outputs: Irreps,
        n_elements: int,
        *,
        dtype: str,
        rng: np.random.Generator,
        backend: Backend = DENSE,
    ) -> None:
        """Draw standard normal weights ``[inputs, n_elements, outputs]``."""
        self.n_elements, self.backend = n_elements, backend
        self.weights = nnx.Dict(
            {
                str(irrep): nnx.Param(normal(rng, (inputs[irrep], n_elements, channels), dtype))
                for irrep, channels in outputs.items()
                if irrep in inputs
            }
        )

    def __call__(self, features: Features, species: Array) -> Features:
        """Map ``[n, 2l+1, inputs]`` by the matrix of each node's element, ``species [n]``."""
        if self.backend.products:
            from mace_jax.model.cueq.linear import map_by_species

            weights = {
                irrep: self.weights[str(irrep)][...]
                for irrep in features
                if str(irrep) in self.weights
            }
            return map_by_species(features, species, weights)
        one_hot = species[:, None] == jnp.arange(self.n_elements)
        return {
            irrep: jnp.einsum(
                "nmu,ne,uew->nmw", x, one_hot.astype(x.dtype), self.weights[str(irrep)][...]
            )
            / (x.shape[-1] * self.n_elements) ** 0.5
            for irrep, x in features.items()
            if str(irrep) in self.weights
        }
