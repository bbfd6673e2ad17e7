"""Split a computation into what stays while some of its arguments change, and the rest.

Much of an MD step depends on weights and elements alone and need not be done again when atoms have
moved. What that is can be read from the traced function, so that no network has to say it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun
from jax.extend.core.primitives import broadcast_in_dim_p


class Split(NamedTuple):
    """A function of staying and of moving arguments, in two parts.

    Attributes:
        prepare: from the staying arguments to what ``finish`` has to know of them.
        finish: from that and the moving arguments to the function's result.
    """

    prepare: Callable[[Any], list[Array]]
    finish: Callable[[Sequence[Array], Any], Any]


def split_computation(function: Callable[[Any, Any], Any], staying: Any, moving: Any) -> Split:
    """Split ``function(staying, moving)`` for arguments of the shapes of these.

    Copies of an array along new axes are left to whatever reads them: XLA does both at once.
    """
    closed, result = jax.make_jaxpr(function, return_shape=True)(staying, moving)
    jaxpr = closed.jaxpr
    structure: Any = jax.tree.structure(result)
    n_staying = len(jax.tree.leaves(staying))
    stayed, moved = jaxpr.invars[:n_staying], jaxpr.invars[n_staying:]
    from_stayed, from_moved = (_reached(jaxpr.eqns, inputs) for inputs in (stayed, moved))
    first: list[JaxprEqn] = []
    last: list[JaxprEqn] = []
    needed = _variables(jaxpr.outvars)
    for equation in reversed(jaxpr.eqns):
        results = set(equation.outvars)
        if not results & from_moved:
            first.insert(0, equation)
        copies = not results & from_stayed or equation.primitive is broadcast_in_dim_p
        if results & needed and (results & from_moved or copies):
            last.insert(0, equation)
            needed |= _variables(equation.invars)
    found = [*stayed, *(variable for equation in first for variable in equation.outvars)]
    made = {variable for equation in last for variable in equation.outvars}
    kept = [variable for variable in found if variable in needed - made]
    prepare = _function(closed, stayed, first, kept)
    finish = _function(closed, [*kept, *moved], last, jaxpr.outvars)
    return Split(
        lambda staying: prepare(*jax.tree.leaves(staying)),
        lambda prepared, moving: structure.unflatten(finish(*prepared, *jax.tree.leaves(moving))),
    )


def _function(
    closed: ClosedJaxpr, inputs: list[Var], equations: list[JaxprEqn], outputs: list[Any]
) -> Callable[..., list[Array]]:
    """Return some equations of a traced function as a function of their own."""
    jaxpr = Jaxpr(closed.jaxpr.constvars, inputs, outputs, equations)
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, closed.consts))


def _variables(atoms: Iterable[Any]) -> set[Var]:
    return {atom for atom in atoms if not isinstance(atom, Literal)}


def _reached(equations: Iterable[JaxprEqn], inputs: Iterable[Var]) -> set[Var]:
    """Return the variables that depend on ``inputs``."""
    reached = set(inputs)
    for equation in equations:
        if reached & _variables(equation.invars):
            reached.update(equation.outvars)
    return reached
