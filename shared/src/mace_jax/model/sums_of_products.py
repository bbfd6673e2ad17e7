"""Sums of products of rows, whose derivatives of any order are sums of products again.

JAX differentiates a gather into a scatter, which XLA does one by one on a CPU. Here the derivative
is another gather, from a table of which terms contribute to which row.
"""

from functools import cache, cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from mace_jax.model.fusion_boundary import computed_apart
from mace_jax.model.gathers import rows_of

_UNROLLED_TERMS = 64  # more per row are summed by a loop, so that they compile in time


class Table(NamedTuple):
    """Terms by the row they add to, padded to the same number for each row.

    Attributes:
        factors: rows of the operands, ``[n_slots, n_factors, n_rows]``.
        coefficients: ``[n_slots, n_rows]``; 0 where a row has fewer terms.
    """

    factors: NDArray[np.int32]
    coefficients: NDArray[np.float64]


class Terms:
    """Which products are summed.

    Row ``rows[t]`` of the result gets ``coefficients[t]`` times the product over f of row
    ``factors[t, f]`` of operand ``operands[f]``.
    """

    def __init__(
        self,
        operands: tuple[int, ...],
        n_rows: int,
        rows: NDArray[np.integer],
        factors: NDArray[np.integer],
        coefficients: NDArray[np.floating],
    ) -> None:
        """Keep the terms; those that differ in the order of equal operands only are merged."""
        by_operand = np.argsort(operands, kind="stable").astype(int)
        self.operands, self.n_rows = tuple(operands[column] for column in by_operand), n_rows
        factors = factors[:, by_operand]
        for operand in set(self.operands):
            equal = [column for column, other in enumerate(self.operands) if other == operand]
            factors[:, equal] = np.sort(factors[:, equal], axis=1)
        keys, term = np.unique(np.column_stack([rows, factors]), axis=0, return_inverse=True)
        self.rows, self.factors = keys[:, 0], keys[:, 1:]
        self.coefficients = np.bincount(term.ravel(), coefficients, len(keys))

    @cached_property
    def table(self) -> Table:
        """The terms of each row beside each other."""
        counts = np.bincount(self.rows, minlength=self.n_rows)
        slots = np.arange(len(self.rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        n_slots = counts.max(initial=1)
        factors = np.zeros((n_slots, len(self.operands), self.n_rows), np.int32)
        coefficients = np.zeros((n_slots, self.n_rows))
        factors[slots, :, self.rows] = self.factors
        coefficients[slots, self.rows] = self.coefficients
        return Table(factors, coefficients)

    def derivative(self, operand: int, n_rows: int, cotangent: int) -> "Terms":
        """Return the terms of the gradient with respect to ``operand``.

        Args:
            operand: one of the operands.
            n_rows: its number of rows.
            cotangent: the operand that holds the cotangent of the result.
        """
        columns = [column for column, other in enumerate(self.operands) if other == operand]
        others = [np.delete(self.factors, column, axis=1) for column in columns]
        kept = tuple(np.delete(self.operands, columns[0]).tolist())
        return Terms(
            (*kept, cotangent),
            n_rows,
            np.concatenate([self.factors[:, column] for column in columns]),
            np.concatenate([np.column_stack([other, self.rows]) for other in others]),
            np.tile(self.coefficients, len(columns)),
        )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def sums_of_products(
    sums: tuple[tuple[Terms, ...], ...], operands: tuple[Array, ...]
) -> tuple[Array, ...]:
    """Sum products of rows of ``operands``.

    Args:
        sums: all terms of each result; they have its number of rows.
        operands: ``[n_rows of each, n]``.

    Returns: for each of ``sums``, ``[n_rows, n]``.
    """
    results = []
    for first, *others in sums:
        total = _add_terms(first, (None, operands))
        for terms in others:  # each by itself: a kernel of all of them would spill its registers
            total = _add_terms(terms, (total, operands))
        results.append(total)
    return tuple(results)


@computed_apart
def _add_terms(terms: Terms, arrays: tuple[Array | None, tuple[Array, ...]]) -> Array:
    total, operands = arrays
    if total is None:
        total = jnp.zeros((terms.n_rows, operands[0].shape[1]), operands[0].dtype)
    factors, coefficients = terms.table
    n_looped = len(factors) - len(factors) % _UNROLLED_TERMS
    if n_looped > _UNROLLED_TERMS:
        total = _add_in_loop(total, terms, n_looped, operands)
        factors, coefficients = factors[n_looped:], coefficients[n_looped:]
    return _add(total, terms.operands, factors, coefficients, operands)


def _add_in_loop(total: Array, terms: Terms, n_looped: int, operands: tuple[Array, ...]) -> Array:
    chunks = jax.tree.map(
        lambda table: table[:n_looped].reshape(-1, _UNROLLED_TERMS, *table.shape[1:]), terms.table
    )

    def add_chunk(total: Array, chunk: Table) -> tuple[Array, None]:
        return _add(total, terms.operands, *chunk, operands), None

    return jax.lax.scan(add_chunk, total, chunks)[0]


# Operations of jax.lax, because those of jax.numpy are traced in twice the time.
def _add(
    total: Array,
    columns: tuple[int, ...],
    factors: Array | NDArray[np.int32],
    coefficients: Array | NDArray[np.float64],
    operands: tuple[Array, ...],
) -> Array:
    for rows, coefficient in zip(factors, coefficients, strict=True):
        product = jax.lax.broadcast_in_dim(coefficient.astype(total.dtype), total.shape, (0,))
        for operand, row in zip(columns, rows, strict=True):
            product = jax.lax.mul(product, rows_of(operands[operand], row))
        total = jax.lax.add(total, product)
    return total


def _forward(
    sums: tuple[tuple[Terms, ...], ...], operands: tuple[Array, ...]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    return sums_of_products(sums, operands), operands


def _backward(
    sums: tuple[tuple[Terms, ...], ...],
    operands: tuple[Array, ...],
    cotangents: tuple[Array, ...],
) -> tuple[tuple[Array, ...]]:
    lengths = tuple(len(operand) for operand in operands)
    return (sums_of_products(_derivative(sums, lengths), operands + cotangents),)


@cache
def _derivative(
    sums: tuple[tuple[Terms, ...], ...], lengths: tuple[int, ...]
) -> tuple[tuple[Terms, ...], ...]:
    """Return the sums that are the gradients of operands with ``lengths`` rows.

    Their operands are followed by the cotangents of the results.
    """
    return tuple(
        tuple(
            terms.derivative(operand, length, len(lengths) + result)
            for result, every in enumerate(sums)
            for terms in every
            if operand in terms.operands
        )
        or (_no_terms(length),)
        for operand, length in enumerate(lengths)
    )


def _no_terms(n_rows: int) -> Terms:
    nothing = np.zeros(0, np.int64)
    return Terms((), n_rows, nothing, nothing.reshape(0, 0), nothing.astype(float))


sums_of_products.defvjp(_forward, _backward)
