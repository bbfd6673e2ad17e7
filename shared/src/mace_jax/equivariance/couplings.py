"""Products of up to ν equal features, coupled to an irrep: the generalised Clebsch–Gordan tensors.

A product of equal features does not change when its factors are permuted, so a coupling is kept
as a polynomial: one coefficient for each distinct monomial of the features' components.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import combinations_with_replacement, pairwise
from math import factorial, prod

import numpy as np
from numpy.typing import NDArray

from mace_jax.equivariance.irreps import SCALAR, Irrep, products
from mace_jax.equivariance.wigner_3j import wigner_3j

_ZERO = 1e-10
_NATURAL_DEGREE = 4  # where Torch MACE keeps natural parities only

# Of the monomials in every coupling to one irrep: [2l+1, n_couplings, n_monomials]
Coefficients = NDArray[np.float64]


@cache
def monomials(n_components: int, degree: int) -> NDArray[np.int64]:
    """Return the distinct monomials, lexicographically: ``[n_monomials, degree]``."""
    factors = list(combinations_with_replacement(range(n_components), degree))
    return np.array(factors, dtype=np.int64).reshape(len(factors), degree)


@cache
def multiplicities(n_components: int, degree: int) -> NDArray[np.float64]:
    """Return in how many orders the factors of each monomial can be written."""
    repeats = [np.bincount(row) for row in monomials(n_components, degree)]
    return np.array([factorial(degree) / prod(map(factorial, row)) for row in repeats])


def full_couplings(irreps: Sequence[Irrep], target: Irrep, degree: int) -> Coefficients:
    """Return Torch MACE's couplings of ``degree`` features to ``target``, in its order.

    The basis is not independent: some couplings are sums of others, and some vanish.

    Args:
        irreps: of the features, each once.
        target: irrep of the result.
        degree: number of factors.

    Returns: ``[2l+1, n_couplings, n_monomials]``.

    Source: Batatia et al. 2022, eq. 10; mace-torch ``U_matrix_real`` with ``use_cueq_cg=False``,
        which at degree 4 couples to natural parities only, in between, too.
    """
    natural = degree == _NATURAL_DEGREE
    return _couplings(tuple(irreps), target, degree, independent=False, natural=natural)


def reduced_couplings(irreps: Sequence[Irrep], target: Irrep, degree: int) -> Coefficients:
    """Return an orthonormal basis of the couplings of ``degree`` features to ``target``.

    It spans what mace-torch's ``use_reduced_cg`` spans; arguments as in ``full_couplings``.
    """
    return _couplings(tuple(irreps), target, degree, independent=True, natural=False)


def count_full_couplings(irreps: Iterable[Irrep], target: Irrep, degree: int) -> int:
    """Return the number of ``full_couplings`` without computing them."""
    irreps, natural = tuple(irreps), degree == _NATURAL_DEGREE
    counts = Counter({SCALAR: 1})
    for step in range(degree):
        longer: Counter[Irrep] = Counter()
        for left, count in counts.items():
            for right in irreps:
                for out in products(left, right):
                    if not (natural and step and out.p != (-1) ** out.l):
                        longer[out] += count
        counts = longer
    return counts[target]


def count_reduced_couplings(irreps: Iterable[Irrep], target: Irrep, degree: int) -> int:
    """Return the number of ``reduced_couplings`` without computing them.

    An irrep l occurs as often as there are more products of weight l than of weight l + 1.
    """
    products_by_weight = [Counter[tuple[int, int]]() for _ in range(degree + 1)]
    products_by_weight[0][0, 1] = 1
    for irrep in irreps:
        for weight in range(-irrep.l, irrep.l + 1):
            for lower, higher in pairwise(products_by_weight):
                for (total, parity), count in list(lower.items()):
                    higher[total + weight, parity * irrep.p] += count
    found = products_by_weight[degree]
    return found[target.l, target.p] - found[target.l + 1, target.p]


@cache
def independent_couplings(
    irreps: tuple[Irrep, ...], target: Irrep, degree: int, *, reduced: bool
) -> Coefficients:
    """Return an orthonormal basis of what the full or the reduced couplings span.

    Arguments as in ``full_couplings``; there are far fewer of them than full couplings.
    """
    if reduced:
        return reduced_couplings(irreps, target, degree)
    dim = sum(irrep.dim for irrep in irreps)
    return _independent(full_couplings(irreps, target, degree), multiplicities(dim, degree))


def fold(tensor: NDArray[np.floating], degree: int) -> Coefficients:
    """Add up the entries of a coupling tensor that belong to the same monomial.

    Args:
        tensor: ``[2l+1, dim, …, dim, n_couplings]`` with ``degree`` axes of dim.
        degree: number of factors.

    Returns: ``[2l+1, n_couplings, n_monomials]``.
    """
    dim, n_couplings = tensor.shape[1], tensor.shape[-1]
    flat = tensor.reshape(tensor.shape[0], dim**degree, n_couplings)
    result = np.zeros((len(monomials(dim, degree)), tensor.shape[0], n_couplings))
    np.add.at(result, monomial_of_entry(dim, degree), flat.transpose(1, 0, 2))
    return result.transpose(1, 2, 0)


@cache
def _couplings(
    irreps: tuple[Irrep, ...], target: Irrep, degree: int, *, independent: bool, natural: bool
) -> Coefficients:
    dim = sum(irrep.dim for irrep in irreps)
    lower = _all_couplings(irreps, degree - 1, independent=independent, natural=natural)
    found = _next_degree(irreps, lower, degree - 1, targets={target}, natural=natural).get(target)
    if found is None:
        return np.zeros((target.dim, 0, len(monomials(dim, degree))))
    return _independent(found, multiplicities(dim, degree)) if independent else found


@cache
def _all_couplings(
    irreps: tuple[Irrep, ...], degree: int, *, independent: bool, natural: bool
) -> dict[Irrep, Coefficients]:
    """Return the couplings of ``degree`` features to every irrep, sorted by irrep."""
    if degree == 0:
        return {SCALAR: np.ones((1, 1, 1))}
    lower = _all_couplings(irreps, degree - 1, independent=independent, natural=natural)
    found = _next_degree(irreps, lower, degree - 1, targets=None, natural=natural)
    if independent:
        weights = multiplicities(sum(irrep.dim for irrep in irreps), degree)
        found = {irrep: _independent(array, weights) for irrep, array in found.items()}
    return {irrep: found[irrep] for irrep in sorted(found)}


def _next_degree(
    irreps: tuple[Irrep, ...],
    lower: dict[Irrep, Coefficients],
    degree: int,
    *,
    targets: Iterable[Irrep] | None,
    natural: bool,
) -> dict[Irrep, Coefficients]:
    """Couple every polynomial of ``degree`` with the features once more."""
    dim = sum(irrep.dim for irrep in irreps)
    starts = np.cumsum([0] + [irrep.dim for irrep in irreps])
    times_component = _monomial_times_component(dim, degree)
    n_monomials = len(monomials(dim, degree + 1))
    found: dict[Irrep, list[Coefficients]] = {}
    for left, polynomials in lower.items():
        for coupling in polynomials.transpose(1, 0, 2):
            for right, start in zip(irreps, starts, strict=False):
                for out in products(left, right):
                    if natural and degree and out.p != (-1) ** out.l:
                        continue
                    if targets is not None and out not in targets:
                        continue
                    symbol = out.dim**0.5 * wigner_3j(out.l, left.l, right.l)
                    terms = np.einsum("oab,ap->pbo", symbol, coupling)
                    result = np.zeros((n_monomials, out.dim))
                    np.add.at(result, times_component[:, start : start + right.dim], terms)
                    found.setdefault(out, []).append(result.T)
    return {irrep: np.stack(rows, axis=1) for irrep, rows in found.items()}


def _independent(couplings: Coefficients, multiplicity: NDArray[np.float64]) -> Coefficients:
    """Orthonormalise couplings as symmetric tensors, in order; drop those that add nothing."""
    basis: list[NDArray[np.float64]] = []
    weighted = couplings.transpose(1, 0, 2) / np.sqrt(multiplicity)
    for coupling in map(np.ravel, weighted):
        rest = coupling
        for vector in basis * 2:  # once more against rounding
            rest = rest - vector * (vector @ rest)
        if np.linalg.norm(rest) > _ZERO:
            basis.append(rest / np.linalg.norm(rest))
    shape = (len(basis), couplings.shape[0], couplings.shape[2])
    return (np.array(basis).reshape(shape) * np.sqrt(multiplicity)).transpose(1, 0, 2)


@cache
def _monomial_times_component(dim: int, degree: int) -> NDArray[np.int64]:
    """Return the place of each monomial times each component among those of the next degree."""
    lower = monomials(dim, degree)
    factors = np.concatenate(
        [
            np.broadcast_to(lower[:, None], (len(lower), dim, degree)),
            np.broadcast_to(np.arange(dim)[None, :, None], (len(lower), dim, 1)),
        ],
        axis=-1,
    )
    return _place(factors, dim)


@cache
def monomial_of_entry(dim: int, degree: int) -> NDArray[np.int64]:
    """Return the monomial of each entry of a flattened tensor with ``degree`` axes."""
    entries = np.stack(np.unravel_index(np.arange(dim**degree), [dim] * degree), axis=-1)
    return _place(entries, dim)


def _place(factors: NDArray[np.int64], dim: int) -> NDArray[np.int64]:
    """Return the place of products of components, in any order, among the monomials."""
    degree = factors.shape[-1]
    powers = dim ** np.arange(degree - 1, -1, -1)
    return np.searchsorted(monomials(dim, degree) @ powers, np.sort(factors, axis=-1) @ powers)
