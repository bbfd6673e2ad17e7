"""The product basis: many-body features from a symmetric contraction of the message."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from mace_jax.architecture import Layer
from mace_jax.equivariance.irreps import SCALAR
from mace_jax.model.backend import DENSE, Backend
from mace_jax.model.irreps import Features, join_components
from mace_jax.model.linear import EquivariantLinear
from mace_jax.model.symmetric_contraction import SymmetricContraction


class EquivariantProductBasisBlock(nnx.Module):
    """Symmetric contraction, a linear map, and the residual of the interaction block.

    Source: mace-torch class of the same name.
    """

    def __init__(
        self,
        layer: Layer,
        n_elements: int,
        *,
        use_reduced_cg: bool,
        use_agnostic_product: bool,
        dtype: str,
        rng: np.random.Generator,
        backend: Backend = DENSE,
    ) -> None:
        """Build the block.

        Args:
            layer: its irreps.
            n_elements: number of chemical elements.
            use_reduced_cg: whether the couplings are independent.
            use_agnostic_product: whether all elements share the weights.
            dtype: of the weights.
            rng: draws the initial weights.
            backend: what computes the contraction.
        """
        self.use_agnostic_product = use_agnostic_product
        self.symmetric_contractions = SymmetricContraction(
            layer.message_irreps,
            layer.output_irreps,
            correlation=layer.correlation,
            channels=layer.message_irreps[SCALAR],
            n_elements=1 if use_agnostic_product else n_elements,
            use_reduced_cg=use_reduced_cg,
            dtype=dtype,
            rng=rng,
            backend=backend,
        )
        self.linear = EquivariantLinear(
            layer.output_irreps, layer.output_irreps, dtype=dtype, rng=rng
        )

    def __call__(self, message: Features, residual: Features, species: Array) -> Features:
        """Return new node features, ``[n_node, 2l+1, channels]`` per irrep."""
        if self.use_agnostic_product:
            species = jnp.zeros_like(species)
        features = self.linear(self.symmetric_contractions(join_components(message), species))
        return {
            irrep: x + residual[irrep] if irrep in residual else x for irrep, x in features.items()
        }
