"""Dipole moments, charges and polarizabilities of a batch."""

import jax.numpy as jnp
from jax import Array

from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.equivariance.irreps import SCALAR, VECTOR, Irrep
from mace_jax.model.energy_forces import differentiate, pair_vectors, sum_over_nodes
from mace_jax.model.irreps import Features
from mace_jax.model.mace import DipoleMACE
from mace_jax.units import DEBYE

_TENSOR = Irrep(2, 1)


def dipole_properties(model: DipoleMACE, batch: GraphBatch) -> dict[str, Array]:
    """Return everything that a model of dipoles predicts.

    Returns: of these, by name, what the model has: ``energy``, ``node_energy``, ``forces``,
        ``virials``, ``stress`` as in ``EnergyForces``; ``dipole [n_graph, 3]`` and
        ``atomic_dipoles [n_node, 3]``, Debye (e·Å for AtomicDielectricMACE);
        ``charges [n_node]``, e; ``polarizability [n_graph, 3, 3]``.
    """
    vectors = pair_vectors(batch, model.config.r_max)
    if model.config.model == "EnergyDipolesMACE":

        def node_energies(vectors: Array) -> tuple[Array, Features]:
            outputs = model(vectors, batch)
            return outputs[SCALAR][:, 0, 0], outputs

        energies, outputs = differentiate(node_energies, vectors, batch)
        return energies._asdict() | _with_given_charges(outputs, batch)
    outputs = model(vectors, batch)
    if model.config.model == "AtomicDipolesMACE":
        return _with_given_charges(outputs, batch)
    return _with_predicted_charges(model, outputs, batch)


def _with_given_charges(outputs: Features, batch: GraphBatch) -> dict[str, Array]:
    """Add the dipole of the structure's own fixed charges."""
    atomic_dipoles = outputs[VECTOR][:, :, 0]
    fixed = batch.positions * batch.inputs["charges"] / DEBYE
    return {
        "dipole": sum_over_nodes(atomic_dipoles + fixed, batch),
        "atomic_dipoles": atomic_dipoles,
    }


def _with_predicted_charges(
    model: DipoleMACE, outputs: Features, batch: GraphBatch
) -> dict[str, Array]:
    """Shift the charges so that they add up to the total charge, and add their dipole."""
    charges = outputs[SCALAR][:, 0, 0]
    excess = sum_over_nodes(charges, batch) - batch.inputs["total_charge"][:, 0]
    charges -= (excess / batch.n_node)[batch.node_graph]
    charges = jnp.where(batch.node_mask, charges, 0)
    atomic_dipoles = outputs[VECTOR][:, :, 0]
    tensors = jnp.concatenate([outputs[SCALAR][:, 0, 1:], outputs[_TENSOR][:, :, 0]], axis=1)
    return {
        "charges": charges,
        "dipole": sum_over_nodes(atomic_dipoles + batch.positions * charges[:, None], batch),
        "atomic_dipoles": atomic_dipoles,
        "polarizability": jnp.einsum(
            "gi,ijk->gjk", sum_over_nodes(tensors, batch), model.change_of_basis[...]
        ),
    }
