"""What each head counts in the loss, and the part of a batch that is a head's."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from mace_jax.artifacts.train_config_sections import HeadConfig
from mace_jax.batching.graph_batch import GraphBatch

TERMS = ("energy", "forces", "stress", "virials", "dipole")


class HeadFactors(NamedTuple):
    """What the loss of each head is multiplied by, in the order of the heads.

    Attributes:
        names: of the heads.
        weights: in training alone.
        terms: factor of each term, in evaluations, too.
    """

    names: tuple[str, ...] = ("Default",)
    weights: tuple[float, ...] = (1.0,)
    terms: Mapping[str, tuple[float, ...]] = {}

    def in_evaluation(self) -> "HeadFactors":
        """Return the same without weights, so that errors of one head depend on it alone."""
        return self._replace(weights=(1.0,) * len(self.names))

    def of(self, term: str) -> tuple[float, ...]:
        """Return the factor of a term in each head."""
        terms = self.terms.get(term, (1.0,) * len(self.names))
        return tuple(weight * own for weight, own in zip(self.weights, terms, strict=True))


ONE_HEAD = HeadFactors()


def head_factors(heads: Sequence[HeadConfig]) -> HeadFactors:
    """Return the factors that are configured."""
    return HeadFactors(
        tuple(head.name for head in heads),
        tuple(head.weight for head in heads),
        {term: tuple(getattr(head, f"{term}_weight") for head in heads) for term in TERMS},
    )


def row_factors(factors: Sequence[float], term: str, batch: GraphBatch) -> Array:
    """Return the factor of each row of a term: a graph, or an atom for forces, ``[n_row]``."""
    of_graphs = jnp.asarray(factors, batch.positions.dtype)[batch.head]
    return of_graphs[batch.node_graph] if term == "forces" else of_graphs


def part_of_head(batch: GraphBatch, head: int) -> GraphBatch:
    """Return a batch in which only the graphs of one head count."""
    own = batch.graph_mask & (batch.head == head)
    weights: Any = {
        f"{term}_weight": jnp.where(own, getattr(batch, f"{term}_weight"), 0) for term in TERMS
    }
    node_mask = batch.node_mask & own[batch.node_graph]
    return batch._replace(graph_mask=own, node_mask=node_mask, **weights)
