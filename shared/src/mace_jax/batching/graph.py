"""Graphs: structures with their pairs of neighbours, as a model reads them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.model_bundle import EmbeddingSpec
from mace_jax.elements import MAX_ATOMIC_NUMBER, species_index
from mace_jax.errors import DataError
from mace_jax.structures.neighbor_list import PairList, count_neighbors, neighbor_pairs
from mace_jax.structures.structure import Structure, weighted_by_config_type

# What mace-torch assumes of a structure that says nothing.
DEFAULT_INPUTS = {"total_charge": 0.0, "total_spin": 1.0, "elec_temp": 0.0, "charges": 0.0}


class Graph(NamedTuple):
    """A structure with its pairs of neighbours, ready to be put into batches.

    Attributes:
        structure: atoms and labels.
        pairs: of its atoms.
        species: index in the model's elements, int32 ``[n]``.
        head: index of the readout head.
        interaction_energy: energy label minus the sum of E0, eV; 0 without a label.
        graph_inputs, node_inputs: what else the model is told, name -> ``[1, k]``, ``[n, k]``.
    """

    structure: Structure
    pairs: PairList
    species: NDArray[np.int32]
    head: int
    interaction_energy: float
    graph_inputs: Mapping[str, NDArray[np.float64]]
    node_inputs: Mapping[str, NDArray[np.float64]]

    @property
    def n_neighbors(self) -> NDArray[np.int64]:
        """Edges that each atom receives, ``[n]``."""
        return count_neighbors(self.pairs, len(self.structure))


class GraphBuilder(NamedTuple):
    """What turns structures into a model's graphs.

    Attributes:
        r_max: cutoff, Å.
        elements: atomic numbers the model knows, ascending.
        heads: names of its readout heads.
        atomic_energies: head -> atomic number -> E0, eV; no heads for a model without energy.
        inputs: what else the model is told.
        config_type_weights: what the weights of structures are multiplied by; 1 where not given.
        config_type_weights_of_heads: the same of heads that have others.
    """

    r_max: float
    elements: tuple[int, ...]
    heads: tuple[str, ...]
    atomic_energies: Mapping[str, Mapping[int, float]]
    inputs: tuple[EmbeddingSpec, ...] = ()
    config_type_weights: Mapping[str, float] = {}
    config_type_weights_of_heads: Mapping[str, Mapping[str, float]] = {}

    def build(self, structure: Structure, head: str | None = None) -> Graph:
        """Return the graph of ``structure``: ``build_all`` of one."""
        return self.build_all([structure], head=head)[0]

    def build_all(
        self,
        structures: Sequence[Structure],
        pairs: Sequence[PairList] | None = None,
        *,
        head: str | None = None,
    ) -> list[Graph]:
        """Return the graphs of ``structures``.

        Args:
            structures: atoms and labels, one at least.
            pairs: their pairs closer than ``r_max``; searched for by default.
            head: readout head of all; by default each structure's own.

        Raises:
            DataError: the model lacks an element, a head or an input.
        """
        names = [
            self.require_head(head, structure.place) if head else self.head_of(structure)
            for structure in structures
        ]
        structures = [
            weighted_by_config_type(structure, self._config_type_weights(name))
            for structure, name in zip(structures, names, strict=True)
        ]
        n_node = np.array([len(structure) for structure in structures])
        species = self._species(structures)
        heads = [self.heads.index(name) for name in names]
        references = self._references(np.repeat(heads, n_node), species, n_node)
        if pairs is None:
            pairs = [neighbor_pairs(structure, self.r_max) for structure in structures]
        return [
            Graph(
                structure,
                own_pairs,
                species[end - len(structure) : end],
                index,
                float(structure.properties.get("energy", reference)) - reference,
                self._inputs(structure, "graph"),
                self._inputs(structure, "atom"),
            )
            for structure, own_pairs, index, reference, end in zip(
                structures,
                pairs,
                heads,
                references.tolist(),
                np.cumsum(n_node).tolist(),
                strict=True,
            )
        ]

    def _config_type_weights(self, head: str) -> Mapping[str, float]:
        return self.config_type_weights_of_heads.get(head, self.config_type_weights)

    def _species(self, structures: Sequence[Structure]) -> NDArray[np.int32]:
        """Return the species of all atoms of all structures, ``[n_node]``."""
        table = np.full(MAX_ATOMIC_NUMBER + 1, -1, np.int32)
        table[list(self.elements)] = np.arange(len(self.elements))
        species = table[np.concatenate([structure.atomic_numbers for structure in structures])]
        if (species < 0).any():
            for structure in structures:
                species_index(structure.atomic_numbers, self.elements, structure.place)
        return species

    def _references(
        self, node_head: NDArray[np.int64], species: NDArray[np.int32], n_node: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the sum of E0 of each structure, eV, atom after atom in float64, ``[n_graph]``."""
        if not self.atomic_energies:
            return np.zeros(len(n_node))
        energies = np.array(
            [[self.atomic_energies[head][z] for z in self.elements] for head in self.heads]
        )
        node_graph = np.repeat(np.arange(len(n_node)), n_node)
        sums = np.bincount(node_graph, energies[node_head, species], len(n_node))
        return np.asarray(sums, np.float64)

    def _inputs(self, structure: Structure, per: str) -> dict[str, NDArray[np.float64]]:
        return {spec.name: model_input(structure, spec) for spec in self.inputs if spec.per == per}

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
    return assumptions(given_inputs(structures, specs), len(structures), specs)


def given_inputs(structures: Iterable[Structure], specs: Sequence[EmbeddingSpec]) -> Counter[str]:
    """Return how many structures give each input, by its source."""
    return Counter(
        spec.source
        for structure in structures
        for spec in specs
        if spec.source in structure.inputs or spec.source in structure.properties
    )


def assumptions(
    given: Mapping[str, int], n_structures: int, specs: Sequence[EmbeddingSpec]
) -> Iterator[str]:
    """Yield a sentence for each input that fewer than all ``n_structures`` give."""
    for spec in specs:
        count = given.get(spec.source, 0)
        if count < n_structures and spec.name in DEFAULT_INPUTS:
            yield (
                f"{spec.source}: given by {count} of {n_structures} structures; "
                f"{DEFAULT_INPUTS[spec.name]:g} is assumed for the others"
            )
