"""What each head counts in a run: measured on the planned batches, not assumed from its options."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.train_config import term_weights
from mace_jax.artifacts.train_config_sections import LossConfig
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.batching.loader import PlannedLoader
from mace_jax.elements import symbol
from mace_jax_train.head_losses import HeadFactors
from mace_jax_train.start import Run


class HeadShare(NamedTuple):
    """What a head has of the training data and of the loss.

    Attributes:
        structures: in the planned batches.
        elements: atomic numbers among them.
        steps: of an epoch that have structures of it.
        weights: term -> what its labels' penalties are multiplied by in the loss of a batch,
            summed over the labels, in the mean over structures. Those of all heads add up to the
            weight of the term, where every structure has the label with a weight of 1.
    """

    structures: int
    elements: tuple[int, ...]
    steps: int
    weights: Mapping[str, float]


def head_shares(run: Run) -> dict[str, HeadShare]:
    """Read every planned batch of the training data, and return the share of each head."""
    loader, factors = run.loaders["train"], run.factors
    n_heads, terms = len(factors.names), term_weights(run.config.loss)
    structures, steps = np.zeros(n_heads, np.int64), np.zeros(n_heads, np.int64)
    species: list[set[int]] = [set() for _ in range(n_heads)]
    weights = {term: np.zeros(n_heads) for term in terms}
    for _, batch in loader.in_order():
        of_batch = np.bincount(batch.head[batch.graph_mask], minlength=n_heads)
        structures += of_batch
        steps += of_batch > 0
        node_head = batch.head[batch.node_graph]
        for head, known in enumerate(species):
            known.update(np.unique(batch.species[batch.node_mask & (node_head == head)]).tolist())
        for term in terms:
            weights[term] += of_batch.sum() * _coefficients(batch, term, run.config.loss, factors)
    elements = run.bundle.config.atomic_numbers
    return {
        name: HeadShare(
            int(structures[head]),
            tuple(elements[index] for index in sorted(species[head])),
            int(steps[head]),
            {term: float(found[head] / structures.sum()) for term, found in weights.items()},
        )
        for head, name in enumerate(factors.names)
    }


def _coefficients(
    batch: GraphBatch, term: str, loss: LossConfig, factors: HeadFactors
) -> NDArray[np.float64]:
    """Return what the labels of a term count in the loss of a batch, by head."""
    weights, heads, mask = getattr(batch, f"{term}_weight"), batch.head, batch.graph_mask
    if term == "forces":
        weights, heads, mask = weights[batch.node_graph], heads[batch.node_graph], batch.node_mask
    per_head = np.bincount(heads[mask], weights[mask], len(factors.names))
    factor = term_weights(loss)[term] * np.array(factors.of(term))
    return np.asarray(factor * per_head / max(int(mask.sum()), 1))


def count_by_head(loader: PlannedLoader, heads: Sequence[str]) -> dict[str, int]:
    """Return how many planned structures each head has in a split."""
    counts = np.zeros(len(heads), np.int64)
    for _, batch in loader.in_order():
        counts += np.bincount(batch.head[batch.graph_mask], minlength=len(heads))
    return dict(zip(heads, counts.tolist(), strict=True))


def describe_heads(run: Run) -> dict[str, dict[str, Any]]:
    """Return what a dry run says of every head, by name."""
    names = run.factors.names
    others = {
        split: count_by_head(loader, names)
        for split, loader in run.loaders.items()
        if split != "train"
    }
    return {
        head: {
            "structures": {
                "train": share.structures,
                **{split: counts[head] for split, counts in others.items()},
            },
            "elements": list(share.elements),
            "E0s": run.energy_sources.get(head),
            "weight": weight,
            "effective_weights": share.weights,
            "steps_per_epoch": share.steps,
        }
        for (head, share), weight in zip(head_shares(run).items(), run.factors.weights, strict=True)
    }


def head_table(described: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what ``describe_heads`` found as the lines of a table for people."""
    terms = list(next(iter(described.values()))["effective_weights"])
    rows = [["head", "structures", "elements", "E0s", "weight", *terms, "steps"]]
    for head, found in described.items():
        rows.append(
            [
                head,
                " + ".join(f"{count} {split}" for split, count in found["structures"].items()),
                " ".join(symbol(number) for number in found["elements"]),
                found["E0s"] or "-",
                f"{found['weight']:g}",
                *(f"{found['effective_weights'][term]:.4g}" for term in terms),
                str(found["steps_per_epoch"]),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
