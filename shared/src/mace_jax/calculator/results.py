"""ASE's results, by ASE's and mace-torch's names, from what one network or several predict."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import ArrayLike, NDArray

from mace_jax.architecture import predicts_energy
from mace_jax.artifacts.model_bundle import ModelConfig
from mace_jax.errors import DataError
from mace_jax.units import DEBYE

_ENERGY_PROPERTIES = ("energy", "free_energy", "energies", "node_energy", "forces", "stress")
_DIPOLE_PROPERTIES = {
    "EnergyDipolesMACE": ("dipole",),
    "AtomicDipolesMACE": ("dipole",),
    "AtomicDielectricMACE": ("dipole", "charges", "polarizability"),
}
# Of which a committee tells every member's value and their variance.
_COMPARED = ("energy", "forces", "stress", "dipole")


def property_names(config: ModelConfig, n_members: int) -> list[str]:
    """Return what is computed by models of this configuration."""
    names = [
        *(_ENERGY_PROPERTIES if predicts_energy(config) else ()),
        *_DIPOLE_PROPERTIES.get(config.model, ()),
    ]
    if n_members > 1:
        compared = [name for name in _COMPARED if name in names]
        names += [f"{name}_{kind}" for name in compared for kind in ("comm", "var")]
    return names


def member_results(
    predicted: Mapping[str, ArrayLike], atomic_energies: NDArray[np.float64], config: ModelConfig
) -> dict[str, Any]:
    """Return what one network predicts of the first graph of a padded batch.

    Args:
        predicted: by the network; energies without E0.
        atomic_energies: E0 of each atom, eV, ``[n]``.
        config: of the model.

    Returns: by ASE's names, in ASE's units, the stress ``[3, 3]``.

    Raises:
        DataError: a number is not finite.
    """
    n = len(atomic_energies)
    found = {name: np.array(array, np.float64) for name, array in predicted.items()}
    results: dict[str, Any] = {}
    if "energy" in found:
        results["energy"] = float(found["energy"][0] + atomic_energies.sum())
        results["node_energy"] = found["node_energy"][:n]
        results["energies"] = results["node_energy"] + atomic_energies
        results["forces"] = found["forces"][:n]
    if "dipole" in found:
        in_debye = config.model != "AtomicDielectricMACE"
        results["dipole"] = found["dipole"][0] * (DEBYE if in_debye else 1)
    if "charges" in found:
        results["charges"] = found["charges"][:n]
    results |= {name: found[name][0] for name in ("stress", "polarizability") if name in found}
    for name, value in results.items():
        if not np.isfinite(value).all():
            message = (
                f"atoms: predicted {name} is not finite; "
                "move atoms apart that are at the same place, or check the model"
            )
            raise DataError(message)
    return results


def ase_results(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean over ``members``, stress in Voigt's order.

    Of several members ``energy_comm``, ``forces_comm``, … are the values of each, and
    ``energy_var``, … their variance (divided by their number), stress as ``[3, 3]``: as mace-torch.
    """
    results = dict(members[0])
    if len(members) > 1:
        values = {name: np.array([member[name] for member in members]) for name in results}
        results = {name: _number_or_array(array.mean(axis=0)) for name, array in values.items()}
        for name in _COMPARED:
            if name in values:
                results[f"{name}_comm"] = values[name]
                results[f"{name}_var"] = _number_or_array(values[name].var(axis=0))
    if "energy" in results:
        results["free_energy"] = results["energy"]
    if "stress" in results:
        results["stress"] = full_3x3_to_voigt_6_stress(results["stress"])
    return results


def _number_or_array(array: NDArray[np.float64]) -> Any:
    return array if array.ndim else float(array)
