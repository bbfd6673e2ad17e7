"""Neighbour lists of whatever atoms come, each kept while it holds every pair within the cutoff."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jax import Array
from numpy.typing import NDArray

from mace_jax.architecture import predicts_energy
from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.batching.graph import Graph
from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.calculator.compiled_network import Geometry, Member
from mace_jax.calculator.neighborhood import list_holds, room
from mace_jax.model.load import graph_builder
from mace_jax.structures.structure import Structure, check_structure, volume


@dataclass(frozen=True, eq=False)
class Neighborhood:
    """A structure when its neighbour list was built, and what stays the same until the next one.

    Attributes:
        structure: the atoms.
        geometry: their positions, cell and volume.
        batch: the padded graph.
        members: of the committee.
        atomic_energies: of each member the E0 of each atom, eV, ``[n]``; zeros without energy.
    """

    structure: Structure
    geometry: Geometry
    batch: GraphBatch
    members: Sequence[Member]
    atomic_energies: list[NDArray[np.float64]]

    @cached_property
    def steps(self) -> list[Callable[[Geometry], dict[str, Array]]]:
        """Of each member, from positions, cell and volume to what it predicts."""
        return [member.prepare(self.batch, self.geometry) for member in self.members]


class NeighborSearch:
    """The last neighbour list, and the next one when it is needed.

    Attributes:
        n_lists: how often neighbours were searched.
    """

    def __init__(self, members: Sequence[Member], head: str | None, skin: float) -> None:
        """Search nothing yet.

        Args:
            members: networks that share the lists, of the same elements, heads and inputs.
            head: readout head; by default that of each structure.
            skin: what a list reaches beyond the longest cutoff, Å.
        """
        self.n_lists = 0
        self._members, self._head = members, head
        self._dtype = members[0].bundle.dtype
        self._r_max = max(member.bundle.config.r_max for member in members)
        self._builder = graph_builder(members[0].bundle)._replace(r_max=self._r_max + skin)
        self._last: Neighborhood | None = None
        self._caps: dict[int, Caps] = {}  # by number of atoms

    def near(self, structure: Structure) -> tuple[Neighborhood, Geometry]:
        """Return a list that serves ``structure``, the last one if it does, and its geometry.

        Raises:
            DataError: the model lacks an element, head or input of the structure, two atoms are at
                the same place, or a number is not finite.
        """
        check_structure(structure)
        last = self._last
        if last is None or not list_holds(
            last.structure, structure, self._r_max, self._builder.r_max
        ):
            last = self._last = self._search(structure)
        return last, self._geometry(structure)

    def _geometry(self, structure: Structure) -> Geometry:
        """Return positions, cell and volume: what moves while a neighbour list is kept."""
        arrays = (structure.positions, structure.cell, volume(structure))
        return [np.asarray(array, self._dtype) for array in arrays]

    def _search(self, structure: Structure) -> Neighborhood:
        """Search the neighbours of every atom."""
        # the calculator's copy of the atoms may change in place
        structure = replace(
            structure,
            positions=structure.positions.copy(),
            cell=structure.cell.copy(),
            pbc=structure.pbc.copy(),
        )
        graph = self._builder.build(structure, self._head)
        self.n_lists += 1
        caps = room(graph, self._builder.r_max, self._caps.get(len(structure)))
        self._caps[len(structure)] = caps
        return Neighborhood(
            structure,
            self._geometry(structure),
            pad_batch([graph], caps, self._dtype),
            self._members,
            [_atomic_energies(member.bundle, graph) for member in self._members],
        )


def _atomic_energies(bundle: ModelBundle, graph: Graph) -> NDArray[np.float64]:
    """Return the E0 of each atom, eV, ``[n]``; zeros for a model without energy."""
    if not predicts_energy(bundle.config):
        return np.zeros(len(graph.structure))
    of_element = bundle.atomic_energies[bundle.heads[graph.head]]
    elements = bundle.config.atomic_numbers
    return np.array([of_element[number] for number in elements])[graph.species]
