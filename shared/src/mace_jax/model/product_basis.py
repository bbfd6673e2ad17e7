"""The product basis: many-body features from a symmetric contraction of the message."""

from collections.abc import Sequence

import e3nn_jax as e3nn
import numpy as np
from flax import nnx
from jax import Array

from mace_jax.model.irreps import Features, join_components
from mace_jax.model.linear import EquivariantLinear
from mace_jax.model.symmetric_contraction import SymmetricContraction


class EquivariantProductBasisBlock(nnx.Module):
    """Symmetric contraction, a linear map, and the residual of the interaction block.

    Source: mace-torch class of the same name.
    """

    def __init__(
        self,
        irreps: Sequence[e3nn.Irrep],
        targets: Sequence[e3nn.Irrep],
        *,
        correlation: int,
        channels: int,
        n_elements: int,
        dtype: str,
        rng: np.random.Generator,
    ) -> None:
        """Build the block; arguments as in ``SymmetricContraction``."""
        self.symmetric_contractions = SymmetricContraction(
            irreps,
            targets,
            correlation=correlation,
            channels=channels,
            n_elements=n_elements,
            dtype=dtype,
            rng=rng,
        )
        self.linear = EquivariantLinear(
            dict.fromkeys(targets, (channels, channels)), dtype=dtype, rng=rng
        )

    def __call__(self, message: Features, residual: Features, species: Array) -> Features:
        """Return new node features, ``[n_node, 2l+1, channels]`` per irrep."""
        features = self.linear(self.symmetric_contractions(join_components(message), species))
        return {
            irrep: x + residual[irrep] if irrep in residual else x for irrep, x in features.items()
        }
