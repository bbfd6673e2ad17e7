"""Between atoms, pairs of neighbours and the slots of the neighbour table.

Each map is linear, and the derivative of each is another of them: gathers, and sums over slots.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.model.gathers import rows_of

LinearMap = Callable[[Array, GraphBatch], Array]


def _transposed_by(name: str) -> Callable[[LinearMap], LinearMap]:
    """Give a linear map of an array, with a batch beside it, its transpose as derivative.

    The transpose is named, because it is defined by this map in turn.
    """

    def decorate(function: LinearMap) -> LinearMap:
        linear = jax.custom_vjp(function)
        linear.defvjp(
            lambda x, batch: (linear(x, batch), batch),
            lambda batch, cotangent: (globals()[name](cotangent, batch), None),
        )
        return linear

    return decorate


def _where(mask: Array, x: Array) -> Array:
    masks = jax.lax.broadcast_in_dim(jnp.asarray(mask), x.shape, tuple(range(mask.ndim)))
    return jax.lax.select(masks, x, jax.lax.full_like(x, 0))


@_transposed_by("pairs_from_slots")
def slots_from_pairs(x: Array, batch: GraphBatch) -> Array:
    """Copy ``[n_pair, …]`` to both slots of each pair: ``[n_row, n_neighbor, …]``; empty ones 0."""
    return _where(batch.table.slot_direction != 0, rows_of(x, batch.table.slot_pair))


@_transposed_by("slots_from_pairs")
def pairs_from_slots(x: Array, batch: GraphBatch) -> Array:
    """Sum both slots of each pair: ``[n_pair, …]``."""
    x = x.reshape(-1, *x.shape[2:])
    receiver, sender = batch.table.pair_slots.T
    return _where(batch.pair_mask, rows_of(x, receiver) + rows_of(x, sender))


@_transposed_by("nodes_from_neighbors")
def neighbors_from_nodes(x: Array, batch: GraphBatch) -> Array:
    """Copy each atom ``[n_node, …]`` to where it is the neighbour: ``[n_row, n_neighbor, …]``."""
    direction, pair = batch.table.slot_direction, batch.table.slot_pair
    neighbor = jnp.where(
        direction > 0, rows_of(batch.pair_senders, pair), rows_of(batch.pair_receivers, pair)
    )
    return _where(direction != 0, rows_of(x, neighbor))


@_transposed_by("neighbors_from_nodes")
def nodes_from_neighbors(x: Array, batch: GraphBatch) -> Array:
    """Sum, for each atom, the slots in which it is the neighbour: ``[n_node, …]``."""
    direction, pair = batch.table.slot_direction, batch.table.slot_pair
    receiver, sender = batch.table.pair_slots.T
    reverse = jnp.where(direction > 0, rows_of(sender, pair), rows_of(receiver, pair))
    x = x.reshape(-1, *x.shape[2:])
    return nodes_from_rows(_where(direction != 0, rows_of(x, reverse)).sum(axis=1), batch)


@_transposed_by("rows_from_nodes")
def nodes_from_rows(x: Array, batch: GraphBatch) -> Array:
    """Sum the rows ``[n_row, …]`` of each atom: ``[n_node, …]``."""
    n_node = len(batch.species)
    if len(batch.table.row_node) == n_node:  # one row each
        return x
    return jax.ops.segment_sum(x, batch.table.row_node, n_node, indices_are_sorted=True)


@_transposed_by("nodes_from_rows")
def rows_from_nodes(x: Array, batch: GraphBatch) -> Array:
    """Copy each atom ``[n_node, …]`` to its rows: ``[n_row, …]``."""
    if len(batch.table.row_node) == len(x):
        return x
    return rows_of(x, batch.table.row_node)
