"""The ASE calculator: energies, forces, stress and dipoles of a model bundle for MD and relaxation.

A neighbour list is kept for as long as it must hold every pair within the cutoff, so that a step
sends positions and cell to the device, runs one compiled function and fetches its results at once.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from mace_jax.architecture import model_inputs, predicts_energy
from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.batches import Batches
from mace_jax.artifacts.model_bundle import ModelBundle, read_model_bundle
from mace_jax.batching.graph import Graph
from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.batching.neighbor_table import n_rows
from mace_jax.batching.shape_classes import padded_caps
from mace_jax.errors import ConfigError, DataError
from mace_jax.model.backend import FROZEN
from mace_jax.model.energy_forces import pair_vectors
from mace_jax.model.load import graph_builder, load_model
from mace_jax.model.predict import properties
from mace_jax.model.split_computation import split_computation
from mace_jax.structures.structure import Structure, check_structure, volume
from mace_jax.units import DEBYE

_PLACE = "atoms"
_DTYPES = ("float32", "float64")
_ENERGY_PROPERTIES = ("energy", "free_energy", "energies", "forces", "stress")
_DIPOLE_PROPERTIES = {
    "EnergyDipolesMACE": ("dipole",),
    "AtomicDipolesMACE": ("dipole",),
    "AtomicDielectricMACE": ("dipole", "charges"),
}
# What ASE calls what of a structure.
_GEOMETRY = {"positions": "positions", "numbers": "atomic_numbers", "cell": "cell", "pbc": "pbc"}
_FETCHED = ("energy", "node_energy", "forces", "stress", "dipole", "charges")
# Neighbours that there is room for, relative to those of the first list and of later ones: what
# has outgrown its room once is likely to go on.
_FIRST_ROOM, _LATER_ROOM = 1.1, 1.3
# Atoms per Å³ in condensed matter, roughly: what a gas that outgrows its room is on its way to.
_DENSE = 0.1


class _Program(NamedTuple):
    """The network compiled for one shape, in three parts.

    Attributes:
        weights: what the network's weights alone decide.
        prepare: from that and a neighbour list to what stays until the next list.
        step: from that, positions, cell and volume to what the network predicts.
    """

    weights: list[Array]
    prepare: Callable[[list[Array], GraphBatch], list[Array]]
    step: Callable[[list[Array], list[NDArray[np.floating]]], dict[str, Array]]


class _Neighborhood(NamedTuple):
    """A structure when its neighbour list was built, and what stays the same until the next one.

    Attributes:
        structure: the atoms.
        step: from ``prepared``, positions, cell and volume to what the network predicts.
        prepared: whatever does not depend on these, on the device.
        atomic_energies: E0 of each atom, eV, ``[n]``; zeros for a model without energy.
    """

    structure: Structure
    step: Callable[[list[Array], list[NDArray[np.floating]]], dict[str, Array]]
    prepared: list[Array]
    atomic_energies: NDArray[np.float64]


class MACECalculator(Calculator):
    """A model bundle as ASE calculator.

    One evaluation gives every property, in ASE's units; ``energies`` include E0s, which are added
    in float64, and dipoles are in e·Å. What else the model is told, such as ``total_charge``, is
    read from ``atoms.info`` and ``atoms.arrays`` (there, too, with ``REF_`` before its name), and
    assumed to be what ``mace-jax-predict`` assumes where it is absent.

    Attributes:
        implemented_properties: what this model predicts; stress of periodic structures alone.
        n_compilations: how often the network was compiled: for every number of atoms once, and
            again when neighbours outgrow their room.
        n_neighbor_lists: how often neighbours were searched.
    """

    def __init__(
        self,
        model: Path | str,
        *,
        head: str | None = None,
        dtype: str | None = None,
        skin: float = 0.3,
    ) -> None:
        """Read the bundle; the network is compiled by the first evaluation.

        Args:
            model: the bundle.
            head: readout head; by default that of ``atoms.info["head"]``, or the only one.
            dtype: ``float32`` or ``float64``; by default the bundle's. Jax's own switch for
                float64 is neither needed nor changed.
            skin: what the neighbour list reaches beyond the cutoff, Å; it is built anew when an
                atom has moved by half of this. With the default, MD at 300 K does so every 8 to 11
                steps of 0.5 fs: for 512 atoms 2 ms a step. On a CPU 0.3 Å made their steps no
                slower than no skin at all, 0.5 Å made them 18 % slower.

        Raises:
            ArtifactError: the bundle is missing or damaged.
            ConfigError: the head, dtype or skin is impossible.
        """
        super().__init__()
        bundle = read_model_bundle(Path(model))
        _check_options(bundle, head, dtype, skin)
        self.n_compilations = self.n_neighbor_lists = 0
        self.implemented_properties = [
            *(_ENERGY_PROPERTIES if predicts_energy(bundle.config) else ()),
            *_DIPOLE_PROPERTIES.get(bundle.config.model, ()),
        ]
        self._bundle = bundle if dtype in (None, bundle.dtype) else bundle.astype(str(dtype))
        self._head, self._r_max = head, bundle.config.r_max
        self._inputs = tuple(spec.source for spec in model_inputs(bundle.config))
        self._builder = graph_builder(bundle)._replace(r_max=self._r_max + skin)
        self._neighborhood: _Neighborhood | None = None
        self._caps: dict[int, Caps] = {}  # by number of atoms
        with self._precision():
            graphdef, state = nnx.split(load_model(self._bundle, str(model), FROZEN))
        self._parameters = state
        self._network = lambda parameters: nnx.merge(graphdef, parameters)
        self._programs: dict[Hashable, _Program] = {}

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
        return changes if _same_inputs(old, new) else [*changes, "inputs"]

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
        current: Any = self.atoms
        structure = self._structure(current)
        check_structure(structure)
        with self._precision():
            near = self._neighborhood
            if near is None or not self._holds(near.structure, structure):
                near = self._neighborhood = self._search(structure)
            found = near.step(near.prepared, self._geometry(structure))
        self.results = self._results(found, structure, near.atomic_energies)

    def _precision(self) -> Any:
        """Return a context in which jax computes in the bundle's dtype."""
        return jax.enable_x64(self._bundle.dtype == "float64")

    def _structure(self, atoms: Atoms) -> Structure:
        """Return the atoms and what the model is told of them.

        Raises:
            DataError: an input is no number.
        """
        columns = {**atoms.arrays, **atoms.info}
        inputs = {}
        for name in self._inputs:
            for key in (f"REF_{name}", name):
                if key in columns:
                    inputs[name] = _numbers(columns[key], key)
        return Structure(
            atoms.numbers.astype(np.int64),
            atoms.positions,
            atoms.cell.array,
            atoms.pbc,
            head=str(atoms.info.get("head", "Default")),
            place=_PLACE,
            inputs=inputs,
        )

    def _holds(self, old: Structure, new: Structure) -> bool:
        """Return whether a list built for ``old`` must have every pair of ``new`` in the cutoff.

        Seen from the old cell, that is with its deformation undone, a pair of the cutoff's length
        is longer by at most the inverse of the least stretch, and each end has moved.
        """
        if not _same_atoms(old, new):
            return False
        positions, reach = new.positions, self._r_max
        if not np.array_equal(old.cell, new.cell):
            if np.isinf([volume(old), volume(new)]).any():
                return False
            stretch = np.linalg.solve(old.cell, new.cell)
            positions = np.linalg.solve(stretch.T, positions.T).T
            reach /= np.linalg.svd(stretch, compute_uv=False).min()
        moved = np.sqrt(((positions - old.positions) ** 2).sum(axis=1).max())
        return bool(reach + 2 * moved <= self._builder.r_max)

    def _geometry(self, structure: Structure) -> list[NDArray[np.floating]]:
        """Return positions, cell and volume: what moves while a neighbour list is kept."""
        arrays = (structure.positions, structure.cell, volume(structure))
        return [np.asarray(array, self._bundle.dtype) for array in arrays]

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
        caps = _room(graph, self._builder.r_max, self._caps.get(len(structure)))
        self._caps[len(structure)] = caps
        batch = pad_batch([graph], caps, self._bundle.dtype)
        program = self._program(batch, self._geometry(structure))
        energies = np.zeros(len(structure))
        if predicts_energy(self._bundle.config):
            of_element = self._bundle.atomic_energies[self._bundle.heads[graph.head]]
            elements = self._bundle.config.atomic_numbers
            energies = np.array([of_element[number] for number in elements])[graph.species]
        prepared = program.prepare(program.weights, batch)
        return _Neighborhood(graph.structure, program.step, prepared, energies)

    def _program(self, batch: GraphBatch, geometry: list[NDArray[np.floating]]) -> _Program:
        """Return the network compiled for a batch of this shape."""
        periodic = bool(np.isfinite(geometry[-1]))
        shape = (periodic, *(array.shape for array in jax.tree.leaves(batch)))
        if shape not in self._programs:
            staying = self._parameters, batch
            whole = split_computation(partial(self._predicted, periodic), staying, geometry)
            network = split_computation(
                lambda parameters, batch: whole.prepare((parameters, batch)), *staying
            )
            self._programs[shape] = _Program(
                jax.jit(network.prepare)(self._parameters),
                jax.jit(network.finish),
                jax.jit(whole.finish),
            )
        return self._programs[shape]

    def _predicted(
        self, periodic: bool, staying: tuple[nnx.State, GraphBatch], geometry: list[Array]
    ) -> dict[str, Array]:
        """Return what the network predicts of a batch whose atoms and cell have moved."""
        self.n_compilations += 1  # this runs only when it is traced
        (parameters, batch), (positions, cell, volume) = staying, geometry
        batch = batch._replace(
            positions=batch.positions.at[: len(positions)].set(positions),
            cell=batch.cell.at[0].set(cell),
            volume=batch.volume.at[0].set(volume),
        )
        # beyond the cutoff a pair is padding, even where radii make the repulsion reach further
        lengths = jnp.linalg.norm(pair_vectors(batch, self._r_max), axis=1)
        batch = batch._replace(pair_mask=batch.pair_mask & (lengths < self._r_max))
        found = properties(self._network(parameters), batch)
        if not periodic:
            found.pop("stress", None)
        return {name: found[name] for name in _FETCHED if name in found}

    def _results(
        self,
        predicted: Mapping[str, Array],
        structure: Structure,
        atomic_energies: NDArray[np.float64],
    ) -> dict[str, Any]:
        """Return ASE's properties of what the network says of the padded batch."""
        n = len(structure)
        found = {name: np.array(array, np.float64) for name, array in predicted.items()}
        results: dict[str, Any] = {}
        if "energy" in found:
            results["energy"] = float(found["energy"][0] + atomic_energies.sum())
            results["free_energy"] = results["energy"]
            results["energies"] = found["node_energy"][:n] + atomic_energies
            results["forces"] = found["forces"][:n]
            if "stress" in found:
                results["stress"] = full_3x3_to_voigt_6_stress(found["stress"][0])
        if "dipole" in found:
            in_debye = self._bundle.config.model != "AtomicDielectricMACE"
            results["dipole"] = found["dipole"][0] * (DEBYE if in_debye else 1)
        if "charges" in found:
            results["charges"] = found["charges"][:n]
        for name, value in results.items():
            if not np.isfinite(value).all():
                message = (
                    f"{_PLACE}: predicted {name} is not finite; "
                    "move atoms apart that are at the same place, or check the model"
                )
                raise DataError(message)
        return results


def _check_options(bundle: ModelBundle, head: str | None, dtype: str | None, skin: float) -> None:
    if head is not None and head not in bundle.heads:
        message = f"head: {head!r}, expected one of {list(bundle.heads)}; correct the head"
        raise ConfigError(message)
    if dtype not in (None, *_DTYPES):
        message = f"dtype: {dtype!r}, expected one of {list(_DTYPES)}; correct the dtype"
        raise ConfigError(message)
    if not (np.isfinite(skin) and skin >= 0):
        message = f"skin: {skin}, expected a number of Å ≥ 0; correct the skin"
        raise ConfigError(message)


def _numbers(value: Any, name: str) -> NDArray[np.float64]:
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        message = f"{_PLACE}: {name} cannot be used: {error}; correct or remove it"
        raise DataError(message) from error


def _same_inputs(old: Structure, new: Structure) -> bool:
    return (
        old.head == new.head
        and old.inputs.keys() == new.inputs.keys()
        and all(np.array_equal(value, new.inputs[name]) for name, value in old.inputs.items())
    )


def _same_atoms(old: Structure, new: Structure) -> bool:
    """Return whether two structures differ in positions and cell at most."""
    return (
        np.array_equal(old.atomic_numbers, new.atomic_numbers)
        and np.array_equal(old.pbc, new.pbc)
        and _same_inputs(old, new)
    )


def _room(graph: Graph, r_max: float, last: Caps | None) -> Caps:
    """Return the padded shape for a graph.

    Args:
        graph: one structure.
        r_max: cutoff of its pairs, Å.
        last: what the atoms had before; kept if the graph fits, and else made larger.
    """
    neighbors = graph.n_neighbors
    if last is not None and _fits(neighbors, last):
        return last
    expected = _FIRST_ROOM * neighbors
    if last is not None:
        expected = _LATER_ROOM * np.maximum(neighbors, _DENSE * 4 / 3 * np.pi * r_max**3)
    if not graph.structure.pbc.any():
        expected = np.minimum(expected, len(neighbors) - 1)
    sizes = GraphSizes.from_lists([np.ceil(expected).astype(np.int64)])
    caps = padded_caps(sizes, Batches.from_lists([[0]]))
    return caps if last is None else Caps(*map(max, astuple(caps), astuple(last)))


def _fits(neighbors: NDArray[np.integer], caps: Caps) -> bool:
    rows = n_rows(neighbors, caps.n_neighbor).sum() + 1  # one for the padding atom
    return bool(rows <= caps.n_row and neighbors.sum() <= caps.n_edge)
