"""The MACE network: edge vectors in, interaction energy of every atom out."""

from collections.abc import Sequence
from typing import Any

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from mace_jax.artifacts.model_bundle import ModelConfig
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.errors import ConfigError
from mace_jax.model.interaction import INTERACTION_BLOCKS
from mace_jax.model.irreps import (
    Features,
    hidden_channels,
    interaction_irreps,
    parse_irreps,
    spherical_harmonics_irreps,
)
from mace_jax.model.linear import SpeciesEmbedding
from mace_jax.model.product_basis import EquivariantProductBasisBlock
from mace_jax.model.radial import bessel_basis, polynomial_cutoff
from mace_jax.model.readout import LinearReadoutBlock, NonLinearReadoutBlock

_SCALAR = e3nn.Irrep("0e")


class MACE(nnx.Module):
    """MACE and ScaleShiftMACE; E0s are added outside, in float64.

    Source: Batatia et al. 2022 (arXiv:2206.07697); mace-torch ``MACE`` and ``ScaleShiftMACE``.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        scale: Sequence[float],
        shift: Sequence[float],
        dtype: str,
        rng: np.random.Generator,
    ) -> None:
        """Build the network with random weights.

        Args:
            config: hyper-parameters.
            scale: of each head, dimensionless; not trained.
            shift: of each head, eV per atom; not trained.
            dtype: ``float32`` or ``float64``.
            rng: draws the initial weights.

        Raises:
            ConfigError: the irreps are impossible, or float64 is asked for where jax has it off.
        """
        if dtype == "float64" and not jax.config.read("jax_enable_x64"):
            message = "a float64 network needs float64 in jax; call it within jax.enable_x64(True)"
            raise ConfigError(message)
        self.config, self.dtype = config, dtype
        self.scale, self.shift = tuple(scale), tuple(shift)
        hidden = parse_irreps(config.hidden_irreps, "hidden_irreps")
        channels, n_heads = hidden_channels(hidden), len(scale)
        readout_channels = parse_irreps(config.MLP_irreps, "MLP_irreps").count("0e")
        n_elements = len(config.atomic_numbers)
        self.edge_irreps = tuple(spherical_harmonics_irreps(config.max_ell))
        common: dict[str, Any] = {"dtype": dtype, "rng": rng}

        self.node_embedding = SpeciesEmbedding(n_elements, channels, **common)
        interactions, products, readouts = [], [], []
        node_irreps = [_SCALAR]
        for layer in range(config.num_interactions):
            last = layer == config.num_interactions - 1
            out_irreps = [_SCALAR] if last else [irrep for _, irrep in hidden]
            target_irreps = (
                list(self.edge_irreps) if layer == 0 else interaction_irreps(hidden, config.max_ell)
            )
            block = config.interaction_cls_first if layer == 0 else config.interaction_cls
            interactions.append(
                INTERACTION_BLOCKS[block](
                    node_irreps,
                    target_irreps,
                    out_irreps,
                    edge_irreps=list(self.edge_irreps),
                    channels=channels,
                    radial_widths=(config.num_bessel, *config.radial_MLP),
                    avg_num_neighbors=config.avg_num_neighbors,
                    n_elements=n_elements,
                    **common,
                )
            )
            products.append(
                EquivariantProductBasisBlock(
                    target_irreps,
                    out_irreps,
                    correlation=config.correlation,
                    channels=channels,
                    n_elements=n_elements,
                    **common,
                )
            )
            readouts.append(
                NonLinearReadoutBlock(channels, readout_channels, config.gate, n_heads, **common)
                if last and layer > 0
                else LinearReadoutBlock(channels, n_heads, **common)
            )
            node_irreps = out_irreps
        self.interactions = nnx.List(interactions)
        self.products = nnx.List(products)
        self.readouts = nnx.List(readouts)

    def __call__(self, vectors: Array, batch: GraphBatch) -> Array:
        """Return the interaction energy of each node, eV, ``[n_node]``; padding nodes are 0.

        Args:
            vectors: of the edges, Å, ``[n_edge, 3]``; none of zero length.
            batch: everything else about the graphs.
        """
        lengths = jnp.linalg.norm(vectors, axis=-1)
        radial = self._radial_embedding(lengths)
        harmonics = self._edge_harmonics(vectors)
        node_head = batch.head[batch.node_graph]
        features: Features = {_SCALAR: self.node_embedding(batch.species)}
        energy = jnp.zeros(len(batch.species), vectors.dtype)
        for interaction, product, readout in zip(
            self.interactions, self.products, self.readouts, strict=True
        ):
            message, residual = interaction(
                features, harmonics, radial, batch.species, batch.senders, batch.receivers
            )
            features = product(message, residual, batch.species)
            energy += readout(features, node_head)
        scale = jnp.asarray(self.scale, energy.dtype)[node_head]
        shift = jnp.asarray(self.shift, energy.dtype)[node_head]
        return jnp.where(batch.node_mask, scale * energy + shift, 0)

    def _radial_embedding(self, lengths: Array) -> Array:
        config = self.config
        envelope = polynomial_cutoff(lengths, config.r_max, config.num_polynomial_cutoff)
        return bessel_basis(lengths, config.r_max, config.num_bessel) * envelope[:, None]

    def _edge_harmonics(self, vectors: Array) -> Features:
        harmonics = e3nn.spherical_harmonics(
            e3nn.Irreps(list(self.edge_irreps)), vectors, normalize=True, normalization="component"
        )
        return {
            irrep: harmonics.array[:, irrep.l**2 : (irrep.l + 1) ** 2] for irrep in self.edge_irreps
        }
