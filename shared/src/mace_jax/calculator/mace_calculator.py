"""The ASE calculator: energies, forces, stress and dipoles of model bundles for MD and relaxation.

A neighbour list is kept for as long as it must hold every pair within the cutoff, so that a step
sends positions and cell to the device, runs one compiled function and fetches its results at once.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    PropertyNotImplementedError,
    all_changes,
    all_properties,
)
from ase.outputs import Properties
from jax import Array
from numpy.typing import NDArray

from mace_jax.architecture import model_inputs, predicts_energy
from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.batching.graph import Graph
from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.calculator.committee import read_committee
from mace_jax.calculator.compiled_network import CompiledNetwork, Geometry, Member
from mace_jax.calculator.neighborhood import list_holds, room, same_inputs
from mace_jax.calculator.results import ase_results, member_results, property_names
from mace_jax.errors import ConfigError, DataError
from mace_jax.model.load import graph_builder
from mace_jax.structures.structure import Structure, check_structure, volume

_PLACE = "atoms"
# What ASE calls what of a structure.
_GEOMETRY = {"positions": "positions", "numbers": "atomic_numbers", "cell": "cell", "pbc": "pbc"}
# What mace-torch's calculator calls what a model is told.
_TORCH_KEYS = {"total_charge": "charge", "total_spin": "spin", "charges": "Qs"}


@dataclass(frozen=True, eq=False)
class _Neighborhood:
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


class MACECalculator(Calculator):
    """A model bundle, or a committee of several, as ASE calculator.

    One evaluation gives every property, in ASE's units; ``energies`` include E0s, which are added
    in float64, ``node_energy`` leaves them out, and dipoles are in e·Å. A committee gives the mean
    of its members, each member's values (``energy_comm``, ``forces_comm``, …) and their variance
    (``energy_var``, …).

    What else the model is told, such as ``total_charge``, is read from ``atoms.info`` and
    ``atoms.arrays``: by this name, with ``REF_`` before it, or as mace-torch's calculator calls it
    (``charge``, ``spin``, ``Qs``). Where it is absent it is assumed to be what
    ``mace-jax-predict`` assumes.

    Attributes:
        implemented_properties: what this model predicts; stress of periodic structures alone.
        n_neighbor_lists: how often neighbours were searched.
    """

    def __init__(
        self,
        model: Path | str | Sequence[Path | str],
        *,
        head: str | None = None,
        dtype: str | None = None,
        skin: float = 0.3,
    ) -> None:
        """Read the bundles; networks are compiled by the first evaluation.

        Args:
            model: a bundle; a pattern such as ``"committee/*.msgpack"`` or a list of bundles makes
                a committee, in the order of names or of the list.
            head: readout head; by default that of ``atoms.info["head"]``, or the only one.
            dtype: ``float32`` or ``float64``; by default the bundle's. Jax's own switch for
                float64 is neither needed nor changed.
            skin: what the neighbour list reaches beyond the cutoff, Å; it is built anew when an
                atom has moved by half of this. With the default, MD at 300 K does so every 8 to 11
                steps of 0.5 fs: for 512 atoms 2 ms a step. On a CPU 0.3 Å made their steps no
                slower than no skin at all, 0.5 Å made them 18 % slower.

        Raises:
            ArtifactError: a bundle is missing or damaged.
            ConfigError: the head, dtype or skin is impossible, or a pattern matches no file.
            IncompatibleError: bundles differ in elements, heads, inputs or what they predict.
        """
        super().__init__()
        bundles = read_committee(model, dtype)
        first = next(iter(bundles.values()))
        _check_options(first, head, skin)
        self.implemented_properties = property_names(first.config, len(bundles))
        self.n_neighbor_lists = 0
        self._head, self._dtype = head, first.dtype
        self._r_max = max(bundle.config.r_max for bundle in bundles.values())
        self._inputs = tuple(spec.source for spec in model_inputs(first.config))
        self._builder = graph_builder(first)._replace(r_max=self._r_max + skin)
        self._neighborhood: _Neighborhood | None = None
        self._caps: dict[int, Caps] = {}  # by number of atoms
        self._networks: dict[Hashable, CompiledNetwork] = {}
        with self._precision():
            self._members = [
                Member(bundle, source, self._networks) for source, bundle in bundles.items()
            ]

    @property
    def n_compilations(self) -> int:
        """How often a network was compiled for MD.

        Once for every number of atoms, and again when neighbours outgrow their room; members of a
        committee that differ in weights alone share what is compiled.
        """
        return sum(len(network.programs) for network in self._networks.values())

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:  # noqa: ARG002
        """Return what has changed, by however little: of the atoms and of what the model is told.

        ASE asks this three times a step; its own answer costs as much as a tenth of a molecule's.
        """
        if self.atoms is None:
            return list(all_changes)
        old, new = self._structure(self.atoms), self._structure(atoms)
        changes = [
            change
            for change, name in _GEOMETRY.items()
            if not np.array_equal(getattr(old, name), getattr(new, name))
        ]
        return changes if same_inputs(old, new) else [*changes, "inputs"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate the network; ``results`` then has every property.

        Raises:
            DataError: the model lacks an element, head or input of the atoms, two atoms are at the
                same place, or a number is not finite.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        self.results = {}
        structure = self._structure(self._atoms(None))
        with self._precision():
            near, geometry = self._near(structure), self._geometry(structure)
            predicted = [step(geometry) for step in near.steps]
        self.results = ase_results(
            [
                member_results(found, energies, member.bundle.config)
                for found, energies, member in zip(
                    predicted, near.atomic_energies, self._members, strict=True
                )
            ]
        )

    def get_hessian(self, atoms: Atoms | None = None) -> Any:
        """Return d²E/dx², eV/Å², ``[3n, n, 3]``; of a committee a list, one for each member.

        Args:
            atoms: by default those of the last evaluation.

        Raises:
            DataError: as ``calculate``, or there are no atoms.
            PropertyNotImplementedError: the model has no energy.
        """
        if not predicts_energy(self._members[0].bundle.config):
            message = "hessian: the model predicts no energy; use one that does"
            raise PropertyNotImplementedError(message)
        structure = self._structure(self._atoms(atoms))
        with self._precision():
            near, geometry = self._near(structure), self._geometry(structure)
            found = [member.hessian(near.batch, geometry) for member in self._members]
        n = len(structure)
        return _one_or_all([hessian.reshape(3 * n, n, 3) for hessian in found])

    def get_descriptors(
        self, atoms: Atoms | None = None, invariants_only: bool = True, num_layers: int = -1
    ) -> Any:
        """Return the features of each atom, ``[n, n_features]``; of a committee a list.

        Args:
            atoms: by default those of the last evaluation.
            invariants_only: leave out what changes when the atoms are rotated; otherwise channels
                come before components, as in mace-torch.
            num_layers: features of the first so many layers, joined; -1 takes all.

        Raises:
            ConfigError: the model does not have so many layers.
            DataError: as ``calculate``, or there are no atoms.
        """
        most = min(member.bundle.config.num_interactions for member in self._members)
        if num_layers != -1 and not 1 <= num_layers <= most:
            message = f"num_layers: {num_layers}, expected 1 to {most}, or -1; correct it"
            raise ConfigError(message)
        structure = self._structure(self._atoms(atoms))
        with self._precision():
            near, geometry = self._near(structure), self._geometry(structure)
            features = [
                member.descriptors(
                    near.batch,
                    geometry,
                    invariants_only=invariants_only,
                    num_layers=None if num_layers == -1 else num_layers,
                )
                for member in self._members
            ]
        return _one_or_all(features)

    def export_properties(self) -> Properties:
        """Return what ASE has names for; it refuses others, such as ``energy_var``."""
        known = {name: self.results[name] for name in all_properties if name in self.results}
        return Properties(known)

    def _precision(self) -> Any:
        """Return a context in which jax computes in the bundle's dtype."""
        return jax.enable_x64(self._dtype == "float64")

    def _atoms(self, atoms: Atoms | None) -> Atoms:
        """Return ``atoms``, or those of the last evaluation."""
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            message = f"{_PLACE}: none given and none evaluated yet; give atoms"
            raise DataError(message)
        return atoms

    def _structure(self, atoms: Atoms) -> Structure:
        """Return the atoms and what the model is told of them.

        Raises:
            DataError: an input is no number, or is there twice and not the same.
        """
        columns = {**atoms.arrays, **atoms.info} if self._inputs else {}
        told = {name: _told(columns, name) for name in self._inputs}
        return Structure(
            atoms.numbers.astype(np.int64),
            atoms.positions,
            atoms.cell.array,
            atoms.pbc,
            head=str(atoms.info.get("head", "Default")),
            place=_PLACE,
            inputs={name: value for name, value in told.items() if value is not None},
        )

    def _geometry(self, structure: Structure) -> Geometry:
        """Return positions, cell and volume: what moves while a neighbour list is kept."""
        arrays = (structure.positions, structure.cell, volume(structure))
        return [np.asarray(array, self._dtype) for array in arrays]

    def _near(self, structure: Structure) -> _Neighborhood:
        """Return a neighbour list that serves ``structure``: the last one, if it does."""
        check_structure(structure)
        near = self._neighborhood
        if near is None or not list_holds(
            near.structure, structure, self._r_max, self._builder.r_max
        ):
            near = self._neighborhood = self._search(structure)
        return near

    def _search(self, structure: Structure) -> _Neighborhood:
        """Search the neighbours of every atom, and put them on the device."""
        # the calculator's copy of the atoms may change in place
        structure = replace(
            structure,
            positions=structure.positions.copy(),
            cell=structure.cell.copy(),
            pbc=structure.pbc.copy(),
        )
        graph = self._builder.build(structure, self._head)
        self.n_neighbor_lists += 1
        caps = room(graph, self._builder.r_max, self._caps.get(len(structure)))
        self._caps[len(structure)] = caps
        return _Neighborhood(
            structure,
            self._geometry(structure),
            pad_batch([graph], caps, self._dtype),
            self._members,
            [_atomic_energies(member.bundle, graph) for member in self._members],
        )


def _check_options(bundle: ModelBundle, head: str | None, skin: float) -> None:
    if head is not None and head not in bundle.heads:
        message = f"head: {head!r}, expected one of {list(bundle.heads)}; correct the head"
        raise ConfigError(message)
    if not (np.isfinite(skin) and skin >= 0):
        message = f"skin: {skin}, expected a number of Å ≥ 0; correct the skin"
        raise ConfigError(message)


def _told(columns: Mapping[str, Any], name: str) -> NDArray[np.float64] | None:
    """Return the input ``name`` under whichever key it is there, or None."""
    names = (name, f"REF_{name}", _TORCH_KEYS.get(name, name))
    keys = [key for key in dict.fromkeys(names) if key in columns]
    values = [_numbers(columns[key], key) for key in keys]
    for key, value in zip(keys[1:], values[1:], strict=True):
        if not np.array_equal(value, values[0]):
            message = f"{_PLACE}: {keys[0]} and {key} differ, expected one; remove the wrong one"
            raise DataError(message)
    return values[0] if values else None


def _numbers(value: Any, name: str) -> NDArray[np.float64]:
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        message = f"{_PLACE}: {name} cannot be used: {error}; correct or remove it"
        raise DataError(message) from error


def _atomic_energies(bundle: ModelBundle, graph: Graph) -> NDArray[np.float64]:
    """Return the E0 of each atom, eV, ``[n]``; zeros for a model without energy."""
    if not predicts_energy(bundle.config):
        return np.zeros(len(graph.structure))
    of_element = bundle.atomic_energies[bundle.heads[graph.head]]
    elements = bundle.config.atomic_numbers
    return np.array([of_element[number] for number in elements])[graph.species]


def _one_or_all(values: list[Any]) -> Any:
    """Return what a model says, or of a committee the list of what its members say."""
    return values[0] if len(values) == 1 else values
