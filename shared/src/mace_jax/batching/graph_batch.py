"""A batch of graphs padded to one shape, as arrays; what the network sees.

The last graph of a batch is always padding. All padding nodes belong to it, and padding pairs run
from its last node to itself; ``pair_mask`` tells them apart, because a distance of zero has no
derivative. How neighbours are laid out stands in ``neighbor_table``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.model_bundle import EmbeddingSpec
from mace_jax.batching.graph import Graph
from mace_jax.batching.neighbor_table import NeighborTable, fill_table, join_pairs
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure, property_shape, volumes

Array = Any  # NDArray on the host, jax.Array inside the network


class GraphBatch(NamedTuple):
    """Padded graphs and their labels.

    Attributes:
        positions: Å, ``[n_node, 3]``.
        species: index in the model's elements, int32 ``[n_node]``.
        node_graph: graph of each node, int32 ``[n_node]``, ascending.
        node_mask: whether a node is real, ``[n_node]``.
        pair_senders, pair_receivers: the two atoms of each pair of neighbours, int32 ``[n_pair]``.
        pair_shifts: cell vectors crossed by each pair, ``[n_pair, 3]``.
        pair_mask: whether a pair is real, ``[n_pair]``.
        table: where each atom finds its neighbours.
        cell: Å, ``[n_graph, 3, 3]``.
        volume: of the physical cell, Å³; infinite without one, ``[n_graph]``.
        n_node: atoms of each graph, float, ``[n_graph]``; 1 for padding graphs.
        graph_mask: whether a graph is real, ``[n_graph]``.
        head: index of the readout head, int32 ``[n_graph]``.
        energy: interaction energy label, eV: total minus the sum of E0, which is taken in float64
            before it is rounded to the batch's dtype, ``[n_graph]``.
        forces: label, eV/Å, ``[n_node, 3]``.
        stress: label, eV/Å³, ``[n_graph, 3, 3]``.
        virials: label, eV, ``[n_graph, 3, 3]``.
        dipole: label, Debye, ``[n_graph, 3]``.
        energy_weight, …, dipole_weight: weight of each graph's label in the loss; 0 where there is
            no label, and there alone is the label's value meaningless.
        inputs: what else the model is told, name -> ``[n_node, k]`` or ``[n_graph, k]``.
    """

    positions: Array
    species: Array
    node_graph: Array
    node_mask: Array
    pair_senders: Array
    pair_receivers: Array
    pair_shifts: Array
    pair_mask: Array
    table: NeighborTable
    cell: Array
    volume: Array
    n_node: Array
    graph_mask: Array
    head: Array
    energy: Array
    forces: Array
    stress: Array
    virials: Array
    dipole: Array
    energy_weight: Array
    forces_weight: Array
    stress_weight: Array
    virials_weight: Array
    dipole_weight: Array
    inputs: Mapping[str, Array]


def pad_batch(
    graphs: Sequence[Graph], caps: Caps, dtype: str, told: Sequence[EmbeddingSpec] = ()
) -> GraphBatch:
    """Join graphs and pad them to ``caps``.

    Args:
        graphs: at most ``caps.n_graph - 1`` of them; none give a batch of padding.
        caps: padded sizes; at least one node and one graph remain padding.
        dtype: of the floating-point arrays.
        told: what the model is told, for a batch of padding; graphs have it with them.
    """
    structures = [graph.structure for graph in graphs]
    n_graph = len(graphs)
    n_node = np.array([len(structure) for structure in structures], np.int64)
    pairs = join_pairs([graph.pairs for graph in graphs], n_node)
    cells = np.array([structure.cell for structure in structures]).reshape(-1, 3, 3)
    pbc = np.array([structure.pbc for structure in structures], bool).reshape(-1, 3)

    def per_node(array: NDArray[Any], kind: Any = dtype, fill: int = 0) -> NDArray[Any]:
        return _pad(array, caps.n_node, kind, fill)

    def per_pair(array: NDArray[Any], kind: Any = np.int32, fill: int = 0) -> NDArray[Any]:
        return _pad(array, caps.n_pair, kind, fill)

    def per_graph(values: Any, kind: Any = dtype, fill: float = 0) -> NDArray[Any]:
        return _pad(np.asarray(values), caps.n_graph, kind, fill)

    def labels(name: str) -> NDArray[Any]:
        values = [_label(structure, name) for structure in structures]
        return per_graph(np.array(values).reshape(-1, *PROPERTY_SHAPES[name]))

    def weights(name: str) -> NDArray[Any]:
        return per_graph([structure.label_weight(name) for structure in structures])

    return GraphBatch(
        positions=per_node(_rows([structure.positions for structure in structures], 3)),
        species=per_node(_rows([graph.species for graph in graphs]), np.int32),
        node_graph=per_node(np.repeat(np.arange(n_graph), n_node), np.int32, n_graph),
        node_mask=np.arange(caps.n_node) < n_node.sum(),
        pair_senders=per_pair(pairs.senders, fill=caps.n_node - 1),
        pair_receivers=per_pair(pairs.receivers, fill=caps.n_node - 1),
        pair_shifts=per_pair(pairs.shifts, dtype),
        pair_mask=np.arange(caps.n_pair) < len(pairs.senders),
        table=fill_table(pairs, caps),
        cell=per_graph(cells),
        volume=per_graph(volumes(cells, pbc), fill=np.inf),
        n_node=per_graph(n_node, fill=1),
        graph_mask=np.arange(caps.n_graph) < n_graph,
        head=per_graph([graph.head for graph in graphs], np.int32),
        energy=per_graph([graph.interaction_energy for graph in graphs]),
        forces=per_node(_rows([_label(structure, "forces") for structure in structures], 3)),
        stress=labels("stress"),
        virials=labels("virials"),
        dipole=labels("dipole"),
        energy_weight=weights("energy"),
        forces_weight=weights("forces"),
        stress_weight=weights("stress"),
        virials_weight=weights("virials"),
        dipole_weight=weights("dipole"),
        inputs=_inputs(graphs, caps, dtype) if graphs else _no_inputs(told, caps, dtype),
    )


def _inputs(graphs: Sequence[Graph], caps: Caps, dtype: str) -> dict[str, NDArray[Any]]:
    per_graph = {
        name: np.concatenate([graph.graph_inputs[name] for graph in graphs])
        for name in graphs[0].graph_inputs
    }
    per_node = {
        name: np.concatenate([graph.node_inputs[name] for graph in graphs])
        for name in graphs[0].node_inputs
    }
    return {name: _pad(rows, caps.n_graph, dtype) for name, rows in per_graph.items()} | {
        name: _pad(rows, caps.n_node, dtype) for name, rows in per_node.items()
    }


def _no_inputs(told: Sequence[EmbeddingSpec], caps: Caps, dtype: str) -> dict[str, NDArray[Any]]:
    length = {"graph": caps.n_graph, "atom": caps.n_node}
    return {spec.name: np.zeros((length[spec.per], spec.in_dim), dtype) for spec in told}


def batch_bytes(batch: GraphBatch) -> int:
    """Return the memory of a batch's arrays."""
    arrays = (*batch, *batch.table, *batch.inputs.values())
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def _rows(pieces: list[NDArray[Any]], *shape: int) -> NDArray[Any]:
    """Join arrays of rows, maybe none at all."""
    return np.concatenate(pieces) if pieces else np.empty((0, *shape))


def _pad(array: NDArray[Any], length: int, kind: Any, fill: float = 0) -> NDArray[Any]:
    padded = np.full((length, *array.shape[1:]), fill, dtype=kind)
    padded[: len(array)] = array
    return padded


def _label(structure: Structure, name: str) -> NDArray[np.float64]:
    """Return a label, or zeros that the weight of 0 keeps out of the loss."""
    if name in structure.properties:
        return structure.properties[name]
    return np.zeros(property_shape(name, len(structure)))
