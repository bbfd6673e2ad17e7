"""The symmetric contraction: products of up to ``correlation`` features, contracted to irreps.

The generalised Clebsch–Gordan tensors of Torch MACE (its full, non-reduced basis) are turned once
into polynomials: a symmetric tensor needs only the coefficient of each distinct monomial.
"""

from collections.abc import Sequence
from functools import cache
from itertools import combinations_with_replacement
from typing import NamedTuple

import e3nn_jax as e3nn
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from mace_jax.model.initial_weights import normal
from mace_jax.model.wigner_3j import wigner_3j

LP = tuple[int, int]  # (l, parity)


@cache
def coupling_tensors(irreps: tuple[LP, ...], target: LP, order: int) -> NDArray[np.float64]:
    """Return all couplings of ``order`` copies of ``irreps`` to ``target``.

    Args:
        irreps: (l, parity) of the features, each once.
        target: (l, parity) of the result.
        order: number of factors.

    Returns: ``[2 l_target + 1, dim, …, dim, n_couplings]`` with ``order`` axes of
        dim = sum of 2l+1, in Torch MACE's order of couplings.

    Source: Batatia et al. 2022, eq. 10; mace-torch ``U_matrix_real`` with
        ``use_cueq_cg=False``.
    """
    couplings = [tensor for lp, tensor in _couple(irreps, order) if lp == target]
    dim = sum(2 * ell + 1 for ell, _ in irreps)
    if not couplings:
        return np.zeros((2 * target[0] + 1, *[dim] * order, 0))
    return np.stack(couplings, axis=-1)


@cache
def _couple(irreps: tuple[LP, ...], order: int) -> list[tuple[LP, NDArray[np.float64]]]:
    """Return (irrep, tensor ``[2l+1, dim, …]``) of every coupling, sorted by irrep."""
    dim = sum(2 * ell + 1 for ell, _ in irreps)
    starts = np.cumsum([0] + [2 * ell + 1 for ell, _ in irreps])
    if order == 1:
        identity = np.eye(dim)
        rows = [
            (lp, identity[start : start + 2 * lp[0] + 1])
            for lp, start in zip(irreps, starts, strict=False)
        ]
        return sorted(rows, key=lambda row: row[0])
    couplings = []
    for (left_l, left_p), left in _couple(irreps, order - 1):
        for (ell, parity), start in zip(irreps, starts, strict=False):
            for out_l in range(abs(left_l - ell), left_l + ell + 1):
                out = (out_l, left_p * parity)
                if order == 4 and out[1] != (-1) ** out_l:
                    continue  # Torch MACE keeps natural parities only at this order
                symbol = (2 * out_l + 1) ** 0.5 * wigner_3j(out_l, left_l, ell)
                tensor = np.zeros((2 * out_l + 1, *left.shape[1:], dim))
                tensor[..., start : start + 2 * ell + 1] = np.tensordot(
                    symbol, left, axes=(1, 0)
                ).transpose(0, *range(2, left.ndim + 1), 1)
                couplings.append((out, tensor))
    return sorted(couplings, key=lambda row: row[0])


class Polynomial(NamedTuple):
    """Monomials of one degree and the coefficient of each in every coupling.

    Attributes:
        factors: component of each factor, ``[n_monomials, degree]``.
        coefficients: ``[2 l_target + 1, n_couplings, n_monomials]``.
    """

    factors: NDArray[np.int64]
    coefficients: NDArray[np.float64]


@cache
def coupling_polynomial(irreps: tuple[LP, ...], target: LP, degree: int) -> Polynomial:
    """Sum each coupling tensor over the permutations of a monomial's factors; drop zeros."""
    tensors = coupling_tensors(irreps, target, degree)
    dim = tensors.shape[1]
    factors = np.array(list(combinations_with_replacement(range(dim), degree)))
    flat = tensors.reshape(tensors.shape[0], dim**degree, tensors.shape[-1])
    everywhere = np.stack(np.unravel_index(np.arange(dim**degree), [dim] * degree), axis=-1)
    everywhere.sort(axis=1)
    monomial = _rank(everywhere, dim)
    position = np.searchsorted(_rank(factors, dim), monomial)
    coefficients = np.zeros((tensors.shape[0], tensors.shape[-1], len(factors)))
    np.add.at(coefficients.transpose(2, 0, 1), position, flat.transpose(1, 0, 2))
    used = (np.abs(coefficients) > 1e-12).any(axis=(0, 1))
    return Polynomial(factors[used], coefficients[:, :, used])


def _rank(factors: NDArray[np.int64], dim: int) -> NDArray[np.int64]:
    """Number ascending index tuples so that their lexicographic order is kept."""
    return factors @ dim ** np.arange(factors.shape[1] - 1, -1, -1)


class SymmetricContraction(nnx.Module):
    """Weighted sum of all couplings of orders 1 … correlation, per element and channel.

    Source: Batatia et al. 2022, eq. 10–11; mace-torch ``SymmetricContraction``.
    """

    def __init__(
        self,
        irreps: Sequence[e3nn.Irrep],
        targets: Sequence[e3nn.Irrep],
        *,
        correlation: int,
        channels: int,
        n_elements: int,
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
            dtype: of the weights.
            rng: draws the initial weights.
        """
        self.irreps = tuple((irrep.l, irrep.p) for irrep in irreps)
        self.targets = tuple(targets)
        self.correlation = correlation
        self.weights = nnx.Dict(
            {
                str(target): nnx.Dict(
                    {
                        str(degree): nnx.Param(
                            normal(rng, (n_elements, n_couplings, channels), dtype) / n_couplings
                        )
                        for degree in range(1, correlation + 1)
                        if (n_couplings := self.polynomial(target, degree).coefficients.shape[1])
                    }
                )
                for target in targets
            }
        )

    def polynomial(self, target: e3nn.Irrep, degree: int) -> Polynomial:
        """Return the couplings of ``degree`` factors to ``target``."""
        return coupling_polynomial(self.irreps, (target.l, target.p), degree)

    def __call__(self, x: Array, species: Array) -> dict[e3nn.Irrep, Array]:
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
                monomials = x[:, factors[:, 0]]
                for column in factors.T[1:]:
                    monomials = monomials * x[:, column]
                couplings = jnp.einsum(
                    "mkp,npc->nmkc", jnp.asarray(coefficients, x.dtype), monomials
                )
                total += jnp.einsum("nmkc,nkc->nmc", couplings, weight[...][species])
            result[target] = total
        return result
