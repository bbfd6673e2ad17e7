"""The maps between atoms, pairs and slots, against loops over edges; garbage in padding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.batching.graph import GraphBuilder
from mace_jax.batching.graph_batch import pad_batch
from mace_jax.model import neighbors

PARTNERS = {
    "slots_from_pairs": "pairs_from_slots",
    "pairs_from_slots": "slots_from_pairs",
    "neighbors_from_nodes": "nodes_from_neighbors",
    "nodes_from_neighbors": "neighbors_from_nodes",
    "nodes_from_rows": "rows_from_nodes",
    "rows_from_nodes": "nodes_from_rows",
}


class Slot(NamedTuple):
    place: tuple[int, int]
    pair: int
    neighbor: int


@pytest.fixture(params=[1, 3, 60], ids=["a slot a row", "three slots a row", "one row an atom"])
def batch(request, molecule, crystal):
    """Two structures; what padding and empty slots point at is arbitrary."""
    builder = GraphBuilder(3.2, (1, 6, 8), ("Default",), {})
    graphs = [builder.build(structure) for structure in (molecule, crystal)]
    n_neighbor, n_edge = request.param, sum(int(g.n_neighbors.sum()) for g in graphs)
    n_row = 10 if n_neighbor == 60 else 12 + n_edge
    caps = Caps(10, n_edge + 6, 3, n_neighbor, n_row)
    batch = pad_batch(graphs, caps, "float64")
    rng = np.random.default_rng(0)
    table, real = batch.table, batch.pair_mask
    assert (~real).sum() == 3
    assert (np.bincount(table.row_node)[:8].max() > 1) == (n_row > 10)
    itself = (batch.pair_senders == batch.pair_receivers)[real]
    assert itself.any()
    assert not itself.all()
    empty = table.slot_direction == 0
    assert empty.any()
    slot_pair = np.where(empty, rng.integers(len(real), size=empty.shape), table.slot_pair)
    anywhere = rng.integers(empty.size, size=table.pair_slots.shape)
    pair_slots = np.where(real[:, None], table.pair_slots, anywhere)
    ends = [
        np.where(real, end, rng.integers(10, size=len(real)))
        for end in (batch.pair_senders, batch.pair_receivers)
    ]
    table = table._replace(slot_pair=slot_pair, pair_slots=pair_slots)
    return batch._replace(pair_senders=ends[0], pair_receivers=ends[1], table=table)


def slots(batch):
    """Yield the slots that are not empty."""
    table = batch.table
    for row, column in np.argwhere(table.slot_direction != 0):
        pair = table.slot_pair[row, column]
        ends = {int(batch.pair_senders[pair]), int(batch.pair_receivers[pair])}
        others = ends - {int(table.row_node[row])} or ends  # an atom is its own neighbour, too
        yield Slot((row, column), pair, others.pop())


def shapes(batch):
    """Return, of each map, the leading shape of what it is given."""
    n_pair, n_node = len(batch.pair_mask), len(batch.species)
    table = batch.table.slot_pair.shape
    return {
        "slots_from_pairs": (n_pair,),
        "pairs_from_slots": table,
        "neighbors_from_nodes": (n_node,),
        "nodes_from_neighbors": table,
        "nodes_from_rows": (table[0],),
        "rows_from_nodes": (n_node,),
    }


def by_loop(name, x, batch):
    rest = x.shape[len(shapes(batch)[name]) :]
    found = np.zeros((*shapes(batch)[PARTNERS[name]], *rest))
    if name in ("slots_from_pairs", "pairs_from_slots", "neighbors_from_nodes"):
        for slot in slots(batch):
            if name == "slots_from_pairs":
                found[slot.place] = x[slot.pair]
            elif name == "pairs_from_slots":
                found[slot.pair] += x[slot.place]
            else:
                found[slot.place] = x[slot.neighbor]
    elif name == "nodes_from_neighbors":
        for slot in slots(batch):
            found[slot.neighbor] += x[slot.place]
    else:
        for row, node in enumerate(batch.table.row_node):
            if name == "nodes_from_rows":
                found[node] += x[row]
            else:
                found[row] = x[node]
    return found


@pytest.fixture(params=PARTNERS)
def name(request):
    return request.param


@pytest.fixture
def linear(name):
    return getattr(neighbors, name)


@pytest.mark.parametrize("rest", [(), (3, 2)], ids=str)
def test_each_map_is_a_loop_over_edges(name, linear, batch, rest):
    x = np.random.default_rng(1).normal(size=(*shapes(batch)[name], *rest))
    found = linear(jnp.asarray(x), batch)
    assert_allclose(found, by_loop(name, x, batch), atol=1e-14)
    assert_allclose(jax.jit(linear)(x, batch), found, atol=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_garbage_in_padding_goes_nowhere(name, linear, batch, bad):
    """Rows that belong to a padding atom are its own."""
    x = np.random.default_rng(2).normal(size=shapes(batch)[name])
    table = batch.table
    padding = {
        (len(batch.pair_mask),): ~batch.pair_mask,
        (len(batch.species),): ~batch.node_mask,
        table.slot_pair.shape: table.slot_direction == 0,
    }
    of_row = ~batch.node_mask[table.row_node]
    mask = of_row if name == "nodes_from_rows" else padding[x.shape]
    spoiled = np.where(mask, bad, x)
    assert mask.any()
    found, expected = (np.asarray(linear(jnp.asarray(a), batch)) for a in (spoiled, x))
    if name == "nodes_from_rows":
        found, expected = found[batch.node_mask], expected[batch.node_mask]
    elif name == "rows_from_nodes":
        real = batch.node_mask[table.row_node]
        found, expected = found[real], expected[real]
    np.testing.assert_array_equal(found, expected)


def test_the_derivative_of_each_map_is_its_partner(name, linear, batch):
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(*shapes(batch)[name], 2)))
    y = jnp.asarray(rng.normal(size=(*shapes(batch)[PARTNERS[name]], 2)))
    partner = getattr(neighbors, PARTNERS[name])(y, batch)
    mapped, transposed = jax.vjp(lambda x: linear(x, batch), x)
    np.testing.assert_array_equal(transposed(y)[0], partner)
    assert_allclose((y * mapped).sum(), (partner * x).sum(), rtol=1e-12)


def test_second_derivatives(name, linear, batch):
    shape = shapes(batch)[name]
    size = int(np.prod(shape))
    basis = np.eye(size).reshape(size, *shape)
    matrix = np.stack([by_loop(name, unit, batch).ravel() for unit in basis], axis=1)
    rng = np.random.default_rng(4)
    x, v = (jnp.asarray(rng.normal(size=shape)) for _ in range(2))

    def slope(f):
        """Differentiate twice, the second time along ``v``."""
        return jax.jit(jax.grad(lambda x: (jax.grad(f)(x) * v).sum()))(x)

    found = slope(lambda x: jnp.sin(linear(x, batch)).sum())
    expected = slope(lambda x: jnp.sin(matrix @ x.ravel()).sum())
    assert np.abs(expected).max() > 0.1
    assert_allclose(found, expected, atol=1e-12)


def test_a_batch_of_arrays_is_mapped_one_by_one(name, linear, batch):
    x = jnp.asarray(np.random.default_rng(5).normal(size=(3, *shapes(batch)[name])))
    found = jax.vmap(lambda x: linear(x, batch))(x)
    for one, expected in zip(x, found, strict=True):
        assert_allclose(linear(one, batch), expected, atol=1e-14)


@pytest.mark.parametrize("batch", [60], indirect=True, ids=["one row an atom"])
@pytest.mark.parametrize("order", [1, 2])
def test_no_derivative_scatters(linear, name, batch, order):
    def first(x):
        return jax.grad(lambda x: jnp.sin(linear(x, batch)).sum())(x)

    def second(x):
        return jax.grad(lambda x: jnp.square(first(x)).sum())(x)

    program = jax.make_jaxpr({1: first, 2: second}[order])(jnp.ones(shapes(batch)[name]))
    assert "scatter" not in str(program)
