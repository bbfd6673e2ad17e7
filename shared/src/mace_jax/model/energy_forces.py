"""Energy, forces and stress of a batch from one network evaluation and one gradient.

The energy depends on positions and cell through the vectors of pairs alone, so its gradient with
respect to those gives both forces and stress.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.equivariance.irreps import SCALAR
from mace_jax.model.mace import MACE, DipoleMACE
from mace_jax.model.neighbors import nodes_from_rows, slots_from_pairs

# Rows of a second derivative that are computed at once.
_JACOBIAN_ROWS = 16


class EnergyForces(NamedTuple):
    """What the network says about a batch.

    Attributes:
        energy: interaction energy (without E0), eV, ``[n_graph]``; padding graphs are 0.
        node_energy: the same for each node, eV, ``[n_node]``.
        forces: -dE/dx, eV/Å, ``[n_node, 3]``.
        virials: -dE/dstrain, eV, ``[n_graph, 3, 3]``.
        stress: (1/V) dE/dstrain, eV/Å³, ``[n_graph, 3, 3]``; zero without a periodic cell.
    """

    energy: Array
    node_energy: Array
    forces: Array
    virials: Array
    stress: Array


def pair_vectors(batch: GraphBatch, r_max: float) -> Array:
    """Return x[receiver] - x[sender] + shift @ cell, Å, ``[n_pair, 3]``.

    A padding pair gets a constant vector longer than ``r_max``: it contributes nothing, and
    unlike a zero vector it has a finite derivative.
    """
    cell = batch.cell[batch.node_graph[batch.pair_receivers]]
    vectors = (
        batch.positions[batch.pair_receivers]
        - batch.positions[batch.pair_senders]
        + jnp.einsum("pi,pij->pj", batch.pair_shifts, cell)
    )
    beyond = jnp.full(3, 2 * r_max, vectors.dtype)
    return jnp.where(batch.pair_mask[:, None], vectors, beyond)


def energy_and_forces(model: MACE, batch: GraphBatch) -> EnergyForces:
    """Evaluate ``model`` on ``batch``."""
    vectors = pair_vectors(batch, model.config.r_max)
    return differentiate(lambda vectors: (model(vectors, batch), None), vectors, batch)[0]


def differentiate(
    node_energies: Callable[[Array], tuple[Array, Any]], vectors: Array, batch: GraphBatch
) -> tuple[EnergyForces, Any]:
    """Return energies and their derivatives, and what else the network computed.

    Args:
        node_energies: from pair vectors to the energy of each node, and anything beside.
        vectors: of the pairs, Å, ``[n_pair, 3]``.
        batch: the graphs.
    """

    def total_energy(vectors: Array) -> tuple[Array, tuple[Array, Any]]:
        node_energy, rest = node_energies(vectors)
        return node_energy.sum(), (node_energy, rest)

    gradient, (node_energy, rest) = jax.grad(total_energy, has_aux=True)(vectors)
    received = batch.table.slot_direction.astype(vectors.dtype)[..., None]
    pull = slots_from_pairs(gradient, batch)
    forces = -nodes_from_rows((received * pull).sum(axis=1), batch)
    # each of a pair's two slots holds half of its virial
    halves = slots_from_pairs(vectors[:, :, None] * gradient[:, None, :] / 2, batch)
    strain_gradient = sum_over_nodes(nodes_from_rows(halves.sum(axis=1), batch), batch)
    symmetric = (strain_gradient + strain_gradient.swapaxes(1, 2)) / 2
    result = EnergyForces(
        energy=sum_over_nodes(node_energy, batch),
        node_energy=node_energy,
        forces=forces,
        virials=-symmetric,
        stress=symmetric / batch.volume[:, None, None],
    )
    return result, rest


def sum_over_nodes(values: Array, batch: GraphBatch) -> Array:
    """Sum ``[n_node, …]`` over the nodes of each graph: ``[n_graph, …]``."""
    n_graph = len(batch.n_node)
    return jax.ops.segment_sum(values, batch.node_graph, n_graph, indices_are_sorted=True)


def hessian(model: MACE, batch: GraphBatch) -> Array:
    """Return d²E/dx², eV/Å², ``[n_node, 3, n_node, 3]``; padding nodes are 0."""

    def negative_forces(positions: Array) -> Array:
        return -energy_and_forces(model, batch._replace(positions=positions)).forces

    return jacobian_by_rows(negative_forces, batch.positions)


def jacobian_by_rows(function: Callable[[Array], Array], x: Array) -> Array:
    """Return the Jacobian of ``function`` at ``x``, which has its shape: ``[*x.shape, *x.shape]``.

    A few rows at a time: all at once would need the network's memory once for each.
    """
    _, pull_back = jax.vjp(function, x)
    rows = jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)
    found = jax.lax.map(lambda row: pull_back(row)[0], rows, batch_size=_JACOBIAN_ROWS)
    return found.reshape(*x.shape, *x.shape)


def descriptors(
    model: MACE | DipoleMACE,
    batch: GraphBatch,
    *,
    invariants_only: bool = True,
    num_layers: int | None = None,
) -> Array:
    """Return the features of each node after every layer, joined: ``[n_node, n_features]``.

    Args:
        model: the network.
        batch: the graphs.
        invariants_only: leave out what changes when a structure is rotated; otherwise channels
            come before components, as in mace-torch's ``node_feats``.
        num_layers: the first so many layers; by default all.
    """
    vectors = pair_vectors(batch, model.config.r_max)
    layers = model.layers(model.embed(batch), vectors, batch)
    features = [
        x.swapaxes(1, 2).reshape(len(x), -1)
        for layer in layers[:num_layers]
        for irrep, x in layer.items()
        if irrep == SCALAR or not invariants_only
    ]
    return jnp.where(batch.node_mask[:, None], jnp.concatenate(features, axis=1), 0)
