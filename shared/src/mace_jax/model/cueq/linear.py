"""Linear maps by chemical element: one grouped matrix product over nodes sorted by element."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import jax.numpy as jnp
from jax import Array

from mace_jax.equivariance.irreps import Irrep
from mace_jax.model.cueq.kernels import evaluate
from mace_jax.model.irreps import Features


def map_by_species(features: Features, species: Array, weights: Mapping[Irrep, Array]) -> Features:
    """Map the channels of each irrep by the matrix of each node's element.

    Args:
        features: ``[n, 2l+1, inputs]`` per irrep.
        species: ``[n]``.
        weights: ``[inputs, n_elements, outputs]`` per irrep.

    Returns: ``[n, 2l+1, outputs]`` of each irrep that has weights.

    Source: mace-torch's ``skip_tp`` (``FullyConnectedTensorProduct``).
    """
    return {
        irrep: _map(x, species, weights[irrep]) for irrep, x in features.items() if irrep in weights
    }


def _map(x: Array, species: Array, weights: Array) -> Array:
    n, components, inputs = x.shape
    _, n_elements, outputs = weights.shape
    scale = (inputs * n_elements) ** -0.5
    if 1 in weights.shape:  # the library drops axes of length 1 and has no kernel for the rest
        one_hot = (species[:, None] == jnp.arange(n_elements)).astype(x.dtype)
        return scale * jnp.einsum("nmu,ne,uew->nmw", x, one_hot, weights)
    from cuequivariance_jax import Repeats

    order = jnp.argsort(species)
    counts = jnp.bincount(species, length=n_elements).astype(jnp.int32)
    # off CUDA the library's derivative by the matrix of an absent element is undefined
    matrices = jnp.where(counts[:, None, None] > 0, weights.swapaxes(0, 1), 0)
    (y,) = evaluate(
        _polynomial(components, inputs, outputs, scale),
        [matrices, _permuted(x, order)],
        [n],
        [Repeats(counts), None, None],
        kernel="indexed_linear",
    )
    return _permuted(y.reshape(n, components, outputs), jnp.argsort(order))


def _permuted(x: Array, order: Array) -> Array:
    """Return ``x[order]``, told to be a permutation, so that its derivative need not add."""
    return x.at[order].get(unique_indices=True, mode="promise_in_bounds")


@cache
def _polynomial(components: int, inputs: int, outputs: int, coefficient: float) -> Any:
    import cuequivariance as cue

    operands = [
        cue.SegmentedOperand([shape])
        for shape in ((inputs, outputs), (components, inputs), (components, outputs))
    ]
    product = cue.SegmentedTensorProduct(
        list(zip(operands, ("uv", "wu", "wv"), strict=True)),
        paths=[cue.segmented_polynomials.Path((0, 0, 0), coefficient)],
    )
    return cue.SegmentedPolynomial.eval_last_operand(product)
