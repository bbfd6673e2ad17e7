"""The loss: weighted mean squares of energy per atom, forces and stress."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax import Array

from mace_jax.artifacts.train_config_sections import LossConfig
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.model.energy_forces import EnergyForces

Predicted = Mapping[str, Array]
Loss = Callable[[Predicted, GraphBatch], Array]


def make_loss(config: LossConfig) -> Loss:
    """Return the loss of a batch."""
    return lambda predicted, batch: weighted_energy_forces_stress_loss(
        EnergyForces(**predicted), batch, config
    )


def weighted_energy_forces_stress_loss(
    predicted: EnergyForces, batch: GraphBatch, weights: LossConfig
) -> Array:
    """Return the loss of a batch.

    The energy term is a mean over graphs of the squared error per atom, the forces term a mean
    over all components of all atoms, the stress term over the components of all graphs. A missing
    label has weight 0. Padding counts nowhere.

    Args:
        predicted: of the network.
        batch: labels and their weights.
        weights: of the three terms.

    Returns: scalar.

    Source: mace-torch ``WeightedEnergyForcesStressLoss``.
    """
    n_graph = batch.graph_mask.sum()
    n_node = batch.node_mask.sum()
    loss = jnp.zeros((), predicted.energy.dtype)
    if weights.energy_weight:
        error = jnp.square((batch.energy - predicted.energy) / batch.n_node)
        loss += weights.energy_weight * (batch.energy_weight * error).sum() / n_graph
    if weights.forces_weight:
        error = jnp.square(batch.forces - predicted.forces).sum(axis=1)
        node_weight = batch.forces_weight[batch.node_graph]
        loss += weights.forces_weight * (node_weight * error).sum() / (3 * n_node)
    if weights.stress_weight:
        error = jnp.square(batch.stress - predicted.stress).sum(axis=(1, 2))
        loss += weights.stress_weight * (batch.stress_weight * error).sum() / (9 * n_graph)
    return loss
