"""The MACE networks: edge vectors in, energy of every atom (or its dipole) out."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from mace_jax.architecture import READOUT_IRREPS, architecture, dipole_hidden_irreps
from mace_jax.artifacts.model_bundle import ModelConfig
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.equivariance.irreps import SCALAR, Irrep, Irreps
from mace_jax.equivariance.wigner_3j import wigner_3j
from mace_jax.errors import ConfigError
from mace_jax.model.backend import DENSE, Backend
from mace_jax.model.constant import constant
from mace_jax.model.embedding import GenericJointEmbedding
from mace_jax.model.interaction import INTERACTION_BLOCKS, BlockOptions, Edges
from mace_jax.model.irreps import Features, complete
from mace_jax.model.linear import SpeciesEmbedding
from mace_jax.model.neighbors import slots_from_pairs
from mace_jax.model.pair_repulsion import ZBLBasis
from mace_jax.model.product_basis import EquivariantProductBasisBlock
from mace_jax.model.radial import RadialEmbeddingBlock
from mace_jax.model.readout import (
    LinearDipoleReadoutBlock,
    LinearReadoutBlock,
    NonLinearBiasReadoutBlock,
    NonLinearDipoleReadoutBlock,
    NonLinearReadoutBlock,
)
from mace_jax.model.spherical_harmonics import spherical_harmonics

_LAST_READOUTS = {
    block.__name__: block for block in (NonLinearReadoutBlock, NonLinearBiasReadoutBlock)
}


class MessagePassing(nnx.Module):
    """What all models share: embedding, interactions and product bases."""

    def __init__(
        self, config: ModelConfig, *, dtype: str, rng: np.random.Generator, backend: Backend = DENSE
    ) -> None:
        """Build the layers with random weights.

        Args:
            config: hyper-parameters.
            dtype: ``float32`` or ``float64``.
            rng: draws the initial weights.
            backend: what computes the costly parts.

        Raises:
            ConfigError: the irreps are impossible, or float64 is asked for where jax has it off.
        """
        if dtype == "float64" and not jax.config.read("jax_enable_x64"):
            message = "a float64 network needs float64 in jax; call it within jax.enable_x64(True)"
            raise ConfigError(message)
        self.config, self.dtype, self.irreps = config, dtype, architecture(config)
        n_elements = len(config.atomic_numbers)
        options = BlockOptions(
            config.num_bessel,
            config.radial_MLP,
            config.avg_num_neighbors,
            n_elements,
            dtype,
            backend,
        )
        self.node_embedding = SpeciesEmbedding(
            n_elements, self.irreps.channels, dtype=dtype, rng=rng
        )
        self.radial_embedding = RadialEmbeddingBlock(config, dtype=dtype)
        interactions, products = [], []
        for layer in self.irreps.layers:
            interactions.append(INTERACTION_BLOCKS[layer.block](layer, options, rng))
            products.append(
                EquivariantProductBasisBlock(
                    layer,
                    n_elements,
                    use_reduced_cg=config.use_reduced_cg,
                    use_agnostic_product=config.use_agnostic_product,
                    dtype=dtype,
                    rng=rng,
                    backend=backend,
                )
            )
        self.interactions = nnx.List(interactions)
        self.products = nnx.List(products)

    def embed(self, batch: GraphBatch) -> Features:
        """Return the features of every node before the first layer."""
        return {SCALAR: self.node_embedding(batch.species)}

    def layers(self, features: Features, vectors: Array, batch: GraphBatch) -> list[Features]:
        """Return the features of every node after each layer.

        Args:
            features: of ``embed``.
            vectors: of the pairs, Å, ``[n_pair, 3]``; none of zero length.
            batch: everything else about the graphs.
        """
        edges, result = self.edges(vectors, batch), []
        for index in range(len(self.interactions)):
            features = self.layer(index, features, edges)
            result.append(features)
        return result

    def edges(self, vectors: Array, batch: GraphBatch) -> Edges:
        """Return what every layer is told of the edges; arguments as in ``layers``."""
        radial, cutoff = self.radial_embedding(
            jnp.linalg.norm(vectors, axis=-1),
            batch.species[batch.pair_senders],
            batch.species[batch.pair_receivers],
        )
        return Edges(batch, *self._harmonics(vectors, batch), radial, cutoff)

    def layer(
        self, index: int, features: Features, edges: Edges, n_needed: int | None = None
    ) -> Features:
        """Return the features of every node after layer ``index``, from those before it.

        Args:
            index: of the layer.
            features: ``[n_node, 2l+1, channels]`` per irrep.
            edges: of ``edges``.
            n_needed: only of the first so many nodes; by default of all.
        """
        species = edges.batch.species
        message, residual = self.interactions[index](features, edges, species)
        if n_needed is not None:
            message, residual = (
                {irrep: x[:n_needed] for irrep, x in features.items()}
                for features in (message, residual)
            )
            species = species[:n_needed]
        return self.products[index](message, residual, species)

    def _harmonics(self, vectors: Array, batch: GraphBatch) -> tuple[Array, dict[Irrep, Array]]:
        """Return the spherical harmonics of pairs, and in slots, as ``Edges`` has them."""
        irreps = self.irreps.harmonics
        of_pairs = spherical_harmonics(vectors, max(irrep.l for irrep in irreps))
        slots = slots_from_pairs(of_pairs, batch)
        direction = batch.table.slot_direction.astype(vectors.dtype)[..., None]
        return of_pairs, {
            irrep: slots[..., irrep.l**2 : (irrep.l + 1) ** 2] * direction ** (irrep.l % 2)
            for irrep in irreps
        }


class MACE(MessagePassing):
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
        backend: Backend = DENSE,
    ) -> None:
        """Build the network with random weights.

        Args:
            config: hyper-parameters.
            scale: of each head, dimensionless; not trained.
            shift: of each head, eV per atom; not trained.
            dtype: ``float32`` or ``float64``.
            rng: draws the initial weights.
            backend: what computes the costly parts.

        Raises:
            ConfigError: as ``MessagePassing``.
        """
        super().__init__(config, dtype=dtype, rng=rng, backend=backend)
        self.scale, self.shift = tuple(scale), tuple(shift)
        n_heads = len(scale)
        hidden = Irreps.parse(config.MLP_irreps, "MLP_irreps").get(SCALAR, 0)
        readouts: list[nnx.Module] = []
        for kind, index in self.irreps.readouts:
            inputs = self.irreps.layers[index].output_irreps
            if kind == "LinearReadoutBlock":
                readouts.append(LinearReadoutBlock(inputs, n_heads, dtype=dtype, rng=rng))
            else:
                block = _LAST_READOUTS[kind]
                readouts.append(block(inputs, hidden, config.gate, n_heads, dtype=dtype, rng=rng))
        self.readouts = nnx.List(readouts)
        if config.pair_repulsion:
            self.pair_repulsion_fn = ZBLBasis(
                config.atomic_numbers, config.num_polynomial_cutoff, dtype=dtype
            )
        if config.embedding_specs:
            self.joint_embedding = GenericJointEmbedding(
                config.embedding_specs, self.irreps.channels, dtype=dtype, rng=rng
            )
            if config.use_embedding_readout:
                self.embedding_readout = LinearReadoutBlock(
                    Irreps([(SCALAR, self.irreps.channels)]), n_heads, dtype=dtype, rng=rng
                )

    def embed(self, batch: GraphBatch) -> Features:
        """Return the features of every node before the first layer, further inputs included."""
        features = super().embed(batch)
        if self.config.embedding_specs:
            features[SCALAR] += self.joint_embedding(batch.inputs, batch.node_graph)
        return features

    def __call__(self, vectors: Array, batch: GraphBatch) -> Array:
        """Return the interaction energy of each node, eV, ``[n_node]``; padding nodes are 0.

        Args:
            vectors: of the pairs, Å, ``[n_pair, 3]``; none of zero length.
            batch: everything else about the graphs.
        """
        embedded = self.embed(batch)
        return self.read_out(embedded, self.layers(embedded, vectors, batch), vectors, batch)

    def read_out(
        self, embedded: Features, layers: Sequence[Features], vectors: Array, batch: GraphBatch
    ) -> Array:
        """Return the energy of each node, as the call does, from its features.

        Args:
            embedded: of ``embed``.
            layers: after each layer, of ``layers``.
            vectors: of the pairs, Å, ``[n_pair, 3]``.
            batch: everything else about the graphs.
        """
        node_head = batch.head[batch.node_graph]
        energy = jnp.zeros(len(batch.species), vectors.dtype)
        for readout, (_, index) in zip(self.readouts, self.irreps.readouts, strict=True):
            energy += readout(layers[index], node_head)
        if self.config.pair_repulsion:
            energy += self.pair_repulsion_fn(jnp.linalg.norm(vectors, axis=-1), batch)
        scale = jnp.asarray(self.scale, energy.dtype)[node_head]
        shift = jnp.asarray(self.shift, energy.dtype)[node_head]
        energy = scale * energy + shift
        if self.config.embedding_specs and self.config.use_embedding_readout:
            energy += self.embedding_readout(embedded, node_head)
        return jnp.where(batch.node_mask, energy, 0)


class DipoleMACE(MessagePassing):
    """Models that read vectors, and scalars and tensors beside them, from every layer.

    Source: mace-torch ``AtomicDipolesMACE``, ``EnergyDipolesMACE`` and ``AtomicDielectricMACE``.
    """

    def __init__(
        self, config: ModelConfig, *, dtype: str, rng: np.random.Generator, backend: Backend = DENSE
    ) -> None:
        """Build the network with random weights; arguments as in ``MessagePassing``."""
        super().__init__(config, dtype=dtype, rng=rng, backend=backend)
        self.outputs = READOUT_IRREPS[config.model]
        hidden = dipole_hidden_irreps(config)
        readouts: list[nnx.Module] = []
        for kind, index in self.irreps.readouts:
            inputs = self.irreps.layers[index].output_irreps
            if kind.startswith("Linear"):
                readouts.append(
                    LinearDipoleReadoutBlock(inputs, self.outputs, dtype=dtype, rng=rng)
                )
            else:
                readouts.append(
                    NonLinearDipoleReadoutBlock(
                        inputs, hidden, config.gate, self.outputs, dtype=dtype, rng=rng
                    )
                )
        self.readouts = nnx.List(readouts)
        if config.model == "AtomicDielectricMACE":
            self.change_of_basis = constant(_symmetric_matrices(), dtype)

    def __call__(self, vectors: Array, batch: GraphBatch) -> Features:
        """Return what is read from each node, ``[n_node, 2l+1, channels]``; 0 for padding nodes.

        Arguments as in ``MACE``.
        """
        layers = self.layers(self.embed(batch), vectors, batch)
        total = complete({}, self.outputs, len(batch.species), vectors.dtype)
        for readout, features in zip(self.readouts, layers, strict=True):
            for irrep, x in readout(features).items():
                total[irrep] += x
        return {
            irrep: jnp.where(batch.node_mask[:, None, None], x, 0) for irrep, x in total.items()
        }


def _symmetric_matrices() -> NDArray[np.float64]:
    """Return an orthonormal basis of symmetric matrices, 0e before 2e: ``[6, 3, 3]``."""
    scalar = np.eye(3)[None] / 3**0.5
    return np.concatenate([scalar, 5**0.5 * wigner_3j(2, 1, 1)])
