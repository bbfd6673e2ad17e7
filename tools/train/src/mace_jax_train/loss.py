"""The losses of mace-torch, over the labels that exist.

A loss is a weighted sum of terms, one a quantity. A term is a mean over all components of all real
graphs of the batch, or of all real atoms for forces. Where a label is missing it adds nothing to
the sum, but its graph or atoms are counted, as in mace-torch, where they have weight 0.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from mace_jax.artifacts.train_config import term_weights
from mace_jax.artifacts.train_config_sections import LossConfig, LossName
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.errors import ConfigError
from mace_jax_train.head_losses import ONE_HEAD, HeadFactors, row_factors

Predicted = Mapping[str, Array]
Loss = Callable[[Predicted, GraphBatch], Array]

# Terms of errors that are divided by the number of atoms.
_PER_ATOM = ("energy", "virials", "dipole")
# mace-torch multiplies the dipole term so that it counts beside the others.
_SCALE = {"dipole": 100.0}
# Forces of these norms (eV/Å) and more are taken for outliers sooner: by delta times these factors.
_LARGE_FORCES = (100.0, 200.0, 300.0)
_DELTA_FACTORS = (1.0, 0.7, 0.4, 0.1)


class Comparison(NamedTuple):
    """Predictions and labels, row by row; a row is a graph, or an atom for forces.

    Attributes:
        error: prediction minus label, ``[n_row, …]``; 0 where there is no label.
        label: ``[n_row, …]``.
        weight: of the label in the loss, ``[n_row, 1, …]``; 0 where there is none.
        n_row: rows that are not padding.
    """

    error: Array
    label: Array
    weight: Array
    n_row: Array


def compare(
    name: str, predicted: Predicted, batch: GraphBatch, *, per_atom: bool = False
) -> Comparison:
    """Compare what is predicted of the quantity ``name`` with its labels.

    Args:
        name: such as ``energy``.
        predicted: of the network, by name.
        batch: labels and their weights.
        per_atom: whether to divide both by the number of atoms; for quantities of graphs.
    """
    label, weight = getattr(batch, name), getattr(batch, f"{name}_weight")
    mask = batch.graph_mask
    if name == "forces":
        weight, mask = weight[batch.node_graph], batch.node_mask
    row = (-1, *[1] * (label.ndim - 1))
    weight = weight.reshape(row)
    # so that nothing of a missing label's prediction gets into a gradient, not even a NaN
    error = jnp.where(weight > 0, predicted[name] - label, 0)
    if per_atom:
        n_node = batch.n_node.reshape(row)
        error, label = error / n_node, label / n_node
    return Comparison(error, label, weight, mask.sum())


Penalty = Callable[[Comparison, float], Array]


def _squares(rows: Comparison, _: float) -> Array:
    return rows.weight * jnp.square(rows.error)


def _absolutes(rows: Comparison, _: float) -> Array:
    # not jnp.abs, whose derivative at 0 is 1
    return rows.weight * rows.error * jnp.sign(rows.error)


def _norms(rows: Comparison, _: float) -> Array:
    return rows.weight * optax.safe_norm(rows.error, 0.0, axis=1, keepdims=True)


def _huber(rows: Comparison, delta: float) -> Array:
    return rows.weight * optax.huber_loss(rows.error, delta=delta)


def _huber_of_weighted(rows: Comparison, delta: float) -> Array:
    return optax.huber_loss(rows.weight * rows.error, delta=delta)


def _huber_of_weighted_forces(rows: Comparison, delta: float) -> Array:
    norms = jnp.linalg.norm(rows.weight * rows.label, axis=1, keepdims=True)
    deltas = delta * jnp.array(_DELTA_FACTORS, norms.dtype)
    return optax.huber_loss(
        rows.weight * rows.error,
        delta=deltas[jnp.digitize(norms, jnp.array(_LARGE_FORCES, norms.dtype))],
    )


# What is not a weighted square.
_PENALTIES: dict[LossName, dict[str, Penalty]] = {
    "huber": {"energy": _huber, "forces": _huber, "stress": _huber},
    "universal": {
        "energy": _huber_of_weighted,
        "forces": _huber_of_weighted_forces,
        "stress": _huber_of_weighted,
    },
    "l1l2": {"energy": _absolutes, "forces": _norms},
}


def quantities(config: LossConfig) -> frozenset[str]:
    """Return what must be predicted for a loss."""
    return frozenset(term_weights(config))


def make_loss(config: LossConfig, heads: HeadFactors = ONE_HEAD) -> Loss:
    """Return the loss of a batch: a scalar, and 0 for a batch of padding.

    Energies, virials and dipoles are compared per atom. Penalties are squares, in ``huber`` Huber's
    function with ``huber_delta``, in ``l1l2`` absolute values of energies and norms of forces. In
    ``universal`` the weight of a label stands inside Huber's argument, and ``huber_delta`` is
    smaller for forces whose weighted label is 100, 200 or 300 eV/Å long.

    The numbers are those of mace-torch's classes, except where these disregard weights and so
    train missing labels as zeros: everywhere in ``huber`` and ``dipole``, in the dipole term of
    ``energy_forces_dipole``, in the forces term of ``l1l2``. Here each label has its weight, that
    of its structure included, which ``universal`` disregards in mace-torch. What a head counts
    multiplies penalties, Huber's, too; where it is 0 nothing of a row gets into a gradient.

    Args:
        config: resolved, as in a loaded configuration.
        heads: what each of them counts.

    Raises:
        ConfigError: by the loss, when the network does not predict what it needs.

    Source: ``mace.modules.loss`` of mace-torch 0.3.16.
    """
    weights = term_weights(config)

    def loss(predicted: Predicted, batch: GraphBatch) -> Array:
        _require_predicted(config, predicted)
        total = jnp.zeros((), batch.positions.dtype)
        for term, weight in weights.items():
            rows = compare(term, predicted, batch, per_atom=term in _PER_ATOM)
            penalty = _PENALTIES.get(config.loss_cls, {}).get(term, _squares)
            values = _of_heads(penalty, rows, config.huber_delta, heads.of(term), term, batch)
            n_values = jnp.maximum(rows.n_row, 1) * values[0].size
            total += weight * _SCALE.get(term, 1.0) * values.sum() / n_values
        return total

    return loss


def _of_heads(
    penalty: Penalty,
    rows: Comparison,
    delta: float,
    factors: tuple[float, ...],
    term: str,
    batch: GraphBatch,
) -> Array:
    """Return the penalties of rows, each times the factor of its head."""
    if set(factors) == {1.0}:
        return penalty(rows, delta)
    factor = row_factors(factors, term, batch).reshape(rows.weight.shape)
    rows = rows._replace(error=jnp.where(factor > 0, rows.error, 0))
    return factor * penalty(rows, delta)


def _require_predicted(config: LossConfig, predicted: Predicted) -> None:
    missing = sorted(quantities(config) - predicted.keys())
    if missing:
        message = (
            f"loss.loss_cls: {config.loss_cls} needs {', '.join(missing)}, but the model predicts "
            f"only {', '.join(sorted(predicted))}; choose another loss or model"
        )
        raise ConfigError(message)
