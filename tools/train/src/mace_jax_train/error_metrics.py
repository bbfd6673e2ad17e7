"""Sums of errors over batches, and the metrics that follow from them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.structures.head_names import ALL_HEADS
from mace_jax_train.head_losses import part_of_head
from mace_jax_train.loss import Comparison, Loss, Predicted, compare


class Quantity(NamedTuple):
    """What errors are told of.

    Attributes:
        label: its name among predictions and labels.
        per_atom: whether it is divided by the number of atoms.
        relative: whether errors are also told relative to the labels' own size.
    """

    label: str
    per_atom: bool = False
    relative: bool = False


# By their names in metrics.
QUANTITIES = {
    "e": Quantity("energy"),
    "e_per_atom": Quantity("energy", per_atom=True),
    "f": Quantity("forces", relative=True),
    "stress": Quantity("stress", relative=True),
    "virials": Quantity("virials"),
    "virials_per_atom": Quantity("virials", per_atom=True),
    "mu": Quantity("dipole", relative=True),
    "mu_per_atom": Quantity("dipole", per_atom=True),
}


class ErrorSums(NamedTuple):
    """Sums over the labels of one quantity: of errors, of their squares, and of the labels."""

    n: Array
    absolute: Array
    squared: Array
    label_absolute: Array
    label_squared: Array


class BatchErrors(NamedTuple):
    """What a batch adds to the metrics; those of several batches are added leaf by leaf.

    Attributes:
        n_graph: real graphs.
        loss: summed over them.
        sums: by the names of quantities; of what the network predicts.
        heads: the same of each head, if there are several.
    """

    n_graph: Array
    loss: Array
    sums: Mapping[str, ErrorSums]
    heads: tuple["BatchErrors", ...] = ()


def batch_errors(predicted: Predicted, batch: GraphBatch, loss: Array) -> BatchErrors:
    """Sum the errors of a batch over every label, unweighted; one of weight 0 is no label."""
    n_graph = batch.graph_mask.sum()
    sums = {
        name: _sums(compare(quantity.label, predicted, batch, per_atom=quantity.per_atom))
        for name, quantity in QUANTITIES.items()
        if quantity.label in predicted
    }
    return BatchErrors(n_graph, loss * n_graph, sums)


def errors_of_heads(
    predicted: Predicted, batch: GraphBatch, loss: Array, of_one: Loss, n_heads: int
) -> BatchErrors:
    """Sum the errors of a batch as ``batch_errors`` does, and those of each head beside.

    Args:
        predicted: of the network.
        batch: labels.
        loss: of the batch.
        of_one: the loss of a batch of which only the graphs of one head count.
        n_heads: how many there are.
    """
    errors = batch_errors(predicted, batch, loss)
    if n_heads == 1:
        return errors
    parts = [part_of_head(batch, head) for head in range(n_heads)]
    of_heads = [batch_errors(predicted, part, of_one(predicted, part)) for part in parts]
    return errors._replace(heads=tuple(of_heads))


def _sums(rows: Comparison) -> ErrorSums:
    label = jnp.where(rows.weight > 0, rows.label, 0)
    return ErrorSums(
        n=(rows.weight > 0).sum() * rows.label[0].size,
        absolute=jnp.abs(rows.error).sum(),
        squared=jnp.square(rows.error).sum(),
        label_absolute=jnp.abs(label).sum(),
        label_squared=jnp.square(label).sum(),
    )


def metrics(batches: Sequence[BatchErrors]) -> dict[str, float | None]:
    """Return the metrics of batches, one at least, summed in float64.

    Returns: loss; MAE and RMSE of energy (``e``, eV), forces (``f``, eV/Å), ``stress`` (eV/Å³),
        ``virials`` (eV), dipole (``mu``, Debye), and of energy, virials and dipole per atom; those
        of forces, stress and dipole also relative to the labels' own size, in per cent. None where
        nothing is predicted or has the label.
    """
    total = jax.tree.map(lambda *leaves: np.sum(np.asarray(leaves, np.float64), axis=0), *batches)
    result: dict[str, float | None] = {"loss": float(total.loss / total.n_graph)}
    for name, quantity in QUANTITIES.items():
        sums = total.sums.get(name, ErrorSums(*np.zeros(5)))
        result |= dict(_errors(name, sums, relative=quantity.relative))
    return result


def metrics_of_heads(
    batches: Sequence[BatchErrors], heads: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Return the metrics of each head that has structures, and of all under ``ALL_HEADS``.

    Args:
        batches: one at least.
        heads: their names; of one alone there is no other.
    """
    everything = metrics(batches)
    if len(heads) == 1:
        return {heads[0]: everything}
    parts = {head: [batch.heads[index] for batch in batches] for index, head in enumerate(heads)}
    found = {
        head: metrics(part)
        for head, part in parts.items()
        if sum(float(batch.n_graph) for batch in part)
    }
    return {**found, ALL_HEADS: everything}


def with_speed(
    by_head: Mapping[str, dict[str, Any]], speed: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Give the last row what is known of all heads together, and the others none of it."""
    last = list(by_head)[-1]
    return {
        head: {**row, **(speed if head == last else {"time": None})}
        for head, row in by_head.items()
    }


def _errors(name: str, sums: ErrorSums, *, relative: bool) -> Iterator[tuple[str, float | None]]:
    yield f"mae_{name}", _ratio(sums.absolute, sums.n)
    yield f"rmse_{name}", _ratio(np.sqrt(sums.squared), np.sqrt(sums.n))
    if relative:
        yield f"rel_mae_{name}", _ratio(100 * sums.absolute, sums.label_absolute)
        root = np.sqrt(sums.label_squared)
        yield f"rel_rmse_{name}", _ratio(100 * np.sqrt(sums.squared), root)


def _ratio(error: Any, size: Any) -> float | None:
    return float(error / size) if size > 0 else None
