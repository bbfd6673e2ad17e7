"""Sums of errors over batches, and the metrics that follow from them."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.model.energy_forces import EnergyForces
from mace_jax_train.loss import Predicted


class ErrorSums(NamedTuple):
    """Sums over the labels of one quantity: of errors, of their squares, and of the labels."""

    n: Array
    absolute: Array
    squared: Array
    label_absolute: Array
    label_squared: Array


class BatchErrors(NamedTuple):
    """What a batch adds to the metrics; ``loss`` is summed over graphs."""

    n_graph: Array
    loss: Array
    energy: ErrorSums
    energy_per_atom: ErrorSums
    forces: ErrorSums
    stress: ErrorSums


def batch_errors(quantities: Predicted, batch: GraphBatch, loss: Array) -> BatchErrors:
    """Sum the errors of a batch over every label, unweighted; one of weight 0 is no label."""
    predicted = EnergyForces(**quantities)
    n_graph = batch.graph_mask.sum()
    has_energy, has_stress = batch.energy_weight > 0, batch.stress_weight > 0
    has_forces = (batch.forces_weight > 0)[batch.node_graph] & batch.node_mask
    return BatchErrors(
        n_graph=n_graph,
        loss=loss * n_graph,
        energy=_sums(predicted.energy, batch.energy, has_energy),
        energy_per_atom=_sums(
            predicted.energy / batch.n_node, batch.energy / batch.n_node, has_energy
        ),
        forces=_sums(predicted.forces, batch.forces, has_forces),
        stress=_sums(predicted.stress, batch.stress, has_stress),
    )


def _sums(predicted: Array, label: Array, present: Array) -> ErrorSums:
    present = present.reshape(-1, *[1] * (label.ndim - 1))
    error = jnp.where(present, predicted - label, 0)
    label = jnp.where(present, label, 0)
    return ErrorSums(
        n=present.sum() * (label.size // len(label)),
        absolute=jnp.abs(error).sum(),
        squared=jnp.square(error).sum(),
        label_absolute=jnp.abs(label).sum(),
        label_squared=jnp.square(label).sum(),
    )


def metrics(batches: list[BatchErrors]) -> dict[str, float | None]:
    """Return the metrics of an epoch, summed in float64.

    Returns: loss; MAE and RMSE of energy (``e``, eV), energy per atom (``e_per_atom``, eV), forces
        (``f``, eV/Å) and stress (``stress``, eV/Å³); the same relative to the labels' own size for
        forces and stress, in per cent. None where nothing has the label.
    """
    total = {
        name: np.sum([np.asarray(getattr(errors, name), np.float64) for errors in batches], axis=0)
        for name in BatchErrors._fields
    }
    result: dict[str, float | None] = {"loss": float(total["loss"] / total["n_graph"])}
    for name, short in (
        ("energy", "e"),
        ("energy_per_atom", "e_per_atom"),
        ("forces", "f"),
        ("stress", "stress"),
    ):
        sums = ErrorSums(*total[name])
        known = sums.n > 0
        result[f"mae_{short}"] = float(sums.absolute / sums.n) if known else None
        result[f"rmse_{short}"] = float(np.sqrt(sums.squared / sums.n)) if known else None
        if short in ("f", "stress"):
            known = known and sums.label_squared > 0
            result[f"rel_mae_{short}"] = (
                float(100 * sums.absolute / sums.label_absolute) if known else None
            )
            result[f"rel_rmse_{short}"] = (
                float(100 * np.sqrt(sums.squared / sums.label_squared)) if known else None
            )
    return result
