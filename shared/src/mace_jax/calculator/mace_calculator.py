"""The ASE calculator: energies, forces, stress and dipoles of model bundles for MD and relaxation.

A neighbour list is kept for as long as it must hold every pair within the cutoff, so that a step
sends positions and cell to the device, runs one compiled function and fetches its results at once.
"""

from collections.abc import Hashable, Sequence
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

from mace_jax.architecture import model_inputs, predicts_energy
from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.calculator.committee import read_committee
from mace_jax.calculator.compiled_network import CompiledNetwork, Member
from mace_jax.calculator.neighbor_search import NeighborSearch
from mace_jax.calculator.neighborhood import same_inputs
from mace_jax.calculator.results import ase_results, member_results, property_names
from mace_jax.calculator.structure_of_atoms import structure_of
from mace_jax.errors import ConfigError, DataError
from mace_jax.structures.structure import Structure

# What ASE calls what of a structure.
_GEOMETRY = {"positions": "positions", "numbers": "atomic_numbers", "cell": "cell", "pbc": "pbc"}


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
        self._dtype = first.dtype
        self._inputs = tuple(spec.source for spec in model_inputs(first.config))
        self._networks: dict[Hashable, CompiledNetwork] = {}
        with self._precision():
            self._members = [
                Member(bundle, source, self._networks) for source, bundle in bundles.items()
            ]
        self._search = NeighborSearch(self._members, head, skin)

    @property
    def n_neighbor_lists(self) -> int:
        """How often neighbours were searched."""
        return self._search.n_lists

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
            near, geometry = self._search.near(structure)
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
            near, geometry = self._search.near(structure)
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
            near, geometry = self._search.near(structure)
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
            message = "atoms: none given and none evaluated yet; give atoms"
            raise DataError(message)
        return atoms

    def _structure(self, atoms: Atoms) -> Structure:
        return structure_of(atoms, self._inputs)


def _check_options(bundle: ModelBundle, head: str | None, skin: float) -> None:
    if head is not None and head not in bundle.heads:
        message = f"head: {head!r}, expected one of {list(bundle.heads)}; correct the head"
        raise ConfigError(message)
    if not (np.isfinite(skin) and skin >= 0):
        message = f"skin: {skin}, expected a number of Å ≥ 0; correct the skin"
        raise ConfigError(message)


def _one_or_all(values: list[Any]) -> Any:
    """Return what a model says, or of a committee the list of what its members say."""
    return values[0] if len(values) == 1 else values
