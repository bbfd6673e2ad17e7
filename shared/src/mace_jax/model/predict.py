"""Predict many structures with a model bundle: pack, evaluate, put back into input order."""

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.artifacts.predictions import SHAPES, Predictions
from mace_jax.batching.graph import Graph
from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.batching.shape_classes import padded_caps
from mace_jax.batching.tight_packing import pack_graphs
from mace_jax.errors import DataError
from mace_jax.model.backend import DENSE, Backend
from mace_jax.model.dipoles import dipole_properties
from mace_jax.model.energy_forces import energy_and_forces
from mace_jax.model.load import graph_builder, load_model
from mace_jax.model.mace import MACE, DipoleMACE
from mace_jax.structures.structure import Structure
from mace_jax.tracking import Track, track_silently


def properties(model: MACE | DipoleMACE, batch: GraphBatch) -> dict[str, Array]:
    """Return everything that ``model`` predicts of a batch, E0s left out, by name."""
    if isinstance(model, DipoleMACE):
        return dipole_properties(model, batch)
    return energy_and_forces(model, batch)._asdict()


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
    model = load_model(bundle, source, backend)
    builder = graph_builder(bundle)
    graphs = [builder.build(structure, head) for structure in structures]
    sizes = GraphSizes.from_lists([graph.n_neighbors for graph in graphs])
    batches = pack_graphs(sizes, max(n_edge, int(sizes.n_edge.max()), 1), seed=0)
    caps = padded_caps(sizes, batches)
    graphdef, state = nnx.split(model)

    @jax.jit
    def evaluate(state: nnx.State, batch: GraphBatch) -> dict[str, Array]:
        return properties(nnx.merge(graphdef, state), batch)

    offsets = np.concatenate([[0], np.cumsum(sizes.n_node)])
    result: dict[str, NDArray[np.float64]] = {}
    for batch in track(batches, "predicting", len(batches)):
        padded = pad_batch([graphs[index] for index in batch], caps, bundle.dtype)
        predicted = jax.device_get(evaluate(state, padded))
        start = 0
        for position, index in enumerate(batch):
            atoms = slice(start, start + int(sizes.n_node[index]))
            start = atoms.stop
            own = slice(offsets[index], offsets[index + 1])
            for name, array in predicted.items():
                per_atom = "n" in SHAPES[name]
                length = offsets[-1] if per_atom else len(graphs)
                target = result.setdefault(name, np.zeros((length, *array.shape[1:])))
                if per_atom:
                    target[own] = array[atoms]
                else:
                    target[index] = array[position]
            if "energy" in predicted:
                reference = _atomic_energies(bundle, graphs[index])
                result["energy"][index] += reference.sum()
                result["node_energy"][own] += reference
    return Predictions(sizes.n_node, result)


def _atomic_energies(bundle: ModelBundle, graph: Graph) -> NDArray[np.float64]:
    """Return the E0 of each atom, eV, ``[n]``."""
    energies = bundle.atomic_energies[bundle.heads[graph.head]]
    return np.array([energies[int(number)] for number in graph.structure.atomic_numbers])
