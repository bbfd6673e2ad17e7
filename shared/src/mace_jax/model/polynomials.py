"""Polynomials of features, with coefficients of each element, written out term by term.

Each is one kernel that keeps its features in registers and stores nothing in between, which takes
a tenth of the time of products that are stored first. A gradient is a polynomial again. Their
coefficients are constants: what depends on them, and not on features, has no derivative here.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial, reduce
from itertools import accumulate, groupby
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mace_jax.model.fusion_boundary import computed_apart
from mace_jax.model.gathers import rows_of


class Term(NamedTuple):
    """A product of features.

    Attributes:
        rows: of the features, numbered through all operands, descending.
        coefficient: which one.
        factor: times this.
    """

    rows: tuple[int, ...]
    coefficient: int
    factor: float = 1.0


class Polynomial:
    """A sum of terms."""

    def __init__(self, terms: Iterable[Term]) -> None:
        """Keep the terms in an order in which those with equal first rows are neighbours."""
        self.terms = sorted(terms)

    def derivative(self, row: int, cotangent: int) -> Iterator[Term]:
        """Yield the terms of the derivative by ``row``, times ``cotangent``, the highest row."""
        for rows, coefficient, factor in self.terms:
            count = rows.count(row)
            if count:
                first = rows.index(row)
                others = rows[:first] + rows[first + 1 :]
                yield Term((cotangent, *others), coefficient, count * factor)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def polynomials(
    sums: tuple[Polynomial, ...],
    operands: tuple[Array, ...],
    coefficients: Array,
    species: Array,
) -> Array:
    """Evaluate polynomials for each node and channel.

    Args:
        sums: the polynomials.
        operands: whose rows are multiplied, ``[n_node, n_rows of each, channels]``.
        coefficients: ``[n_coefficients, n_elements, channels]``.
        species: element of each node, ``[n_node]``.

    Returns: ``[n_node, n_polynomials, channels]``.
    """
    arrays = operands, coefficients, species
    return jnp.stack([_evaluated(polynomial, arrays) for polynomial in sums], axis=1)


@computed_apart
def _evaluated(polynomial: Polynomial, arrays: tuple[tuple[Array, ...], Array, Array]) -> Array:
    operands, coefficients, species = arrays
    rows = [(x, row) for x in operands for row in range(x.shape[1])]
    if not polynomial.terms:
        return jnp.zeros_like(operands[0][:, 0])

    @cache
    def feature(row: int) -> Array:
        x, index = rows[row]
        return jax.lax.index_in_dim(x, index, axis=1, keepdims=False)

    def nested(terms: Sequence[Term], depth: int) -> Array:
        """Sum terms whose first ``depth`` rows are the same, those rows left out."""
        parts = []
        for row, group in groupby(terms, lambda term: term.rows[depth : depth + 1]):
            same = list(group)
            if row:
                parts.append(jax.lax.mul(feature(row[0]), nested(same, depth + 1)))
            else:
                parts += [_of_nodes(coefficients, term, species) for term in same]
        return reduce(jax.lax.add, parts)

    return nested(polynomial.terms, 0)


def _of_nodes(coefficients: Array, term: Term, species: Array) -> Array:
    """Return the coefficient of each node times the term's factor, ``[n_node, channels]``."""
    of_element = jax.lax.index_in_dim(coefficients, term.coefficient, keepdims=False)
    of_node = rows_of(of_element, species)
    return of_node if term.factor == 1 else term.factor * of_node


def _forward(
    sums: tuple[Polynomial, ...], operands: tuple[Array, ...], coefficients: Array, species: Array
) -> tuple[Array, tuple[tuple[Array, ...], Array, Array]]:
    arrays = operands, coefficients, species
    return polynomials(sums, *arrays), arrays


def _backward(
    sums: tuple[Polynomial, ...],
    arrays: tuple[tuple[Array, ...], Array, Array],
    cotangent: Array,
) -> tuple[tuple[Array, ...], None, None]:
    operands, coefficients, species = arrays
    lengths = [x.shape[1] for x in operands]
    n_rows = sum(lengths)
    gradient = polynomials(_gradient(sums, n_rows), (*operands, cotangent), coefficients, species)
    return tuple(jnp.split(gradient, list(accumulate(lengths))[:-1], axis=1)), None, None


@cache
def _gradient(sums: tuple[Polynomial, ...], n_rows: int) -> tuple[Polynomial, ...]:
    """Return the derivative by each row; the cotangents' rows follow the operands'."""
    return tuple(
        Polynomial(
            term
            for index, polynomial in enumerate(sums)
            for term in polynomial.derivative(row, n_rows + index)
        )
        for row in range(n_rows)
    )


polynomials.defvjp(_forward, _backward)
