"""Messages from neighbours, summed at each atom, in one kernel that gathers and scatters."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import gcd
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from mace_jax.architecture import Path
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.equivariance.irreps import Irrep
from mace_jax.equivariance.wigner_3j import wigner_3j
from mace_jax.model.cueq.kernels import Operand, evaluate, polynomial
from mace_jax.model.irreps import Features


def convolve_pairs(
    features: Features,
    batch: GraphBatch,
    harmonics: Array,
    weights: Array,
    paths: Sequence[Path],
) -> Features:
    """Sum messages both ways along every pair; both have the same weights.

    Args:
        features: as in ``convolve``.
        batch: with the pairs.
        harmonics: of the vector of each pair, by ascending l, ``[n_pair, sum of 2l+1]``; whatever
            is finite for padding pairs.
        weights: of all paths, ``[n_pair, n_weights]``.
        paths: the couplings.

    Returns: as ``convolve``.
    """
    forth = jnp.where(batch.pair_mask[:, None], harmonics, 0)
    order = np.sqrt(np.arange(harmonics.shape[1])).astype(int)
    back = forth * jnp.asarray((-1.0) ** order, forth.dtype)
    first, second = batch.pair_senders, batch.pair_receivers
    received = convolve(features, first, second, forth, weights, paths)
    returned = convolve(features, second, first, back, weights, paths)
    return {irrep: x + returned[irrep] for irrep, x in received.items()}


def convolve_slots(
    features: Features,
    batch: GraphBatch,
    harmonics: Mapping[Irrep, Array],
    weights: Array,
    paths: Sequence[Path],
) -> Features:
    """Sum messages along the edges in the slots of the neighbour table.

    Args:
        features: as in ``convolve``.
        batch: with the table.
        harmonics: ``[n_row, n_neighbor, 2l+1]`` per irrep; 0 in empty slots.
        weights: of all paths, ``[n_row, n_neighbor, n_weights]``.
        paths: the couplings.

    Returns: as ``convolve``.
    """
    table = batch.table
    first, second = batch.pair_senders[table.slot_pair], batch.pair_receivers[table.slot_pair]
    senders = jnp.where(table.slot_direction > 0, first, second)
    receivers = jnp.broadcast_to(jnp.asarray(table.row_node)[:, None], senders.shape)
    joined = jnp.concatenate([harmonics[irrep] for irrep in sorted(harmonics)], axis=-1)
    return convolve(
        features,
        senders.ravel(),
        receivers.ravel(),
        joined.reshape(-1, joined.shape[-1]),
        weights.reshape(-1, weights.shape[-1]),
        paths,
    )


def convolve(
    features: Features,
    senders: Array,
    receivers: Array,
    harmonics: Array,
    weights: Array,
    paths: Sequence[Path],
) -> Features:
    """Sum weighted couplings of sender features and edge harmonics at each receiver.

    Args:
        features: of the nodes, ``[n_node, 2l+1, channels]`` per irrep; absent ones are zero.
        senders, receivers: nodes of each edge, ``[n_edge]``.
        harmonics: of each edge, by ascending l, ``[n_edge, sum of 2l+1]``; 0 for padding edges.
        weights: of all paths, ``[n_edge, n_weights]``.
        paths: the couplings.

    Returns: per irrep ``[n_node, 2l+1, sum of channels of paths to it]``.

    Source: Batatia et al. 2022, eq. 8; mace-torch ``conv_tp``, e3nn component normalisation.
    """
    n_node = len(next(iter(features.values())))
    sent = {path.node: features[path.node] for path in paths if path.node in features}
    messages = _message_channels(paths)
    outputs = evaluate(
        _polynomial(tuple(paths), tuple(sent), harmonics.shape[1]),
        [weights, harmonics, *sent.values()],
        [n_node] * len(messages),
        [None, None, *[senders] * len(sent), *[receivers] * len(messages)],
    )
    return {
        irrep: x.reshape(n_node, irrep.dim, channels)
        for (irrep, channels), x in zip(messages.items(), outputs, strict=True)
    }


def _message_channels(paths: Iterable[Path]) -> dict[Irrep, int]:
    channels: dict[Irrep, int] = {}
    for path in paths:
        channels[path.message] = channels.get(path.message, 0) + path.channels
    return channels


@cache
def _polynomial(paths: tuple[Path, ...], sent: tuple[Irrep, ...], n_harmonics: int) -> Any:
    """Return the sum over paths as a polynomial of weights, harmonics and the ``sent`` irreps.

    The kernel wants segments of one width; irreps with more channels have several to a component.
    """
    width = gcd(*(path.channels for path in paths))
    parts = {path.node: path.channels // width for path in paths}
    messages = {irrep: n // width for irrep, n in _message_channels(paths).items()}
    terms: dict[tuple[int, ...], list[tuple[tuple[int, ...], float]]] = {}
    first_weight, first_part = 0, dict.fromkeys(messages, 0)
    for path in paths:
        node, edge, message, _ = path
        if node in sent:
            buffers = (0, 1, 2 + sent.index(node), 2 + len(sent) + list(messages).index(message))
            coupling = message.dim**0.5 * wigner_3j(node.l, edge.l, message.l)
            terms.setdefault(buffers, []).extend(
                (
                    (
                        first_weight + part,
                        edge.l**2 + b,
                        a * parts[node] + part,
                        c * messages[message] + first_part[message] + part,
                    ),
                    float(coupling[a, b, c]),
                )
                for a, b, c in np.argwhere(coupling)
                for part in range(parts[node])
            )
        first_weight += parts[node]
        first_part[message] += parts[node]
    return polynomial(
        [
            Operand(first_weight, (width,)),
            Operand(n_harmonics, ()),
            *(Operand(irrep.dim * parts[irrep], (width,)) for irrep in sent),
        ],
        [Operand(irrep.dim * n, (width,)) for irrep, n in messages.items()],
        terms,
    )
