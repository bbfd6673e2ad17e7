"""The symmetric contraction: products of up to ``correlation`` features, contracted to irreps."""

from collections.abc import Iterable, Mapping
from functools import cache
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from mace_jax.equivariance.couplings import (
    full_couplings,
    independent_couplings,
    monomials,
    multiplicities,
    reduced_couplings,
)
from mace_jax.equivariance.irreps import Irrep
from mace_jax.model.backend import DENSE, Backend
from mace_jax.model.constant import constant
from mace_jax.model.initial_weights import normal
from mace_jax.model.irreps import Features
from mace_jax.model.matrix_products import products_in_rows
from mace_jax.model.polynomials import Polynomial, Term, polynomials
from mace_jax.model.sums_of_products import Terms, sums_of_products

# More are not written out: they compile for longer than they save.
_MOST_MONOMIALS = 1000


class SymmetricContraction(nnx.Module):
    """Weighted sum of all couplings of orders 1 … correlation, per element and channel.

    The couplings are those of Torch MACE's full basis, or else constants of the network. Most of
    them depend on each other, so the weights are first carried over to an orthonormal basis.

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
        backend: Backend = DENSE,
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
            backend: what computes the contraction.
        """
        self.irreps, self.targets = tuple(irreps), tuple(targets)
        self.n_elements, self.use_reduced_cg, self.backend = n_elements, use_reduced_cg, backend
        n_components = sum(irrep.dim for irrep in self.irreps)
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
                    entries = coefficients / multiplicities(n_components, degree)
                    couplings[str(degree)] = constant(entries, dtype)
            self.weights[str(target)] = weights
            if use_reduced_cg:
                self.couplings[str(target)] = couplings

    def __call__(self, x: Array, species: Array) -> Features:
        """Contract features.

        Args:
            x: ``[n_node, sum of 2l+1, channels]``.
            species: ``[n_node]``.

        Returns: per target ``[n_node, 2l+1, channels]``.
        """
        weights = {
            (target, degree): self._weights(target, degree)
            for target in self.targets
            for degree in map(int, self.weights[str(target)])
        }
        if self.backend.products:
            from mace_jax.model.cueq.symmetric_contraction import contract

            return contract(
                x, species, weights, self.irreps, self.targets, reduced=self.use_reduced_cg
            )
        if self.backend.frozen and 0 < self._n_monomials(weights) <= _MOST_MONOMIALS:
            return self._written_out(x, weights, species)
        one_hot = (species[:, None] == jnp.arange(self.n_elements)).astype(x.dtype)
        of_node = {
            order: jnp.einsum("ne,erc->rnc", one_hot, array) for order, array in weights.items()
        }
        return self._contract(x, of_node)

    def _contract(self, x: Array, weights: Mapping[tuple[Irrep, int], Array]) -> Features:
        """Contract with weights of each node, ``[n_basis, n_node, channels]``."""
        n_node, n_components, channels = x.shape
        components = x.swapaxes(0, 1).reshape(n_components, -1)
        orders = [
            (target, degree, m, coupling)
            for target, degree in weights
            for m, coupling in enumerate(
                _couplings(self.irreps, target, degree, self.use_reduced_cg)
            )
        ]
        sums = tuple((coupling.monomials,) for *_, coupling in orders)
        nothing = jnp.zeros((n_node, channels), x.dtype)
        result = {target: [nothing] * target.dim for target in self.targets}
        products = sums_of_products(sums, (components,))
        for (target, degree, m, coupling), product in zip(orders, products, strict=True):
            coefficients = jnp.asarray(coupling.coefficients, x.dtype)
            coupled = products_in_rows("rbm,rmx->rbx", coefficients[None], product[None])
            coupled = coupled.reshape(-1, n_node, channels)
            result[target][m] += (weights[target, degree] * coupled).sum(axis=0)
        return {target: jnp.stack(components, axis=1) for target, components in result.items()}

    def _written_out(
        self, x: Array, weights: Mapping[tuple[Irrep, int], Array], species: Array
    ) -> Features:
        """Contract with a coefficient for each monomial, in place of one for each coupling."""
        sums = _polynomials(self.irreps, self.targets, tuple(weights), self.use_reduced_cg)
        coefficients = [
            jnp.einsum("erc,rm->mec", of_element, jnp.asarray(coupling.coefficients, x.dtype))
            for (target, degree), of_element in weights.items()
            for coupling in _couplings(self.irreps, target, degree, self.use_reduced_cg)
        ]
        components = polynomials(
            sums, (x,), jax.lax.stop_gradient(jnp.concatenate(coefficients)), species
        )
        ends = np.cumsum([target.dim for target in self.targets])[:-1]
        return dict(zip(self.targets, jnp.split(components, ends, axis=1), strict=True))

    def _n_monomials(self, orders: Iterable[tuple[Irrep, int]]) -> int:
        """Return how many monomials all components of the targets have."""
        return sum(
            coupling.coefficients.shape[1]
            for target, degree in orders
            for coupling in _couplings(self.irreps, target, degree, self.use_reduced_cg)
        )

    def _weights(self, target: Irrep, degree: int) -> Array:
        """Return the weights of the independent couplings, ``[n_elements, n_basis, channels]``."""
        weights = self.weights[str(target)][str(degree)][...]
        basis = independent_couplings(self.irreps, target, degree, reduced=self.use_reduced_cg)
        if self.use_reduced_cg:
            entries = self.couplings[str(target)][str(degree)][...]
            change = jnp.einsum("mkp,mrp->kr", entries, jnp.asarray(basis, entries.dtype))
        else:
            n_components = sum(irrep.dim for irrep in self.irreps)
            entries = full_couplings(self.irreps, target, degree)
            entries = entries / multiplicities(n_components, degree)
            change = jnp.asarray(np.einsum("mkp,mrp->kr", entries, basis), weights.dtype)
        return jnp.einsum("ekc,kr->erc", weights, change)


class ComponentCouplings(NamedTuple):
    """The independent couplings to one component of an irrep.

    Attributes:
        monomials: those that occur.
        coefficients: of each in every coupling, ``[n_basis, n_monomials]``.
    """

    monomials: Terms
    coefficients: NDArray[np.float64]


@cache
def _couplings(
    irreps: tuple[Irrep, ...], target: Irrep, degree: int, reduced: bool
) -> list[ComponentCouplings]:
    """Return the couplings to each component, which share few monomials or none.

    There is none where all couplings vanish, as of two equal vectors to a pseudovector.
    """
    basis = independent_couplings(irreps, target, degree, reduced=reduced)
    if not basis.shape[1]:
        return []
    factors = monomials(sum(irrep.dim for irrep in irreps), degree)
    couplings = []
    for coefficients in basis:
        used = np.flatnonzero((np.abs(coefficients) > 1e-10).any(axis=0))
        terms = Terms(
            (0,) * degree, len(used), np.arange(len(used)), factors[used], np.ones(len(used))
        )
        couplings.append(ComponentCouplings(terms, coefficients[:, used]))
    return couplings


@cache
def _polynomials(
    irreps: tuple[Irrep, ...],
    targets: tuple[Irrep, ...],
    orders: tuple[tuple[Irrep, int], ...],
    reduced: bool,
) -> tuple[Polynomial, ...]:
    """Return each component of the targets, with coefficients numbered as ``orders`` go."""
    terms: dict[tuple[Irrep, int], list[Term]] = {
        (target, m): [] for target in targets for m in range(target.dim)
    }
    numbers = count()
    for target, degree in orders:
        for m, coupling in enumerate(_couplings(irreps, target, degree, reduced)):
            descending = coupling.monomials.factors[:, ::-1].tolist()
            terms[target, m] += [Term(tuple(rows), next(numbers)) for rows in descending]
    return tuple(map(Polynomial, terms.values()))
