"""A batch of graphs padded to one shape, as arrays; what the network sees.

The last graph of a batch is always padding. All padding nodes belong to it, and padding pairs run
from its last node to itself; ``pair_mask`` tells them apart, because a distance of zero has no
derivative. How neighbours are laid out stands in ``neighbor_table``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.model_bundle import EmbeddingSpec
from mace_jax.batching.neighbor_table import (
    NeighborTable,
    Pairs,
    fill_table,
    find_pairs,
    join_pairs,
)
from mace_jax.elements import species_index
from mace_jax.errors import DataError
from mace_jax.structures.atomic_energies import total_atomic_energy
from mace_jax.structures.neighbor_list import neighbor_list
from mace_jax.structures.structure import Structure, volume

# What mace-torch assumes of a structure that says nothing.
DEFAULT_INPUTS = {"total_charge": 0.0, "total_spin": 1.0, "elec_temp": 0.0, "charges": 0.0}

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
        inputs: what else the model is told, name -> ``[n_node, k]`` or ``[n_graph, k]``.
        energy_weight, forces_weight, stress_weight: weight of each graph's label in the loss;
            0 where there is no label, and there alone is the label's value meaningless.
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
    energy_weight: Array
    forces_weight: Array
    stress_weight: Array
    inputs: Mapping[str, Array]


class Graph(NamedTuple):
    """A structure with its pairs of neighbours, ready to be put into batches."""

    structure: Structure
    pairs: Pairs
    species: NDArray[np.int32]
    head: int
    interaction_energy: float
    graph_inputs: Mapping[str, NDArray[np.float64]]
    node_inputs: Mapping[str, NDArray[np.float64]]


class GraphBuilder(NamedTuple):
    """What turns structures into a model's graphs.

    Attributes:
        r_max: cutoff, Å.
        elements: atomic numbers the model knows, ascending.
        heads: names of its readout heads.
        atomic_energies: head -> atomic number -> E0, eV; no heads for a model without energy.
        inputs: what else the model is told.
    """

    r_max: float
    elements: tuple[int, ...]
    heads: tuple[str, ...]
    atomic_energies: Mapping[str, Mapping[int, float]]
    inputs: tuple[EmbeddingSpec, ...] = ()

    def build(self, structure: Structure, head: str | None = None) -> Graph:
        """Return the graph of ``structure``.

        Args:
            structure: atoms and labels.
            head: readout head; by default the structure's own.

        Raises:
            DataError: the model knows an element or head not.
        """
        species = species_index(structure.atomic_numbers, self.elements, structure.place)
        head = self.require_head(head, structure.place) if head else self.head_of(structure)
        reference = 0.0
        if self.atomic_energies:
            reference = total_atomic_energy(structure.atomic_numbers, self.atomic_energies[head])
        return Graph(
            structure,
            find_pairs(neighbor_list(structure, self.r_max), len(structure)),
            species,
            self.heads.index(head),
            float(structure.properties.get("energy", reference)) - reference,
            *(
                {s.name: model_input(structure, s) for s in self.inputs if s.per == per}
                for per in ("graph", "atom")
            ),
        )

    def head_of(self, structure: Structure) -> str:
        """Return the head of ``structure``; a model with one head serves all.

        Raises:
            DataError: the model has several heads, none of that name.
        """
        if len(self.heads) == 1:
            return self.heads[0]
        return self.require_head(structure.head, structure.place)

    def require_head(self, head: str, place: str) -> str:
        """Return ``head``.

        Raises:
            DataError: the model has none of that name.
        """
        if head not in self.heads:
            message = (
                f"{place}: head {head!r}, expected one of {list(self.heads)}; correct the head"
            )
            raise DataError(message)
        return head


def model_input(structure: Structure, spec: EmbeddingSpec) -> NDArray[np.float64]:
    """Return what a model is told of ``structure``, ``[1, in_dim]`` or ``[n, in_dim]``.

    Without a value of its own a structure is neutral, a singlet and cold, as in mace-torch.

    Raises:
        DataError: there is none, or it is of another shape, or of no class that the model knows.
    """
    value = structure.inputs.get(spec.source, structure.properties.get(spec.source))
    rows = 1 if spec.per == "graph" else len(structure)
    if value is None and spec.name in DEFAULT_INPUTS:
        value = np.full(rows, DEFAULT_INPUTS[spec.name])
    if value is None:
        message = f"{structure.place}: has no {spec.source}, which the model needs; add it"
        raise DataError(message)
    if value.size != rows * spec.in_dim:
        message = (
            f"{structure.place}: {spec.source}: shape {value.shape}, "
            f"expected {(rows, spec.in_dim)}; correct it"
        )
        raise DataError(message)
    value = value.reshape(rows, spec.in_dim)
    if spec.type == "categorical":
        low, high = -spec.offset, spec.num_classes - 1 - spec.offset
        wrong = value[(value < low) | (value > high) | (value != np.round(value))]
        if wrong.size:
            message = (
                f"{structure.place}: {spec.source} {wrong[0]:g}, "
                f"expected a whole number from {low} to {high}; correct it"
            )
            raise DataError(message)
    return value


def assumed_inputs(
    structures: Sequence[Structure], specs: Sequence[EmbeddingSpec]
) -> Iterator[str]:
    """Yield a sentence for each input that some structures do not give."""
    for spec in specs:
        missing = sum(
            spec.source not in structure.inputs and spec.source not in structure.properties
            for structure in structures
        )
        if missing and spec.name in DEFAULT_INPUTS:
            yield (
                f"{spec.source}: given by {len(structures) - missing} of {len(structures)} "
                f"structures; {DEFAULT_INPUTS[spec.name]:g} is assumed for the others"
            )


def pad_batch(graphs: Sequence[Graph], caps: Caps, dtype: str) -> GraphBatch:
    """Join graphs and pad them to ``caps``.

    Args:
        graphs: at most ``caps.n_graph - 1`` of them.
        caps: padded sizes; at least one node and one graph remain padding.
        dtype: of the floating-point arrays.
    """
    n_graph = len(graphs)
    n_node = np.array([len(graph.structure) for graph in graphs])
    structures = [graph.structure for graph in graphs]

    def nodes(pieces: list[NDArray[Any]], kind: Any) -> NDArray[Any]:
        return _pad(np.concatenate(pieces), caps.n_node, kind)

    def per_pair(array: NDArray[Any], kind: Any, fill: int = 0) -> NDArray[Any]:
        return _pad(array, caps.n_pair, kind, fill)

    def per_graph(values: list[Any], fill: float = 0) -> NDArray[Any]:
        return _pad(np.array(values), caps.n_graph, dtype, fill)

    def weights(name: str) -> NDArray[Any]:
        return per_graph([_label_weight(structure, name) for structure in structures])

    pairs = join_pairs([graph.pairs for graph in graphs])
    padding_node = caps.n_node - 1
    return GraphBatch(
        positions=nodes([structure.positions for structure in structures], dtype),
        species=nodes([graph.species for graph in graphs], np.int32),
        node_graph=_pad(np.repeat(np.arange(n_graph), n_node), caps.n_node, np.int32, n_graph),
        node_mask=np.arange(caps.n_node) < n_node.sum(),
        pair_senders=per_pair(pairs.senders, np.int32, padding_node),
        pair_receivers=per_pair(pairs.receivers, np.int32, padding_node),
        pair_shifts=per_pair(pairs.shifts, dtype),
        pair_mask=np.arange(caps.n_pair) < len(pairs.senders),
        table=fill_table(pairs, caps),
        cell=per_graph([structure.cell for structure in structures]),
        volume=per_graph([volume(structure) for structure in structures], np.inf),
        n_node=per_graph(list(n_node), 1),
        graph_mask=np.arange(caps.n_graph) < n_graph,
        head=_pad(np.array([graph.head for graph in graphs]), caps.n_graph, np.int32),
        energy=per_graph([graph.interaction_energy for graph in graphs]),
        forces=nodes([_label(structure, "forces") for structure in structures], dtype),
        stress=per_graph([_label(structure, "stress") for structure in structures]),
        energy_weight=weights("energy"),
        forces_weight=weights("forces"),
        stress_weight=weights("stress"),
        inputs={
            name: _pad(
                np.concatenate([graph.graph_inputs[name] for graph in graphs]), caps.n_graph, dtype
            )
            for name in graphs[0].graph_inputs
        }
        | {
            name: nodes([graph.node_inputs[name] for graph in graphs], dtype)
            for name in graphs[0].node_inputs
        },
    )


def _pad(array: NDArray[Any], length: int, kind: Any, fill: float = 0) -> NDArray[Any]:
    padded = np.full((length, *array.shape[1:]), fill, dtype=kind)
    padded[: len(array)] = array
    return padded


def _label(structure: Structure, name: str) -> NDArray[np.float64]:
    """Return a label, or zeros that the weight of 0 keeps out of the loss."""
    shape = (len(structure), 3) if name == "forces" else (3, 3)
    return structure.properties.get(name, np.zeros(shape))


def _label_weight(structure: Structure, name: str) -> float:
    if name not in structure.properties:
        return 0.0
    return structure.weight * structure.property_weights.get(name, 1.0)
