"""Interaction blocks: messages from neighbours, summed at each atom."""

from typing import NamedTuple

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from mace_jax.model.irreps import Features
from mace_jax.model.linear import EquivariantLinear, SpeciesLinear
from mace_jax.model.radial import RadialMLP
from mace_jax.model.wigner_3j import wigner_3j


class Path(NamedTuple):
    """A coupling of a neighbour's irrep with a spherical harmonic to an irrep of the message."""

    node: e3nn.Irrep
    edge: e3nn.Irrep
    message: e3nn.Irrep


def convolution_paths(
    node_irreps: list[e3nn.Irrep], edge_irreps: list[e3nn.Irrep], targets: list[e3nn.Irrep]
) -> list[Path]:
    """Return all couplings that end in ``targets``, ordered as in Torch MACE.

    Source: mace-torch ``tp_out_irreps_with_instructions``.
    """
    paths = [
        Path(node, edge, message)
        for node in node_irreps
        for edge in edge_irreps
        for message in node * edge
        if message in targets
    ]
    return sorted(paths, key=lambda path: (path.message.l, path.message.p))


def channelwise_convolution(
    features: Features,
    harmonics: Features,
    weights: Array,
    paths: list[Path],
    senders: Array,
    receivers: Array,
) -> Features:
    """Sum weighted couplings of neighbour features and edge harmonics at each receiver.

    Args:
        features: of the nodes, ``[n_node, 2l+1, channels]`` per irrep.
        harmonics: of the edges, ``[n_edge, 2l+1]`` per irrep.
        weights: ``[n_edge, n_paths, channels]``.
        paths: the couplings.
        senders, receivers: ``[n_edge]``; receivers ascend.

    Returns: per irrep ``[n_node, 2l+1, paths to it * channels]``.

    Source: Batatia et al. 2022, eq. 8; mace-torch ``conv_tp``, e3nn component normalisation.
    """
    n_node = len(next(iter(features.values())))
    gathered = {irrep: x[senders] for irrep, x in features.items()}
    sums: dict[e3nn.Irrep, list[Array]] = {}
    for index, (node, edge, message) in enumerate(paths):
        coupling = (2 * message.l + 1) ** 0.5 * wigner_3j(node.l, edge.l, message.l)
        coupling = jnp.asarray(coupling, weights.dtype)
        per_edge = jnp.einsum("eb,abc->eac", harmonics[edge], coupling)
        messages = jnp.einsum("eau,eac,eu->ecu", gathered[node], per_edge, weights[:, index])
        summed = jax.ops.segment_sum(messages, receivers, n_node, indices_are_sorted=True)
        sums.setdefault(message, []).append(summed)
    return {irrep: jnp.concatenate(parts, axis=-1) for irrep, parts in sums.items()}


class InteractionBlock(nnx.Module):
    """What all interaction blocks share: the convolution with radial weights."""

    def __init__(
        self,
        node_irreps: list[e3nn.Irrep],
        target_irreps: list[e3nn.Irrep],
        hidden_irreps: list[e3nn.Irrep],
        *,
        edge_irreps: list[e3nn.Irrep],
        channels: int,
        radial_widths: tuple[int, ...],
        avg_num_neighbors: float,
        n_elements: int,
        dtype: str,
        rng: np.random.Generator,
    ) -> None:
        """Build the block.

        Args:
            node_irreps: of the input features.
            target_irreps: of the message.
            hidden_irreps: of the features after the product basis; the residual's irreps.
            edge_irreps: of the spherical harmonics.
            channels: of every irrep.
            radial_widths: of the radial basis and the hidden layers of the radial MLP.
            avg_num_neighbors: divides the message.
            n_elements: number of chemical elements.
            dtype: of the weights.
            rng: draws the initial weights.
        """
        self.node_irreps, self.target_irreps = tuple(node_irreps), tuple(target_irreps)
        self.hidden_irreps, self.edge_irreps = tuple(hidden_irreps), tuple(edge_irreps)
        self.channels = channels
        self.avg_num_neighbors = avg_num_neighbors
        paths = self.paths()
        square = (channels, channels)
        self.linear_up = EquivariantLinear(dict.fromkeys(node_irreps, square), dtype=dtype, rng=rng)
        self.conv_tp_weights = RadialMLP(
            (*radial_widths, len(paths) * channels), dtype=dtype, rng=rng
        )
        fan_in = {
            irrep: sum(path.message == irrep for path in paths) * channels
            for irrep in target_irreps
        }
        self.linear = EquivariantLinear(
            {irrep: (n, channels) for irrep, n in fan_in.items() if n}, dtype=dtype, rng=rng
        )
        self.skip_tp = SpeciesLinear(
            dict.fromkeys(self.skip_irreps(), square),
            n_elements,
            dtype=dtype,
            rng=rng,
        )

    def paths(self) -> list[Path]:
        """Return the couplings of the convolution."""
        return convolution_paths(
            list(self.node_irreps), list(self.edge_irreps), list(self.target_irreps)
        )

    def skip_irreps(self) -> list[e3nn.Irrep]:
        """Return the irreps that the linear map by element acts on."""
        raise NotImplementedError

    def message(
        self,
        features: Features,
        harmonics: Features,
        radial: Array,
        senders: Array,
        receivers: Array,
    ) -> Features:
        """Return the message to each node, ``[n_node, 2l+1, channels]`` per target irrep."""
        paths = self.paths()
        weights = self.conv_tp_weights(radial).reshape(-1, len(paths), self.channels)
        sums = channelwise_convolution(
            self.linear_up(features), harmonics, weights, paths, senders, receivers
        )
        message = self.linear(sums)
        n_node = len(next(iter(features.values())))
        return {
            irrep: message[irrep] / self.avg_num_neighbors
            if irrep in message
            else jnp.zeros((n_node, irrep.dim, self.channels), radial.dtype)
            for irrep in self.target_irreps
        }

    def __call__(
        self,
        features: Features,
        harmonics: Features,
        radial: Array,
        species: Array,
        senders: Array,
        receivers: Array,
    ) -> tuple[Features, Features]:
        """Return the message and the residual that is added after the product basis.

        Args:
            features: ``[n_node, 2l+1, channels]`` per irrep.
            harmonics: ``[n_edge, 2l+1]`` per irrep.
            radial: radial basis times envelope, ``[n_edge, num_bessel]``.
            species: ``[n_node]``.
            senders: ``[n_edge]``.
            receivers: ``[n_edge]``, ascending.
        """
        raise NotImplementedError


class RealAgnosticInteractionBlock(InteractionBlock):
    """The message goes through a linear map by element; there is no residual.

    As first block it makes the energy of an isolated atom exactly its E0.

    Source: mace-torch class of the same name.
    """

    def skip_irreps(self) -> list[e3nn.Irrep]:
        """Return those of the message."""
        return list(self.target_irreps)

    def __call__(
        self,
        features: Features,
        harmonics: Features,
        radial: Array,
        species: Array,
        senders: Array,
        receivers: Array,
    ) -> tuple[Features, Features]:
        """Return the message and no residual; arguments as in ``InteractionBlock``."""
        message = self.message(features, harmonics, radial, senders, receivers)
        return self.skip_tp(message, species), {}


class RealAgnosticResidualInteractionBlock(InteractionBlock):
    """The message, and a residual: the input through a linear map by element.

    Source: mace-torch class of the same name.
    """

    def skip_irreps(self) -> list[e3nn.Irrep]:
        """Return those that input and output have in common."""
        return [irrep for irrep in self.node_irreps if irrep in self.hidden_irreps]

    def __call__(
        self,
        features: Features,
        harmonics: Features,
        radial: Array,
        species: Array,
        senders: Array,
        receivers: Array,
    ) -> tuple[Features, Features]:
        """Return the message and the residual; arguments as in ``InteractionBlock``."""
        message = self.message(features, harmonics, radial, senders, receivers)
        return message, self.skip_tp(features, species)


INTERACTION_BLOCKS: dict[str, type[InteractionBlock]] = {
    block.__name__: block
    for block in (RealAgnosticInteractionBlock, RealAgnosticResidualInteractionBlock)
}
