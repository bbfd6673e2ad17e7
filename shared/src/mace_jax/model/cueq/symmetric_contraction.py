"""Products of up to ``correlation`` features, contracted to irreps, in one kernel."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from mace_jax.equivariance.couplings import independent_couplings, monomials
from mace_jax.equivariance.irreps import Irrep
from mace_jax.model.cueq.kernels import Operand, evaluate, polynomial
from mace_jax.model.irreps import Features

_ZERO = 1e-10


def contract(
    x: Array,
    species: Array,
    weights: Mapping[tuple[Irrep, int], Array],
    irreps: tuple[Irrep, ...],
    targets: tuple[Irrep, ...],
    *,
    reduced: bool,
) -> Features:
    """Sum weighted couplings of features with themselves, per element and channel.

    Args:
        x: ``[n_node, sum of 2l+1, channels]``.
        species: ``[n_node]``.
        weights: of the independent couplings to each target, of each degree,
            ``[n_elements, n_basis, channels]``.
        irreps: of the features.
        targets: of the result; those without weights are zero.
        reduced: of which couplings, as in ``independent_couplings``.

    Returns: per target ``[n_node, 2l+1, channels]``.

    Source: Batatia et al. 2022, eq. 10–11.
    """
    n_node, _, channels = x.shape
    outputs = evaluate(
        _polynomial(irreps, targets, tuple(weights), channels, reduced),
        [jnp.concatenate(list(weights.values()), axis=1), x],
        [n_node] * len(targets),
        [species, None, *[None] * len(targets)],
    )
    return {
        target: y.reshape(n_node, target.dim, channels)
        for target, y in zip(targets, outputs, strict=True)
    }


@cache
def _polynomial(
    irreps: tuple[Irrep, ...],
    targets: tuple[Irrep, ...],
    couplings: tuple[tuple[Irrep, int], ...],
    channels: int,
    reduced: bool,
) -> Any:
    """Return the sum over ``couplings`` as a polynomial of their weights and the features."""
    n_components = sum(irrep.dim for irrep in irreps)
    terms = {}
    n_weights = 0
    for target, degree in couplings:
        basis = independent_couplings(irreps, target, degree, reduced=reduced)
        factors = monomials(n_components, degree)
        buffers = (0, *[1] * degree, 2 + targets.index(target))
        nonzero = np.argwhere(np.abs(basis) > _ZERO)
        if len(nonzero):
            terms[buffers] = [
                ((n_weights + r, *factors[p], m), float(basis[m, r, p])) for m, r, p in nonzero
            ]
        n_weights += basis.shape[1]
    return polynomial(
        [Operand(n_weights, (channels,)), Operand(n_components, (channels,))],
        [Operand(target.dim, (channels,)) for target in targets],
        terms,
    )
