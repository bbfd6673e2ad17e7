"""How long a neighbour list holds while atoms and cell move, and how much room the next needs."""

from dataclasses import astuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.batches import Batches
from mace_jax.batching.graph import Graph
from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.batching.neighbor_table import n_rows
from mace_jax.batching.shape_classes import padded_caps
from mace_jax.structures.structure import Structure, volume

# Neighbours that there is room for, relative to those of the first list and of later ones: what
# has outgrown its room once is likely to go on.
_FIRST_ROOM, _LATER_ROOM = 1.1, 1.3
# Atoms per Å³ in condensed matter, roughly: what a gas that outgrows its room is on its way to.
_DENSE = 0.1


def list_holds(old: Structure, new: Structure, r_max: float, reach: float) -> bool:
    """Return whether a list built for ``old`` must have every pair of ``new`` in the cutoff.

    Seen from the old cell, that is with its deformation undone, a pair of the cutoff's length
    is longer by at most the inverse of the least stretch, and each end has moved.

    Args:
        old: the structure whose list it is.
        new: the structure that it is to serve.
        r_max: cutoff, Å.
        reach: of the list, Å.
    """
    if not _same_atoms(old, new):
        return False
    positions = new.positions
    if not np.array_equal(old.cell, new.cell):
        if np.isinf([volume(old), volume(new)]).any():
            return False
        stretch = np.linalg.solve(old.cell, new.cell)
        positions = np.linalg.solve(stretch.T, positions.T).T
        r_max /= np.linalg.svd(stretch, compute_uv=False).min()
    moved = np.sqrt(((positions - old.positions) ** 2).sum(axis=1).max())
    return bool(r_max + 2 * moved <= reach)


def same_inputs(old: Structure, new: Structure) -> bool:
    """Return whether a model is told the same beside atoms and positions."""
    return (
        old.head == new.head
        and old.inputs.keys() == new.inputs.keys()
        and all(np.array_equal(value, new.inputs[name]) for name, value in old.inputs.items())
    )


def _same_atoms(old: Structure, new: Structure) -> bool:
    """Return whether two structures differ in positions and cell at most."""
    return (
        np.array_equal(old.atomic_numbers, new.atomic_numbers)
        and np.array_equal(old.pbc, new.pbc)
        and same_inputs(old, new)
    )


def room(graph: Graph, reach: float, last: Caps | None) -> Caps:
    """Return the padded shape for a graph.

    Args:
        graph: one structure.
        reach: of its pairs, Å.
        last: what the atoms had before; kept if the graph fits, and else made larger.
    """
    neighbors = graph.n_neighbors
    if last is not None and _fits(neighbors, last):
        return last
    expected = _FIRST_ROOM * neighbors
    if last is not None:
        expected = _LATER_ROOM * np.maximum(neighbors, _DENSE * 4 / 3 * np.pi * reach**3)
    if not graph.structure.pbc.any():
        expected = np.minimum(expected, len(neighbors) - 1)
    sizes = GraphSizes.from_lists([np.ceil(expected).astype(np.int64)])
    caps = padded_caps(sizes, Batches.from_lists([[0]]))
    return caps if last is None else Caps(*map(max, astuple(caps), astuple(last)))


def _fits(neighbors: NDArray[np.integer], caps: Caps) -> bool:
    rows = n_rows(neighbors, caps.n_neighbor).sum() + 1  # one for the padding atom
    return bool(rows <= caps.n_row and neighbors.sum() <= caps.n_edge)
