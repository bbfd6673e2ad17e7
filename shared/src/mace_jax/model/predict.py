"""Predict many structures with a model bundle: evaluate batches, put back into input order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.artifacts.predictions import Predictions, is_per_atom
from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.batching.shape_classes import padded_caps
from mace_jax.batching.tight_packing import pack_graphs
from mace_jax.errors import DataError
from mace_jax.model.backend import DENSE, Backend
from mace_jax.model.compiling import jit
from mace_jax.model.dipoles import dipole_properties
from mace_jax.model.energy_forces import descriptors, energy_and_forces
from mace_jax.model.load import graph_builder, load_model
from mace_jax.model.mace import MACE, DipoleMACE
from mace_jax.structures.ragged import offsets_of, rows_of
from mace_jax.structures.structure import Structure
from mace_jax.tracking import Track, track_silently

Rows = dict[str, NDArray[np.floating]]


def properties(model: MACE | DipoleMACE, batch: GraphBatch) -> dict[str, Array]:
    """Return everything that ``model`` predicts of a batch, E0s left out, by name."""
    if isinstance(model, DipoleMACE):
        return dipole_properties(model, batch)
    return energy_and_forces(model, batch)._asdict()


class Predictor:
    """The network of a bundle, compiled for the shapes of the batches that it is given."""

    def __init__(
        self,
        bundle: ModelBundle,
        source: str,
        backend: Backend = DENSE,
        *,
        with_descriptors: bool = False,
    ) -> None:
        """Build the network in the bundle's dtype; for float64 jax must have it enabled.

        Args:
            bundle: the model.
            source: its file, for messages.
            backend: what computes the costly parts.
            with_descriptors: whether the invariant features of every atom are wanted, too.
        """
        graphdef, self._state = nnx.split(load_model(bundle, source, backend))

        @jit
        def evaluate(state: nnx.State, batch: GraphBatch) -> dict[str, Array]:
            model: Any = nnx.merge(graphdef, state)
            found = properties(model, batch)
            return found | ({"descriptors": descriptors(model, batch)} if with_descriptors else {})

        self._evaluate = evaluate
        self._atomic_energies = np.array(
            [
                [bundle.atomic_energies[head][z] for z in bundle.config.atomic_numbers]
                for head in bundle.heads
                if bundle.atomic_energies
            ]
        )

    def __call__(self, batches: Iterable[tuple[int, GraphBatch]]) -> Iterator[tuple[int, Rows]]:
        """Yield the predictions of each batch when the next one is under way.

        Args:
            batches: each with what it is known by.

        Yields: that and rows by name, those of padding left out; E0s are added in float64.
        """
        waiting: list[tuple[int, GraphBatch, dict[str, Array]]] = []
        for index, batch in batches:
            waiting.append((index, batch, self._evaluate(self._state, batch)))
            if len(waiting) > 1:
                yield self._finished(*waiting.pop(0))
        for item in waiting:
            yield self._finished(*item)

    def _finished(
        self, index: int, batch: GraphBatch, on_device: dict[str, Array]
    ) -> tuple[int, Rows]:
        n_graph, n_node = int(batch.graph_mask.sum()), int(batch.node_mask.sum())
        rows: Rows = {}
        for name, array in jax.device_get(on_device).items():
            real = array[: n_node if is_per_atom(name) else n_graph]
            rows[name] = real if name == "descriptors" else np.asarray(real, np.float64)
        if "energy" in rows:
            owner = np.asarray(batch.node_graph[:n_node])
            reference = self._atomic_energies[batch.head[owner], batch.species[:n_node]]
            rows["node_energy"] = rows["node_energy"] + reference
            rows["energy"] = rows["energy"] + np.bincount(owner, reference, n_graph)
        return index, rows


class InputOrder:
    """Arrays of all structures that are filled batch by batch.

    Attributes:
        quantities: by name, in the order of the structures.
    """

    def __init__(
        self, n_node: NDArray[np.int64], make: Callable[[str, tuple[int, ...], Any], NDArray[Any]]
    ) -> None:
        """Fill nothing yet.

        Args:
            n_node: atoms of each structure.
            make: called with name, shape and dtype for an array.
        """
        self.quantities: dict[str, NDArray[np.floating]] = {}
        self._n_node, self._offsets, self._make = n_node, offsets_of(n_node), make

    def put(self, ids: NDArray[np.int64], rows: Rows) -> None:
        """Put the predictions of structures ``ids``, which are end to end, in their places."""
        atoms = rows_of(self._offsets[ids], self._n_node[ids])
        for name, values in rows.items():
            per_atom = is_per_atom(name)
            if name not in self.quantities:
                length = int(self._offsets[-1]) if per_atom else len(self._n_node)
                shape = (length, *values.shape[1:])
                self.quantities[name] = self._make(name, shape, values.dtype)
            self.quantities[name][atoms if per_atom else ids] = values


def predict(
    bundle: ModelBundle,
    source: str,
    structures: Sequence[Structure],
    *,
    n_edge: int,
    head: str | None = None,
    backend: Backend = DENSE,
    track: Track = track_silently,
) -> Predictions:
    """Return what the model predicts of every structure, in input order.

    The network runs in the bundle's dtype; for float64 jax must have it enabled. E0s are added in
    float64.

    Args:
        bundle: the model.
        source: its file, for messages.
        structures: what to predict; labels are ignored.
        n_edge: edges of a batch, at most; raised if one structure alone has more.
        head: readout head for all; by default each structure's own.
        backend: what computes the costly parts.
        track: progress.

    Raises:
        DataError: there is no structure, or one has an element or a head that the model lacks.
    """
    if not structures:
        message = f"{source}: no structures to predict, expected at least one"
        raise DataError(message)
    predictor = Predictor(bundle, source, backend)
    graphs = graph_builder(bundle).build_all(structures, head=head)
    sizes = GraphSizes.from_lists([graph.n_neighbors for graph in graphs])
    batches = pack_graphs(sizes, max(n_edge, int(sizes.n_edge.max()), 1), seed=0)
    caps = padded_caps(sizes, batches)
    padded = (
        (index, pad_batch([graphs[i] for i in batch], caps, bundle.dtype))
        for index, batch in enumerate(track(batches, "predicting", len(batches)))
    )
    found = InputOrder(sizes.n_node, lambda _name, shape, dtype: np.empty(shape, dtype))
    for index, rows in predictor(padded):
        found.put(batches[index], rows)
    return Predictions(sizes.n_node, found.quantities)
