"""Interaction blocks: messages from neighbours, summed at each atom."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from mace_jax.architecture import (
    ATTENTION_MLP,
    ATTENTION_SCALARS,
    DENSITY_MLP,
    Layer,
    Path,
)
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.equivariance.irreps import SCALAR, Irrep, Irreps
from mace_jax.equivariance.wigner_3j import wigner_3j
from mace_jax.model.backend import Backend
from mace_jax.model.components import scaled
from mace_jax.model.gate import gated
from mace_jax.model.initial_weights import uniform
from mace_jax.model.irreps import Features, complete
from mace_jax.model.linear import EquivariantLinear, SpeciesEmbedding, SpeciesLinear
from mace_jax.model.matrix_products import products_in_rows
from mace_jax.model.mlp import FullyConnectedNet, RadialMLP
from mace_jax.model.neighbors import (
    neighbors_from_nodes,
    nodes_from_rows,
    rows_from_nodes,
    slots_from_pairs,
)


class Edges(NamedTuple):
    """What is known of the edges, in pairs or in slots of the neighbour table.

    Attributes:
        batch: the graphs.
        pair_harmonics: of the vector of each pair, by ascending l, ``[n_pair, sum of 2l+1]``.
        harmonics: of the vector to the row's atom in each slot, ``[n_row, n_neighbor, 2l+1]`` per
            irrep; 0 in empty slots.
        radial: radial basis, ``[n_pair, num_bessel]``.
        cutoff: factor of every message, 0 beyond the cutoff, ``[n_pair, 1]``.
    """

    batch: GraphBatch
    pair_harmonics: Array
    harmonics: dict[Irrep, Array]
    radial: Array
    cutoff: Array

    def sum_at_receivers(self, x: Array) -> Array:
        """Sum ``[n_row, n_neighbor, …]`` to ``[n_node, …]``."""
        return nodes_from_rows(x.sum(axis=1), self.batch)

    def of_receivers(self, x: Array) -> Array:
        """Copy ``[n_node, …]`` to the slots of each atom, ``[n_row, n_neighbor, …]``."""
        rows = rows_from_nodes(x, self.batch)[:, None]
        n_neighbor = self.batch.table.slot_pair.shape[1]
        return jnp.broadcast_to(rows, (len(rows), n_neighbor, *rows.shape[2:]))


def channelwise_convolution(
    features: Features, edges: Edges, weights: Sequence[Array], paths: Sequence[Path]
) -> Features:
    """Sum weighted couplings of neighbour features and edge harmonics at each receiver.

    Args:
        features: of the nodes, ``[n_node, 2l+1, channels]`` per irrep; absent ones are zero.
        edges: with their harmonics.
        weights: of each path in every slot, ``[n_row, n_neighbor, channels]``.
        paths: the couplings.

    Returns: per irrep ``[n_node, 2l+1, sum of channels of paths to it]``.

    Source: Batatia et al. 2022, eq. 8; mace-torch ``conv_tp``, e3nn component normalisation.
    """
    n_node = len(next(iter(features.values())))
    sent = {irrep: neighbors_from_nodes(x, edges.batch) for irrep, x in features.items()}
    sums: dict[Irrep, list[Array]] = {}
    for path, weight in zip(paths, weights, strict=True):
        if path.node in features:
            weighted = scaled(weight, sent[path.node])
            rows = _coupled_sum(edges.harmonics[path.edge], weighted, path)
            summed = nodes_from_rows(rows, edges.batch)
        else:
            summed = jnp.zeros((n_node, path.message.dim, path.channels), weight.dtype)
        sums.setdefault(path.message, []).append(summed)
    return {irrep: jnp.concatenate(parts, axis=-1) for irrep, parts in sums.items()}


def _coupled_sum(harmonics: Array, features: Array, path: Path) -> Array:
    """Couple both in every slot and sum over the slots.

    Args:
        harmonics: ``[n_row, n_neighbor, 2l+1]``.
        features: ``[n_row, n_neighbor, 2l+1, channels]``.
        path: the coupling.

    Returns: ``[n_row, 2l+1, channels]``.
    """
    n_row, n_neighbor, _, channels = features.shape
    if path.edge == SCALAR:  # components stay what they are, as further channels
        rows = products_in_rows("rxc,rxu->rcu", harmonics, features.reshape(n_row, n_neighbor, -1))
        return rows.reshape(n_row, -1, channels)
    if path.node != SCALAR:  # with a scalar, each component of the harmonics has one of the message
        symbol = wigner_3j(path.node.l, path.edge.l, path.message.l)
        coupling = jnp.asarray(path.message.dim**0.5 * symbol, harmonics.dtype)
        harmonics = jnp.einsum("rkb,abc->rkac", harmonics, coupling)
    return products_in_rows(
        "rxc,rxu->rcu",
        harmonics.reshape(n_row, -1, path.message.dim),
        features.reshape(n_row, -1, channels),
    )


class BlockOptions(NamedTuple):
    """What all interaction blocks of a network have in common.

    Attributes:
        num_bessel: radial basis functions.
        radial_MLP: widths of the hidden layers of the radial MLP.
        avg_num_neighbors: divides the message.
        n_elements: number of chemical elements.
        dtype: of the weights.
        backend: what computes messages and linear maps by element.
    """

    num_bessel: int
    radial_MLP: tuple[int, ...]
    avg_num_neighbors: float
    n_elements: int
    dtype: str
    backend: Backend


class InteractionBlock(nnx.Module):
    """What all interaction blocks share: linear maps and the convolution with radial weights."""

    def __init__(self, layer: Layer, options: BlockOptions, rng: np.random.Generator) -> None:
        """Build the block for the irreps of ``layer``; ``rng`` draws the initial weights."""
        self.layer, self.options = layer, options
        self.linear_up = self.linear_map(layer.node_irreps, layer.edge_irreps, rng)

    def __call__(
        self, features: Features, edges: Edges, species: Array
    ) -> tuple[Features, Features]:
        """Return the message and the residual that is added after the product basis.

        Args:
            features: ``[n_node, 2l+1, channels]`` per irrep.
            edges: of the graph.
            species: ``[n_node]``.
        """
        raise NotImplementedError

    def linear_map(
        self, inputs: Irreps, outputs: Irreps, rng: np.random.Generator
    ) -> EquivariantLinear:
        """Return a new linear map."""
        return EquivariantLinear(inputs, outputs, dtype=self.options.dtype, rng=rng)

    def convolution(self, sent: Features, edges: Edges, weights: Array) -> Features:
        """Sum the messages at each node, before any linear map.

        Args:
            sent: features that a neighbour sends, ``[n_node, 2l+1, channels]`` per irrep.
            edges: of the graph.
            weights: of all paths, ``[n_pair, n_weights]`` or ``[n_row, n_neighbor, n_weights]``.
        """
        paths, in_pairs = self.layer.paths, weights.ndim == 2
        weights *= edges.cutoff if in_pairs else slots_from_pairs(edges.cutoff, edges.batch)
        if self.options.backend.convolution:
            from mace_jax.model.cueq.convolution import convolve_pairs, convolve_slots

            if in_pairs:
                return convolve_pairs(sent, edges.batch, edges.pair_harmonics, weights, paths)
            return convolve_slots(sent, edges.batch, edges.harmonics, weights, paths)
        ends = np.cumsum([path.channels for path in paths])[:-1]
        slots = jnp.split(weights, ends, axis=-1)
        if in_pairs:
            slots = [slots_from_pairs(weight, edges.batch) for weight in slots]
        return channelwise_convolution(sent, edges, slots, paths)


class RealAgnosticInteractionBlock(InteractionBlock):
    """The message goes through a linear map by element; there is no residual.

    As first block it makes the energy of an isolated atom exactly its E0.

    Source: mace-torch class of the same name.
    """

    def __init__(self, layer: Layer, options: BlockOptions, rng: np.random.Generator) -> None:
        """Build the block; arguments as in ``InteractionBlock``."""
        super().__init__(layer, options, rng)
        widths = (options.num_bessel, *options.radial_MLP, layer.n_weights)
        self.conv_tp_weights = FullyConnectedNet(widths, dtype=options.dtype, rng=rng)
        self.linear = self.linear_map(layer.path_irreps, layer.message_irreps, rng)
        self.skip_tp = SpeciesLinear(
            *self.skip_irreps(),
            options.n_elements,
            dtype=options.dtype,
            rng=rng,
            backend=options.backend,
        )

    def skip_irreps(self) -> tuple[Irreps, Irreps]:
        """Return what the linear map by element maps to what."""
        return self.layer.message_irreps, self.layer.message_irreps

    def normalization(self, edges: Edges) -> Array | float:  # noqa: ARG002
        """Return what divides the message."""
        return self.options.avg_num_neighbors

    def message(self, features: Features, edges: Edges) -> Features:
        """Return the message to each node, ``[n_node, 2l+1, channels]`` per irrep."""
        n_node = len(next(iter(features.values())))
        weights = self.conv_tp_weights(edges.radial)
        sums = self.convolution(self.linear_up(features), edges, weights)
        divisor = self.normalization(edges)
        message = {irrep: x / divisor for irrep, x in self.linear(sums).items()}
        return complete(message, self.layer.message_irreps, n_node, edges.radial.dtype)

    def __call__(
        self, features: Features, edges: Edges, species: Array
    ) -> tuple[Features, Features]:
        """Return the message and no residual; arguments as in ``InteractionBlock``."""
        return self.skip_tp(self.message(features, edges), species), {}


class RealAgnosticResidualInteractionBlock(RealAgnosticInteractionBlock):
    """The message, and a residual: the input through a linear map by element.

    Source: mace-torch class of the same name.
    """

    def skip_irreps(self) -> tuple[Irreps, Irreps]:
        """Return what the linear map by element maps to what."""
        return self.layer.node_irreps, self.layer.output_irreps

    def __call__(
        self, features: Features, edges: Edges, species: Array
    ) -> tuple[Features, Features]:
        """Return the message and the residual; arguments as in ``InteractionBlock``."""
        return self.message(features, edges), self.skip_tp(features, species)


class RealAgnosticDensityInteractionBlock(RealAgnosticInteractionBlock):
    """The message is divided by a learned density of neighbours instead of their average number.

    Source: mace-torch class of the same name.
    """

    def __init__(self, layer: Layer, options: BlockOptions, rng: np.random.Generator) -> None:
        """Build the block; arguments as in ``InteractionBlock``."""
        super().__init__(layer, options, rng)
        self.density_fn = FullyConnectedNet((options.num_bessel, 1), dtype=options.dtype, rng=rng)

    def normalization(self, edges: Edges) -> Array | float:
        """Return 1 + the density, ``[n_node, 1, 1]``."""
        density = jnp.tanh(self.density_fn(edges.radial) ** 2) * edges.cutoff
        slots = slots_from_pairs(density, edges.batch)
        return edges.sum_at_receivers(slots)[:, :, None] + 1


class RealAgnosticDensityResidualInteractionBlock(
    RealAgnosticDensityInteractionBlock, RealAgnosticResidualInteractionBlock
):
    """Density and residual; mace-torch class of the same name."""


class RealAgnosticAttResidualInteractionBlock(InteractionBlock):
    """Radial weights depend on scalars of both ends of an edge, too.

    Source: mace-torch class of the same name, whose radial MLP has fixed widths.
    """

    def __init__(self, layer: Layer, options: BlockOptions, rng: np.random.Generator) -> None:
        """Build the block; arguments as in ``InteractionBlock``."""
        super().__init__(layer, options, rng)
        scalars = Irreps([(SCALAR, ATTENTION_SCALARS)])
        widths = (options.num_bessel + 2 * ATTENTION_SCALARS, *ATTENTION_MLP, layer.n_weights)
        self.linear_down = self.linear_map(layer.node_irreps, scalars, rng)
        self.conv_tp_weights = FullyConnectedNet(widths, dtype=options.dtype, rng=rng)
        self.linear = self.linear_map(layer.path_irreps, layer.message_irreps, rng)
        self.skip_linear = self.linear_map(layer.node_irreps, layer.output_irreps, rng)

    def __call__(
        self, features: Features, edges: Edges, species: Array
    ) -> tuple[Features, Features]:
        """Return the message and the residual; arguments as in ``InteractionBlock``."""
        scalars = self.linear_down(features)[SCALAR][:, 0]
        inputs = [
            slots_from_pairs(edges.radial, edges.batch),
            neighbors_from_nodes(scalars, edges.batch),
            edges.of_receivers(scalars),
        ]
        weights = self.conv_tp_weights(jnp.concatenate(inputs, axis=-1))
        sums = self.linear(self.convolution(self.linear_up(features), edges, weights))
        message = {irrep: x / self.options.avg_num_neighbors for irrep, x in sums.items()}
        message = complete(message, self.layer.message_irreps, len(species), weights.dtype)
        return message, self.skip_linear(features)


class RealAgnosticResidualNonLinearInteractionBlock(InteractionBlock):
    """Radial weights depend on both elements, and the message goes through a gate.

    Source: mace-torch class of the same name.
    """

    def __init__(self, layer: Layer, options: BlockOptions, rng: np.random.Generator) -> None:
        """Build the block; arguments as in ``InteractionBlock``."""
        super().__init__(layer, options, rng)
        dtype, channels = options.dtype, layer.node_irreps[SCALAR]
        n_inputs = options.num_bessel + 2 * channels
        mlp = (n_inputs, *options.radial_MLP, layer.n_weights)
        self.source_embedding = self._small_embedding(channels, rng)
        self.target_embedding = self._small_embedding(channels, rng)
        self.conv_tp_weights = RadialMLP(mlp, dtype=dtype, rng=rng)
        self.density_fn = RadialMLP((n_inputs, *DENSITY_MLP, 1), dtype=dtype, rng=rng)
        self.skip_tp = self.linear_map(layer.node_irreps, layer.output_irreps, rng)
        self.linear_res = self.linear_map(layer.edge_irreps, layer.gate_irreps, rng)
        self.linear_1 = self.linear_map(layer.path_irreps, layer.gate_irreps, rng)
        self.linear_2 = self.linear_map(layer.message_irreps, layer.message_irreps, rng)
        self.alpha = nnx.Param(jnp.asarray(20.0, dtype))
        self.beta = nnx.Param(jnp.asarray(0.0, dtype))

    def _small_embedding(self, channels: int, rng: np.random.Generator) -> SpeciesEmbedding:
        options = self.options
        embedding = SpeciesEmbedding(options.n_elements, channels, dtype=options.dtype, rng=rng)
        weight = uniform(rng, (options.n_elements, channels), 0.001, options.dtype)
        embedding.weight = nnx.Param(weight)
        return embedding

    def __call__(
        self, features: Features, edges: Edges, species: Array
    ) -> tuple[Features, Features]:
        """Return the message and the residual; arguments as in ``InteractionBlock``."""
        layer, n_node = self.layer, len(species)
        source = neighbors_from_nodes(self.source_embedding(species)[:, 0], edges.batch)
        target = edges.of_receivers(self.target_embedding(species)[:, 0])
        radial = slots_from_pairs(edges.radial, edges.batch)
        inputs = jnp.concatenate([radial, source, target], axis=-1)
        sent = self.linear_up(features)
        sums = self.linear_1(self.convolution(sent, edges, self.conv_tp_weights(inputs)))
        cutoff = slots_from_pairs(edges.cutoff, edges.batch)
        density = jnp.tanh(self.density_fn(inputs) ** 2) * cutoff
        density = edges.sum_at_receivers(density)[:, :, None]
        divisor = density * self.beta[...] + self.alpha[...]
        own = complete(self.linear_res(sent), layer.gate_irreps, n_node, inputs.dtype)
        message = {
            irrep: x + sums[irrep] / divisor if irrep in sums else x for irrep, x in own.items()
        }
        message = self.linear_2(gated(message, layer.message_irreps, "silu", "sigmoid"))
        return message, self.skip_tp(features)


INTERACTION_BLOCKS: dict[str, type[InteractionBlock]] = {
    block.__name__: block
    for block in (
        RealAgnosticInteractionBlock,
        RealAgnosticResidualInteractionBlock,
        RealAgnosticDensityInteractionBlock,
        RealAgnosticDensityResidualInteractionBlock,
        RealAgnosticAttResidualInteractionBlock,
        RealAgnosticResidualNonLinearInteractionBlock,
    )
}
