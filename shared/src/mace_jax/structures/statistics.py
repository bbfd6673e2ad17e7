"""Numbers of a training set that the model is scaled by, computed in float64."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mace_jax.errors import DataError
from mace_jax.structures.atomic_energies import total_atomic_energy
from mace_jax.structures.neighbor_list import neighbor_list
from mace_jax.structures.structure import Structure


@dataclass(frozen=True)
class Statistics:
    """Statistics of a training set, as in Torch MACE's ``statistics.json``.

    Attributes:
        atomic_numbers: the elements, ascending.
        atomic_energies: E0 by atomic number, eV.
        avg_num_neighbors: mean neighbours within ``r_max`` of the atoms that have any.
        mean: mean over structures with an energy of (E - ΣE0) / n, eV.
        std: root mean square of all labelled force components, eV/Å.
        r_max: cutoff, Å.
    """

    atomic_numbers: tuple[int, ...]
    atomic_energies: Mapping[int, float]
    avg_num_neighbors: float
    mean: float
    std: float
    r_max: float


def compute_statistics(
    structures: Iterable[Structure],
    atomic_numbers: tuple[int, ...],
    atomic_energies: Mapping[int, float],
    r_max: float,
) -> Statistics:
    """Compute the statistics of a training set; missing labels are left out, not taken as zero.

    Without labelled forces ``std`` is 1 and without energies ``mean`` is 0: no scaling, no shift.

    Raises:
        DataError: no two atoms are closer than ``r_max``, so there is nothing to learn.
    """
    mean_sum, n_energies = 0.0, 0
    force_sum, n_forces = 0.0, 0
    n_edges, n_receivers = 0, 0
    for structure in structures:
        edges = neighbor_list(structure, r_max)
        n_edges += len(edges.receivers)
        n_receivers += len(np.unique(edges.receivers))
        if "energy" in structure.properties:
            reference = total_atomic_energy(structure.atomic_numbers, atomic_energies)
            mean_sum += (float(structure.properties["energy"]) - reference) / len(structure)
            n_energies += 1
        if "forces" in structure.properties:
            force_sum += float(np.square(structure.properties["forces"]).sum())
            n_forces += structure.properties["forces"].size
    if not n_edges:
        message = f"no two atoms are closer than r_max {r_max} Å; raise --r_max or check the units"
        raise DataError(message)
    return Statistics(
        atomic_numbers=atomic_numbers,
        atomic_energies=atomic_energies,
        avg_num_neighbors=n_edges / n_receivers,
        mean=mean_sum / n_energies if n_energies else 0.0,
        std=float(np.sqrt(force_sum / n_forces)) if n_forces else 1.0,
        r_max=r_max,
    )
