"""Energy, forces and stress of a batch from one network evaluation and one gradient.

The energy depends on positions and cell through the edge vectors alone, so its gradient with
respect to those gives both forces and stress.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.model.mace import MACE


class EnergyForces(NamedTuple):
    """What the network says about a batch.

    Attributes:
        energy: interaction energy (without E0), eV, ``[n_graph]``; padding graphs are 0.
        node_energy: the same for each node, eV, ``[n_node]``.
        forces: -dE/dx, eV/Å, ``[n_node, 3]``.
        stress: (1/V) dE/dstrain, eV/Å³, ``[n_graph, 3, 3]``; zero without a periodic cell.
    """

    energy: Array
    node_energy: Array
    forces: Array
    stress: Array


def edge_vectors(batch: GraphBatch, r_max: float) -> Array:
    """Return x[receiver] - x[sender] + shift @ cell, Å, ``[n_edge, 3]``.

    A padding edge gets a constant vector longer than ``r_max``: it contributes nothing, and
    unlike a zero vector it has a finite derivative.
    """
    cell = batch.cell[batch.node_graph[batch.receivers]]
    vectors = (
        batch.positions[batch.receivers]
        - batch.positions[batch.senders]
        + jnp.einsum("ei,eij->ej", batch.shifts, cell)
    )
    beyond = jnp.full(3, 2 * r_max, vectors.dtype)
    return jnp.where(batch.edge_mask[:, None], vectors, beyond)


def energy_and_forces(model: MACE, batch: GraphBatch) -> EnergyForces:
    """Evaluate ``model`` on ``batch``."""
    vectors = edge_vectors(batch, model.config.r_max)
    n_node, n_graph = len(batch.species), len(batch.n_node)

    def total_energy(vectors: Array) -> tuple[Array, Array]:
        node_energy = model(vectors, batch)
        return node_energy.sum(), node_energy

    gradient, node_energy = jax.grad(total_energy, has_aux=True)(vectors)
    forces = jax.ops.segment_sum(gradient, batch.senders, n_node) - jax.ops.segment_sum(
        gradient, batch.receivers, n_node, indices_are_sorted=True
    )
    strain_gradient = jax.ops.segment_sum(
        jnp.einsum("ea,eb->eab", vectors, gradient),
        batch.node_graph[batch.receivers],
        n_graph,
        indices_are_sorted=True,
    )
    symmetric = (strain_gradient + strain_gradient.swapaxes(1, 2)) / 2
    return EnergyForces(
        energy=jax.ops.segment_sum(node_energy, batch.node_graph, n_graph, indices_are_sorted=True),
        node_energy=node_energy,
        forces=forces,
        stress=symmetric / batch.volume[:, None, None],
    )
