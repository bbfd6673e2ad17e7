"""Sums of products against plain sums over terms, which jax differentiates itself."""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.model import sums_of_products as module
from mace_jax.model.sums_of_products import Terms, sums_of_products

N = 3


class Products:
    """Random terms, in which products occur several times and in several orders."""

    def __init__(self, operands, lengths, n_rows, n_terms, seed=0):
        rng = np.random.default_rng([seed, n_rows, n_terms])
        self.operands, self.n_rows = operands, n_rows
        self.rows = rng.integers(n_rows, size=n_terms)
        factors = [rng.integers(lengths[operand], size=n_terms) for operand in operands]
        self.factors = np.stack(factors, axis=1)
        self.coefficients = rng.normal(size=n_terms)

    @property
    def terms(self):
        return Terms(self.operands, self.n_rows, self.rows, self.factors, self.coefficients)

    def plain_sum(self, arrays):
        columns = [arrays[o][self.factors[:, f]] for f, o in enumerate(self.operands)]
        products = self.coefficients[:, None] * reduce(jnp.multiply, columns)
        return jnp.zeros((self.n_rows, N)).at[self.rows].add(products)

    def loop(self, arrays):
        found = np.zeros((self.n_rows, N))
        every = zip(self.rows, self.factors, self.coefficients, strict=True)
        for row, factors, coefficient in every:
            product = np.full(N, coefficient)
            for operand, factor in zip(self.operands, factors, strict=True):
                product *= np.asarray(arrays[operand])[factor]
            found[row] += product
        return found


class Problem:
    """Several results, each the sum of several kinds of products of the same operands."""

    def __init__(self, lengths, results):
        rng = np.random.default_rng(0)
        self.results = results
        self.sums = tuple(tuple(products.terms for products in every) for every in results)
        self.arrays = tuple(jnp.asarray(rng.normal(size=(length, N))) for length in lengths)
        self.directions = [
            tuple(jnp.asarray(rng.normal(size=x.shape)) for x in self.arrays) for _ in range(2)
        ]
        self.weights = [jnp.asarray(rng.normal(size=(every[0].n_rows, N))) for every in results]

    def sum(self, arrays):
        return sums_of_products(self.sums, arrays)

    def plain_sum(self, arrays):
        return tuple(sum(p.plain_sum(arrays) for p in every) for every in self.results)

    def loop(self):
        return tuple(sum(p.loop(self.arrays) for p in every) for every in self.results)

    def derivative(self, function, order, compiler_options):
        """Return the gradient of ``order - 1`` derivatives along fixed directions."""

        def scalar(arrays):
            values = zip(self.weights, function(arrays), strict=True)
            return sum((weight * x + jnp.sin(x)).sum() for weight, x in values)

        def along(f, direction):
            def slope(arrays):
                pairs = zip(jax.grad(f)(arrays), direction, strict=True)
                return sum((gradient * d).sum() for gradient, d in pairs)

            return slope

        for direction in self.directions[: order - 1]:
            scalar = along(scalar, direction)
        return jax.jit(jax.grad(scalar), compiler_options=compiler_options)(self.arrays)


def single(operands, lengths, n_rows, n_terms):
    return Problem(lengths, [[Products(operands, lengths, n_rows, n_terms)]])


def several():
    lengths = (4, 2)
    cube, mixed = Products((0, 0, 0), lengths, 3, 9), Products((1, 0), lengths, 3, 5)
    square, linear = Products((0, 0), lengths, 5, 8), Products((1,), lengths, 2, 3)
    return Problem(lengths, [[cube, mixed], [square], [linear]])


CASES = {
    "linear": lambda: single((0,), (4,), 5, 9),
    "square": lambda: single((0, 0), (4,), 6, 20),
    "fourth power": lambda: single((0, 0, 0, 0), (3,), 2, 12),
    "mixed": lambda: single((1, 0, 1), (2, 4), 4, 18),
    "an operand that is in no product": lambda: single((0, 2), (3, 2, 4), 3, 10),
    "rows without terms": lambda: single((0, 0), (4,), 40, 7),
    "several sums": several,
}


@pytest.fixture(params=CASES)
def problem(request, float64):
    return CASES[request.param]()


def assert_close(found, expected, tolerance=1e-12):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))


@pytest.fixture
def assert_derivative_is_right(compile_fast):
    def check(problem, order):
        found, expected = (
            problem.derivative(f, order, compile_fast) for f in (problem.sum, problem.plain_sum)
        )
        assert np.abs(expected[0]).max() > 0.01
        assert_close(found, expected)

    return check


def test_values(problem):
    expected = problem.loop()
    assert min(np.abs(x).max() for x in expected) > 0.1
    assert_close(problem.sum(problem.arrays), expected)
    assert_close(problem.plain_sum(problem.arrays), expected)


def test_second_derivatives(problem, assert_derivative_is_right):
    assert_derivative_is_right(problem, 2)


@pytest.mark.parametrize("name", ["fourth power", "several sums"])
def test_third_derivatives(name, assert_derivative_is_right):
    assert_derivative_is_right(CASES[name](), 3)


def test_an_operand_in_no_product_has_no_gradient():
    problem = CASES["an operand that is in no product"]()
    gradients = jax.grad(lambda arrays: problem.sum(arrays)[0].sum())(problem.arrays)
    assert [bool(gradient.any()) for gradient in gradients] == [True, False, True]
    assert gradients[1].shape == problem.arrays[1].shape


def test_rows_without_terms_are_zero():
    problem = CASES["rows without terms"]()
    (products,) = problem.results[0]
    without = np.setdiff1d(np.arange(products.n_rows), products.rows)
    assert len(without) > 30
    assert not np.asarray(problem.sum(problem.arrays)[0])[without].any()


def test_a_sum_of_no_terms_is_zero():
    nothing = Terms((0, 0), 3, np.zeros(0, int), np.zeros((0, 2), int), np.zeros(0))
    x = jnp.ones((4, N))
    assert_close(sums_of_products(((nothing,),), (x,)), [np.zeros((3, N))])
    gradient = jax.grad(lambda x: sums_of_products(((nothing,),), (x,))[0].sum())(x)
    assert_allclose(gradient, np.zeros((4, N)))


def test_products_that_differ_in_the_order_of_equal_operands_are_one_term():
    factors = np.array([[0, 1], [1, 0], [0, 1], [1, 1], [0, 1]])
    rows, coefficients = np.array([0, 0, 0, 0, 1]), np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    same = Terms((0, 0), 2, rows, factors, coefficients)
    assert same.coefficients.tolist() == [7, 8, 16]
    assert same.factors.tolist() == [[0, 1], [1, 1], [0, 1]]
    assert same.rows.tolist() == [0, 0, 1]
    other = Terms((0, 1), 2, rows, factors, coefficients)
    assert other.coefficients.tolist() == [5, 2, 8, 16]
    assert other.factors.tolist() == [[0, 1], [1, 0], [1, 1], [0, 1]]
    assert factors.tolist() == [[0, 1], [1, 0], [0, 1], [1, 1], [0, 1]]  # left alone


def crowded(n_terms, lengths):
    """One row gets ``n_terms`` products that differ, the other row one."""
    problem = single((0, 1), lengths, 2, n_terms + 1)
    (products,) = problem.results[0]
    products.rows = np.repeat([0, 1], [n_terms, 1])
    products.factors = np.stack(np.unravel_index(np.arange(n_terms + 1), lengths), axis=1)
    problem.sums = ((products.terms,),)
    assert len(problem.sums[0][0].table.coefficients) == n_terms
    return problem


def is_looped(problem):
    return "scan" in str(jax.make_jaxpr(problem.sum)(problem.arrays))


@pytest.mark.parametrize("n_terms", [3, 4, 7])
def test_many_terms_of_a_row_are_summed_by_a_loop(monkeypatch, assert_derivative_is_right, n_terms):
    monkeypatch.setattr(module, "_UNROLLED_TERMS", 2)
    problem = crowded(n_terms, (3, 3))
    assert is_looped(problem) == (n_terms >= 4)
    assert_close(problem.sum(problem.arrays), problem.loop())
    assert_derivative_is_right(problem, 2)


@pytest.mark.parametrize(("n_terms", "looped"), [(127, False), (131, True)])
def test_more_terms_than_are_unrolled(assert_derivative_is_right, n_terms, looped):
    assert module._UNROLLED_TERMS == 64
    problem = crowded(n_terms, (66, 2))
    assert is_looped(problem) == looped
    assert_close(problem.sum(problem.arrays), problem.loop())
    assert_derivative_is_right(problem, 1)


def test_a_gradient_with_many_terms_of_a_row(assert_derivative_is_right):
    """A product with every row of one operand adds as many terms to the gradient of the other."""
    problem = single((0, 1), (1, 140), 140, 140)
    (products,) = problem.results[0]
    products.rows = np.arange(140)
    products.factors = np.stack([np.zeros(140, int), np.arange(140)], axis=1)
    problem.sums = ((products.terms,),)
    assert not is_looped(problem)
    assert "scan" in str(
        jax.make_jaxpr(jax.grad(lambda a: problem.sum(a)[0].sum()))(problem.arrays)
    )
    assert_derivative_is_right(problem, 2)


def test_inside_jit_and_vmap(problem):
    expected = problem.plain_sum(problem.arrays)
    assert_close(jax.jit(problem.sum)(problem.arrays), expected)
    stacked = tuple(jnp.stack([x, 2 * x]) for x in problem.arrays)
    found = jax.vmap(problem.sum)(stacked)
    assert_close([x[0] for x in found], expected)
    assert_close([x[1] for x in found], problem.plain_sum([2 * x for x in problem.arrays]))


def test_float32_stays_float32(problem):
    arrays = tuple(x.astype(jnp.float32) for x in problem.arrays)
    found = problem.sum(arrays)
    assert {x.dtype for x in found} == {np.dtype(np.float32)}
    assert_close(found, problem.loop(), 1e-5)
    gradients = jax.grad(lambda a: sum(x.sum() for x in problem.sum(a)))(arrays)
    assert {gradient.dtype for gradient in gradients} == {np.dtype(np.float32)}
