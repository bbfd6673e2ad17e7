"""The symmetric contraction: products of up to ``correlation`` features, contracted to irreps."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike
from numpy.typing import NDArray

from mace_jax.equivariance.couplings import (
    full_couplings,
    monomials,
    multiplicities,
    reduced_couplings,
)
from mace_jax.equivariance.irreps import Irrep
from mace_jax.model.constant import constant
from mace_jax.model.initial_weights import normal
from mace_jax.model.irreps import Features


class SymmetricContraction(nnx.Module):
    """Weighted sum of all couplings of orders 1 … correlation, per element and channel.

    The couplings are those of Torch MACE's full basis, or else constants of the network.

    Source: Batatia et al. 2022, eq. 10–11; mace-torch ``SymmetricContraction``.
    """

    def __init__(
        self,
        irreps: Iterable[Irrep],
        targets: Iterable[Irrep],
        *,
        correlation: int,
        channels: int,
        n_elements: int,
        use_reduced_cg: bool,
        dtype: str,
        rng: np.random.Generator,
    ) -> None:
        """Draw weights ``[n_elements, n_couplings, channels]`` with deviation 1 / n_couplings.

        Args:
            irreps: of the features.
            targets: of the result.
            correlation: highest number of factors.
            channels: of every irrep.
            n_elements: number of chemical elements.
            use_reduced_cg: whether the couplings are independent, and kept as constants.
            dtype: of the weights.
            rng: draws the initial weights.
        """
        self.irreps, self.targets = tuple(irreps), tuple(targets)
        self.n_components = sum(irrep.dim for irrep in self.irreps)
        self.weights: nnx.Dict[Any] = nnx.Dict()
        self.couplings: nnx.Dict[Any] = nnx.Dict()
        basis = reduced_couplings if use_reduced_cg else full_couplings
        for target in self.targets:
            weights: nnx.Dict[Any] = nnx.Dict()
            couplings: nnx.Dict[Any] = nnx.Dict()
            for degree in range(1, correlation + 1):
                coefficients = basis(self.irreps, target, degree)
                n_couplings = coefficients.shape[1]
                if n_couplings:
                    shape = (n_elements, n_couplings, channels)
                    weights[str(degree)] = nnx.Param(normal(rng, shape, dtype) / n_couplings)
                    # entries of the symmetric tensor, of which a monomial has several alike
                    entries = coefficients / multiplicities(self.n_components, degree)
                    couplings[str(degree)] = constant(entries, dtype)
            self.weights[str(target)] = weights
            if use_reduced_cg:
                self.couplings[str(target)] = couplings

    def polynomial(self, target: Irrep, degree: int) -> tuple[NDArray[np.int64], ArrayLike]:
        """Return the monomials of ``degree`` factors, and their coefficients in the couplings.

        Returns: ``[n_monomials, degree]`` and ``[2l+1, n_couplings, n_monomials]``.
        """
        factors = monomials(self.n_components, degree)
        if self.couplings:
            entries = self.couplings[str(target)][str(degree)][...]
            counts = multiplicities(self.n_components, degree)
            return factors, entries * jnp.asarray(counts, entries.dtype)
        coefficients = full_couplings(self.irreps, target, degree)
        used = (np.abs(coefficients) > 1e-12).any(axis=(0, 1))
        return factors[used], coefficients[:, :, used]

    def __call__(self, x: Array, species: Array) -> Features:
        """Contract features.

        Args:
            x: ``[n_node, sum of 2l+1, channels]``.
            species: ``[n_node]``.

        Returns: per target ``[n_node, 2l+1, channels]``.
        """
        n_node, _, channels = x.shape
        result = {}
        for target in self.targets:
            total = jnp.zeros((n_node, target.dim, channels), x.dtype)
            for degree, weight in self.weights[str(target)].items():
                factors, coefficients = self.polynomial(target, int(degree))
                terms = x[:, factors[:, 0]]
                for column in factors.T[1:]:
                    terms = terms * x[:, column]
                couplings = jnp.einsum("mkp,npc->nmkc", jnp.asarray(coefficients, x.dtype), terms)
                total += jnp.einsum("nmkc,nkc->nmc", couplings, weight[...][species])
            result[target] = total
        return result
