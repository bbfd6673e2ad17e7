"""Products of small matrices, one for each row, whose derivatives are such products again.

Derivatives that JAX finds by itself come out transposed, and XLA's CPU compiler is slow at products
whose left matrix is. So each is written down in the order in which nothing large is transposed.
"""

from functools import partial

import jax
from jax import Array

from mace_jax.model.fusion_boundary import computed_apart


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def products_in_rows(subscripts: str, a: Array, b: Array) -> Array:
    """Return ``jnp.einsum(subscripts, a, b)``.

    Args:
        subscripts: three letters each, the row first, as in ``rxc,rxu->rcu``.
        a, b: ``a`` is the smaller one of ``rxc,rxu->rcu``.
    """
    of_a, of_b, of_result = _letters(subscripts)
    if of_result[1] not in of_a:
        return products_in_rows(f"{of_b},{of_a}->{of_result}", b, a)
    if of_a[1] not in of_result:
        of_a, a = of_a[0] + of_a[:0:-1], _transposed((0, 2, 1), a)
    (shared,) = set(of_a[1:]) & set(of_b[1:])
    contracted = (of_a.index(shared),), (of_b.index(shared),)
    return jax.lax.dot_general(a, b, (contracted, ((0,), (0,))))


@computed_apart
def _transposed(axes: tuple[int, ...], x: Array) -> Array:
    return x.transpose(axes)


def _letters(subscripts: str) -> tuple[str, str, str]:
    inputs, of_result = subscripts.split("->")
    of_a, of_b = inputs.split(",")
    return of_a, of_b, of_result


def _forward(subscripts: str, a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return products_in_rows(subscripts, a, b), (a, b)


def _backward(
    subscripts: str, operands: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    of_a, of_b, of_result = _letters(subscripts)
    a, b = operands
    return (
        products_in_rows(f"{of_result},{of_b}->{of_a}", cotangent, b),
        products_in_rows(f"{of_a},{of_result}->{of_b}", a, cotangent),
    )


products_in_rows.defvjp(_forward, _backward)
