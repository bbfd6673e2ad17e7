"""Errors of predictions against the labels the input came with."""

from collections.abc import Sequence

import numpy as np

from mace_jax.artifacts.predictions import Predictions
from mace_jax.structures.structure import Structure


def label_errors(predictions: Predictions, structures: Sequence[Structure]) -> dict[str, float]:
    """Return RMSE and MAE of energy per atom (eV), forces (eV/Å) and stress (eV/Å³).

    Also ``rel_rmse_f``: the force RMSE relative to the labels' root mean square, per cent.
    A quantity without labels is left out, and so is one that the model does not predict.
    """
    differences: dict[str, list[np.ndarray]] = {"e_per_atom": [], "f": [], "stress": []}
    force_labels = []
    for index, structure in enumerate(structures):
        predicted, labels = predictions.of_structure(index), structure.properties
        known = predicted.keys() & labels.keys()
        if "energy" in known:
            error = (predicted["energy"] - labels["energy"]) / len(structure)
            differences["e_per_atom"].append(np.atleast_1d(error))
        if "forces" in known:
            differences["f"].append((predicted["forces"] - labels["forces"]).ravel())
            force_labels.append(labels["forces"].ravel())
        if "stress" in known:
            differences["stress"].append((predicted["stress"] - labels["stress"]).ravel())
    errors = {}
    for name, parts in differences.items():
        if parts:
            all_parts = np.concatenate(parts)
            errors[f"rmse_{name}"] = float(np.sqrt(np.mean(all_parts**2)))
            errors[f"mae_{name}"] = float(np.mean(np.abs(all_parts)))
    if force_labels:
        size = np.sqrt(np.mean(np.concatenate(force_labels) ** 2))
        if size > 0:
            errors["rel_rmse_f"] = float(100 * errors["rmse_f"] / size)
    return errors
