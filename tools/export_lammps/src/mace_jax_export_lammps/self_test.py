"""A few atoms whose energy and forces are kept in the file, and computed anew where LAMMPS runs."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.architecture import model_inputs
from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.errors import CheckFailedError
from mace_jax.structures.structure import Structure
from mace_jax_export_lammps.neighborhood import NeighborEntries

# Relative to the largest number, at least 1: what another order of sums or another processor gives.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
# Atoms of as many elements as the model has, up to this number.
_N_ATOMS = 6


def reference(bundle: ModelBundle, inputs: Mapping[str, float], source: str) -> dict[str, Any]:
    """Return the cluster and the model's numbers, as the file keeps them; needs jax.

    They are computed as ``mace-jax-predict`` does, not as in LAMMPS.

    Args:
        bundle: of one head.
        inputs: what else it is told.
        source: its file, for messages.
    """
    import jax

    from mace_jax.model.predict import predict

    structure = _cluster(bundle, inputs)
    with jax.enable_x64(bundle.dtype == "float64"):
        found = predict(bundle, source, [structure], n_edge=64).of_structure(0)
    return {
        "atomic_numbers": structure.atomic_numbers.tolist(),
        "positions": structure.positions.tolist(),
        "energy": float(found["energy"]),
        "forces": found["forces"].tolist(),
        "tolerance": TOLERANCE[bundle.dtype],
    }


def _cluster(bundle: ModelBundle, inputs: Mapping[str, float]) -> Structure:
    """Return a small cluster of the model's elements, each atom within the cutoff of others."""
    elements = np.array(bundle.config.atomic_numbers)
    numbers = elements[np.linspace(0, len(elements) - 1, _N_ATOMS).astype(int)]
    corners = np.argwhere(np.ones((2, 2, 2)))[:_N_ATOMS]
    offsets = np.random.default_rng(5).uniform(-0.1, 0.1, corners.shape)
    positions = 0.45 * bundle.config.r_max * (corners + offsets)
    told = {
        spec.source: np.full(1 if spec.per == "graph" else _N_ATOMS, inputs[spec.name])
        for spec in model_inputs(bundle.config)
    }
    return Structure(
        numbers, positions, np.zeros((3, 3)), np.zeros(3, bool), place="self-test", inputs=told
    )


def entries_of(record: Mapping[str, Any], bundle: ModelBundle) -> NeighborEntries:
    """Return the cluster as LAMMPS would give it: no ghosts, all entries."""
    positions = np.array(record["positions"])
    species = np.searchsorted(bundle.config.atomic_numbers, record["atomic_numbers"])
    centers, neighbors = np.nonzero(~np.eye(len(positions), dtype=bool))
    vectors = positions[neighbors] - positions[centers]
    return NeighborEntries(species, len(positions), centers, neighbors, vectors)


def check_self_test(
    record: Mapping[str, Any],
    entries: NeighborEntries,
    evaluate: Callable[[NeighborEntries], tuple[NDArray[np.float64], NDArray[np.float64]]],
    source: str,
) -> None:
    """Compare what is computed here with the numbers that the file keeps.

    Args:
        record: of ``reference``.
        entries: of ``entries_of``.
        evaluate: from a list to the energy of each atom and the derivatives by the entries.
        source: the file, for messages.

    Raises:
        CheckFailedError: they differ.
    """
    energies, gradient = evaluate(entries)
    forces = np.zeros((entries.n_local, 3))
    np.add.at(forces, entries.centers, gradient)
    np.add.at(forces, entries.neighbors, -gradient)
    found = {"energy": energies.sum(), "forces": forces}
    for name, values in found.items():
        kept = np.array(record[name])
        difference = float(np.abs(values - kept).max() / max(1.0, np.abs(kept).max()))
        if not difference <= record["tolerance"]:
            message = (
                f"{source}: self-test: {name} differs by {difference:.1e} of its size from what "
                f"the file says, expected at most {record['tolerance']:.0e}; create the file "
                "again with the versions of jax and mace-jax that are installed here"
            )
            raise CheckFailedError(message)
