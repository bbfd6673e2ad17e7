"""A network on one domain of a larger system, with features of other domains' atoms exchanged.

Where a domain needs nothing of others one compiled function gives energies and their gradient.
Otherwise the network runs in stages, a layer each. Between them the features of atoms that belong
to other domains are replaced by what these domains computed; on the way back what has been
collected for such atoms is given to their owners. The chain rule between stages is applied here, by
hand, because an exchange waits for other processes and so is no part of a compiled program.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.batching.domain import Domain
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.errors import ConfigError
from mace_jax.model.compiling import jit
from mace_jax.model.irreps import Features, complete
from mace_jax.model.load import load_model
from mace_jax.model.mace import MACE

Parameters = list[Array]


class FeatureExchange(Protocol):
    """How a domain learns of atoms that other domains own; called by all of them in step."""

    def forward(self, features: NDArray[Any]) -> NDArray[Any]:
        """Return features ``[n_node, width]`` with the owners' rows for atoms of others."""
        ...

    def reverse(self, cotangents: NDArray[Any]) -> NDArray[Any]:
        """Return cotangents ``[n_node, width]``, each atom's summed at its owner, else 0."""
        ...


class DomainNetwork:
    """A bundle's network, for domains.

    Attributes:
        widths: numbers that an atom has after each layer but the last: what is exchanged.
        n_compilations: how often a part of the network was compiled.
    """

    def __init__(self, bundle: ModelBundle, source: str, inputs: Mapping[str, Any]) -> None:
        """Build the network; it is compiled by the first evaluation.

        Args:
            bundle: a model of energies with one head.
            source: its file, for messages.
            inputs: what else the model is told, name -> ``[1, k]``, the same for every atom.

        Raises:
            ArtifactError: configuration or parameters are wrong.
            ConfigError: the model has no energies alone, or several heads.
        """
        self.n_compilations = 0
        self._dtype = bundle.dtype
        self._inputs = {name: np.asarray(value, bundle.dtype) for name, value in inputs.items()}
        self._per_atom = {spec.name for spec in bundle.config.embedding_specs if spec.per == "atom"}
        with self._precision():
            model = load_model(bundle, source)
            if not isinstance(model, MACE) or len(bundle.heads) != 1:
                message = f"{source}: {bundle.config.model}, expected energies of one head"
                raise ConfigError(message)
            graphdef, state = nnx.split(model)
            flat: tuple[Parameters, Any] = jax.tree.flatten(state)
            self._parameters, treedef = flat
        self._outputs = [layer.output_irreps for layer in model.irreps.layers[:-1]]
        self.widths = tuple(
            sum(irrep.dim * channels for irrep, channels in irreps.items())
            for irreps in self._outputs
        )
        self._network = lambda parameters: nnx.merge(graphdef, treedef.unflatten(parameters))
        self._whole = jit(self._traced_whole)
        self._stage = jit(self._traced_stage, static_argnums=0)
        self._last = jit(self._traced_last)
        self._pull_back = jit(self._traced_pull_back)

    def evaluate(
        self, domains: Sequence[Domain], exchange: FeatureExchange | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the energy of each of the domain's own atoms, and the gradient of their sum.

        Args:
            domains: padded; as each layer sees it, or the only one that all see, which it must be
                where features are exchanged.
            exchange: with other domains; by default there are none.

        Returns: interaction energies without E0, eV, ``[n_own]``, 0 of padding; derivatives by the
            vectors that the first layer sees, eV/Å, ``[n_pair, 3]``.
        """
        with self._precision():
            if exchange is None:
                vectors = [domain.vectors for domain in domains]
                found = self._whole(self._parameters, vectors, domains)
            else:
                (domain,) = domains
                found = self._in_stages(domain, exchange)
            energies, gradient = jax.device_get(found)
        return energies.astype(np.float64), gradient.astype(np.float64)

    def _in_stages(self, domain: Domain, exchange: FeatureExchange) -> tuple[Array, Array]:
        received: list[NDArray[Any]] = []
        pullbacks = []
        for index in range(len(self._outputs)):
            features, pullback = self._stage(index, self._parameters, received[-1:], domain)
            received.append(exchange.forward(np.asarray(features)))
            pullbacks.append(pullback)
        energies, gradient, cotangents = self._last(self._parameters, received, domain)
        below: Sequence[Array] = ()
        for pullback, cotangent in zip(reversed(pullbacks), reversed(cotangents), strict=True):
            collected = exchange.reverse(np.asarray(sum(below, cotangent)))
            gradient, below = self._pull_back(pullback, collected, gradient)
        return energies, gradient

    def _traced_whole(
        self, parameters: Parameters, vectors: Sequence[Array], domains: Sequence[Domain]
    ) -> tuple[Array, Array]:
        """Return energies and gradient of a domain that needs no exchange."""
        self.n_compilations += 1  # jax runs this line only when it compiles
        model, batches = self._network(parameters), [self._batch(domain) for domain in domains]
        n_nodes = [len(batch.species) for batch in batches]
        n_nodes += n_nodes[-1:] * (len(self._outputs) + 1 - len(n_nodes))  # of every layer

        def energy(vectors: Sequence[Array]) -> tuple[Array, Array]:
            edges = [model.edges(*each) for each in zip(vectors, batches, strict=True)]
            edges += edges[-1:] * (len(n_nodes) - len(edges))
            embedded = features = model.embed(batches[0])
            layers = []
            for index, n_needed in enumerate([*n_nodes[1:], len(domains[0].own)]):
                features = _resized(features, n_nodes[index])
                features = model.layer(index, features, edges[index], n_needed)
                layers.append(features)
            read = [_resized(features, n_nodes[-1]) for features in (embedded, *layers)]
            energies = model.read_out(read[0], read[1:], vectors[-1], batches[-1])
            energies = energies[: len(domains[0].own)]
            return energies.sum(), energies

        gradients, energies = jax.grad(energy, has_aux=True)(vectors)
        total, *others = gradients
        for gradient in others:  # of the first pairs
            n_pair = min(len(total), len(gradient))
            total = total.at[:n_pair].add(gradient[:n_pair])
        return energies, total

    def _traced_stage(
        self, index: int, parameters: Parameters, below: Sequence[Array], domain: Domain
    ) -> tuple[Array, Any]:
        """Return the features after a layer, and how their cotangents are pulled back.

        Args:
            index: of the layer.
            parameters: of the network.
            below: the features before it; none before the first.
            domain: padded.
        """
        self.n_compilations += 1
        model, batch = self._network(parameters), self._batch(domain)

        def layer(vectors: Array, below: Sequence[Array]) -> Array:
            features = self._unpacked(index - 1, below[0]) if below else model.embed(batch)
            return self._packed(index, model.layer(index, features, model.edges(vectors, batch)))

        return jax.vjp(layer, domain.vectors, below)

    def _traced_last(
        self, parameters: Parameters, received: Sequence[Array], domain: Domain
    ) -> tuple[Array, Array, Sequence[Array]]:
        """Return energies, and the gradient by vectors and by the features after each layer."""
        self.n_compilations += 1
        model, batch = self._network(parameters), self._batch(domain)

        def energy(vectors: Array, received: Sequence[Array]) -> tuple[Array, Array]:
            embedded = model.embed(batch)
            layers = [self._unpacked(index, x) for index, x in enumerate(received)]
            below = layers[-1] if layers else embedded
            edges, n_node, n_own = model.edges(vectors, batch), len(batch.species), len(domain.own)
            features = model.layer(len(layers), below, edges, n_own)
            layers.append(_resized(features, n_node))
            energies = model.read_out(embedded, layers, vectors, batch)[:n_own]
            return energies.sum(), energies

        gradients, energies = jax.grad(energy, argnums=(0, 1), has_aux=True)(
            domain.vectors, received
        )
        return energies, *gradients

    def _traced_pull_back(
        self, pullback: Any, cotangents: Array, gradient: Array
    ) -> tuple[Array, Sequence[Array]]:
        """Return the gradient with a stage's part added, and the cotangents of what is below."""
        self.n_compilations += 1
        vectors, below = pullback(cotangents)
        return gradient + vectors, below

    def _batch(self, domain: Domain) -> GraphBatch:
        """Return a domain as a batch of one graph, of which the network wants pairs alone."""
        n_node, dtype = len(domain.species), domain.vectors.dtype
        nothing = jnp.zeros(1, dtype)
        return GraphBatch(
            positions=jnp.zeros((n_node, 3), dtype),
            species=domain.species,
            node_graph=jnp.zeros(n_node, jnp.int32),
            node_mask=jnp.pad(domain.own, (0, n_node - len(domain.own))),
            pair_senders=domain.pair_senders,
            pair_receivers=domain.pair_receivers,
            pair_shifts=jnp.zeros((len(domain.pair_mask), 3), dtype),
            pair_mask=domain.pair_mask,
            table=domain.table,
            cell=jnp.zeros((1, 3, 3), dtype),
            volume=jnp.full(1, jnp.inf, dtype),
            n_node=jnp.ones(1, dtype),
            graph_mask=jnp.ones(1, bool),
            head=jnp.zeros(1, jnp.int32),
            energy=nothing,
            forces=jnp.zeros((n_node, 3), dtype),
            stress=jnp.zeros((1, 3, 3), dtype),
            virials=jnp.zeros((1, 3, 3), dtype),
            dipole=jnp.zeros((1, 3), dtype),
            energy_weight=nothing,
            forces_weight=nothing,
            stress_weight=nothing,
            virials_weight=nothing,
            dipole_weight=nothing,
            inputs={
                name: jnp.broadcast_to(value, (n_node, value.shape[1]))
                if name in self._per_atom
                else jnp.asarray(value)
                for name, value in self._inputs.items()
            },
        )

    def _packed(self, index: int, features: Features) -> Array:
        """Join the features after a layer: ``[n_node, width]``."""
        n_node, dtype = len(next(iter(features.values()))), self._dtype
        features = complete(features, self._outputs[index], n_node, dtype)
        return jnp.concatenate([x.reshape(n_node, -1) for x in features.values()], axis=1)

    def _unpacked(self, index: int, joined: Array) -> Features:
        features, start = {}, 0
        for irrep, channels in self._outputs[index].items():
            end = start + irrep.dim * channels
            features[irrep] = joined[:, start:end].reshape(-1, irrep.dim, channels)
            start = end
        return features

    def _precision(self) -> Any:
        """Return a context in which jax computes in the bundle's dtype."""
        return jax.enable_x64(self._dtype == "float64")


def _resized(features: Features, n_node: int) -> Features:
    """Return the features of the first ``n_node`` nodes, those that are missing as 0."""
    return {
        irrep: jnp.pad(x[:n_node], ((0, max(n_node - len(x), 0)), (0, 0), (0, 0)))
        for irrep, x in features.items()
    }
