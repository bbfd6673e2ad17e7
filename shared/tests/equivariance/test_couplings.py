"""The couplings of MACE against the symmetric tensor products of e3nn_jax, and by symmetry."""

from itertools import product
from string import ascii_lowercase

import e3nn_jax as e3nn
import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.equivariance.couplings import (
    count_full_couplings,
    count_reduced_couplings,
    fold,
    full_couplings,
    independent_couplings,
    monomials,
    multiplicities,
    reduced_couplings,
)
from mace_jax.equivariance.irreps import Irrep, Irreps

NATURAL = "0e + 1o + 2e + 3o"
CASES = [
    *product(["0e + 1o + 2e", "0e + 0o + 1o + 1e", "0e + 1e + 2e"], [1, 2, 3]),
    *((NATURAL, 1), (NATURAL, 2), ("0e + 1o", 4), ("1o + 2o", 3), ("2e + 0e", 3)),
]


def irreps_of(text):
    return list(Irreps.parse(text, "irreps"))


def values(coefficients, x, degree):
    """Evaluate couplings at features ``[dim]``: ``[2l+1, n_couplings]``."""
    return coefficients @ x[monomials(len(x), degree)].prod(axis=1)


def targets(irreps, degree):
    """Every irrep that a product can have, and one it cannot."""
    highest = degree * max(irrep.l for irrep in irreps)
    return [Irrep(l, p) for l in range(highest + 2) for p in (-1, 1)]


def flat(coefficients, weights):
    """Couplings as vectors, one a row, with the scalar product of symmetric tensors."""
    dim, n_couplings, n_monomials = coefficients.shape
    by_coupling = coefficients.transpose(1, 0, 2) / np.sqrt(weights)
    return by_coupling.reshape(n_couplings, dim * n_monomials)


@pytest.mark.parametrize(
    ("irreps", "target", "degree", "expected"),
    [
        (NATURAL, (0, 1), 1, 1),
        (NATURAL, (0, 1), 2, 4),
        (NATURAL, (0, 1), 3, 23),
        ("0e + 1o + 2e", (0, 1), 3, 11),
        ("0e + 1o", (0, -1), 1, 0),
        ("0o + 0e + 1o + 1e", (0, -1), 1, 1),
    ],
)
def test_number_of_mace_torch_s_couplings(irreps, target, degree, expected):
    found = full_couplings(irreps_of(irreps), Irrep(*target), degree)
    assert found.shape[:2] == (2 * target[0] + 1, expected)


@pytest.mark.parametrize(("text", "degree"), [*CASES, ("0e + 0o + 1o", 4), ("0e + 1e", 4)])
def test_couplings_can_be_counted_without_computing_them(text, degree):
    irreps = irreps_of(text)
    for target in targets(irreps, degree):
        full, reduced = (f(irreps, target, degree) for f in (full_couplings, reduced_couplings))
        assert count_full_couplings(irreps, target, degree) == full.shape[1]
        assert count_reduced_couplings(irreps, target, degree) == reduced.shape[1]


def all_couplings_of_e3nn(irreps, degree):
    """Return by irrep the couplings of all symmetric tensors, ``[2l+1, n, n_monomials]``."""
    with jax.enable_x64(True):
        basis = e3nn.reduced_symmetric_tensor_product_basis(
            e3nn.Irreps([(1, (irrep.l, irrep.p)) for irrep in irreps]), degree
        )
        found, start = {}, 0
        for channels, irrep in basis.irreps:
            stop = start + channels * irrep.dim
            dense = np.asarray(basis.array[..., start:stop], np.float64)
            dense = dense.reshape(*dense.shape[:-1], channels, irrep.dim)
            found[Irrep(irrep.l, irrep.p)] = fold(np.moveaxis(dense, -1, 0), degree)
            start = stop
    return found


@pytest.mark.parametrize(("text", "degree"), CASES)
def test_both_bases_span_all_couplings(text, degree):
    irreps = irreps_of(text)
    expected = all_couplings_of_e3nn(irreps, degree)
    weights = multiplicities(sum(irrep.dim for irrep in irreps), degree)
    for target in targets(irreps, degree):
        full = full_couplings(irreps, target, degree)
        reduced = reduced_couplings(irreps, target, degree)
        if target not in expected:
            assert not np.abs(full).max(initial=0) > 1e-12
            assert reduced.shape[1] == 0
            continue
        whole = flat(expected[target], weights)
        basis = flat(reduced, weights)
        assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-12)
        assert len(basis) == len(whole) == np.linalg.matrix_rank(whole, tol=1e-8)
        assert_allclose(whole @ basis.T @ basis, whole, atol=1e-8)
        rows = flat(full, weights)
        assert np.linalg.matrix_rank(rows, tol=1e-8) == len(basis)
        assert_allclose(rows @ basis.T @ basis, rows, atol=1e-10)


@pytest.mark.parametrize(("text", "degree"), [*CASES, ("0e + 0o + 1o", 4)])
def test_independent_couplings_span_what_the_full_ones_do(text, degree):
    irreps = tuple(irreps_of(text))
    weights = multiplicities(sum(irrep.dim for irrep in irreps), degree)
    n_full = n_independent = 0
    for target in targets(irreps, degree):
        full = full_couplings(irreps, target, degree)
        if not full.shape[1]:
            continue
        found = independent_couplings(irreps, target, degree, reduced=False)
        assert found.shape == (target.dim, found.shape[1], full.shape[2])
        basis, rows = flat(found, weights), flat(full, weights)
        assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-12)
        assert_allclose(rows @ basis.T @ basis, rows, atol=1e-10)
        assert np.linalg.matrix_rank(rows, tol=1e-8) == len(basis)
        n_full, n_independent = n_full + len(rows), n_independent + len(basis)
    assert 0 < n_independent <= n_full
    assert (n_independent < n_full) == (degree > 1)


@pytest.mark.parametrize("reduced", [False, True])
def test_no_couplings_have_no_independent_ones(reduced):
    irreps, pseudoscalar = tuple(irreps_of("0e + 1o")), Irrep(0, -1)
    assert full_couplings(irreps, pseudoscalar, 1).shape == (1, 0, 4)
    assert independent_couplings(irreps, pseudoscalar, 1, reduced=reduced).shape == (1, 0, 4)


def test_few_of_many_full_couplings_are_independent():
    irreps = tuple(irreps_of(NATURAL))
    full = full_couplings(irreps, Irrep(0, 1), 3)
    assert full.shape[1] == 23
    assert independent_couplings(irreps, Irrep(0, 1), 3, reduced=False).shape[1] < 15


def test_reduced_couplings_are_independent_already():
    irreps = tuple(irreps_of("0e + 1o + 2e"))
    found = independent_couplings(irreps, Irrep(1, -1), 3, reduced=True)
    np.testing.assert_array_equal(found, reduced_couplings(irreps, Irrep(1, -1), 3))


def test_mace_torch_s_products_of_four_keep_natural_parities_only():
    irreps = irreps_of("0e + 0o + 1o")
    for target in (Irrep(0, -1), Irrep(1, 1), Irrep(2, -1)):
        assert full_couplings(irreps, target, 4).shape[1] == 0
        assert reduced_couplings(irreps, target, 4).shape[1] > 0
    assert full_couplings(irreps, Irrep(0, 1), 4).shape[1] > 0


@pytest.mark.parametrize("basis", [full_couplings, reduced_couplings])
@pytest.mark.parametrize(("text", "degree"), CASES)
def test_every_coupling_turns_as_its_irrep(text, degree, basis, rotation):
    irreps = irreps_of(text)
    rng = np.random.default_rng(degree)
    parts = [rng.normal(size=irrep.dim) for irrep in irreps]
    x = np.concatenate(parts)
    turned = np.concatenate([rotation(i.l) @ part for i, part in zip(irreps, parts, strict=True)])
    inverted = np.concatenate([i.p * part for i, part in zip(irreps, parts, strict=True)])
    nonzero = 0
    for target in targets(irreps, degree):
        coefficients = basis(irreps, target, degree)
        before = values(coefficients, x, degree)
        nonzero += np.abs(before).max(initial=0) > 1e-3
        assert_allclose(
            values(coefficients, turned, degree), rotation(target.l) @ before, atol=1e-10
        )
        assert_allclose(values(coefficients, inverted, degree), target.p * before, atol=1e-12)
    assert nonzero >= min(len(irreps), 2)


@pytest.mark.parametrize(("n_components", "degree"), [(1, 3), (3, 1), (4, 2), (4, 3), (3, 4)])
def test_monomials_with_their_multiplicities_make_a_power(n_components, degree):
    x = np.random.default_rng(0).normal(size=n_components)
    factors = monomials(n_components, degree)
    assert (np.diff(factors, axis=1) >= 0).all()
    assert len(np.unique(factors, axis=0)) == len(factors)
    found = multiplicities(n_components, degree) @ x[factors].prod(axis=1)
    assert found == pytest.approx(x.sum() ** degree)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_fold_adds_up_entries_of_the_same_monomial(degree):
    rng = np.random.default_rng(degree)
    tensor, x = rng.normal(size=(3, *[4] * degree, 2)), rng.normal(size=4)
    axes = ascii_lowercase[:degree]
    dense = np.einsum(f"M{axes}K,{','.join(axes)}->MK", tensor, *[x] * degree)
    assert_allclose(values(fold(tensor, degree), x, degree), dense, atol=1e-12)


def test_two_vectors_give_their_square_and_no_cross_product():
    vector, x = [Irrep(1, -1)], np.array([0.3, -1.2, 0.7])
    (square,) = values(full_couplings(vector, Irrep(0, 1), 2), x, 2)
    assert_allclose(square, [x @ x / 3**0.5], rtol=1e-14)
    assert_allclose(full_couplings(vector, Irrep(1, 1), 2), 0, atol=1e-14)
    assert reduced_couplings(vector, Irrep(1, 1), 2).shape == (3, 0, 6)
