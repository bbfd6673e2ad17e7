import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.batching.shape_classes import padded_caps
from mace_jax.batching.tight_packing import pack_graphs


def sizes_of(n_node, n_neighbor):
    """Graphs whose atoms all have the same number of neighbours."""
    return GraphSizes(n_node, n_node * n_neighbor, np.repeat(n_neighbor, n_node))


def mptrj_like(n):
    """Sizes as in MPtrj: about 31 atoms, log-normal, 40 to 80 neighbours an atom."""
    rng = np.random.default_rng(0)
    n_node = np.clip(rng.lognormal(3.2, 0.7, n), 1, 444).astype(int)
    sizes = sizes_of(n_node, rng.integers(40, 80, n))
    assert sizes.n_edge.max() > 10 * np.median(sizes.n_edge)
    return sizes


def molecules_and_crystals(n):
    """Half molecules of a few neighbours an atom, half crystals of 1 to 200 atoms with many."""
    rng = np.random.default_rng(0)
    molecule = rng.random(n) < 0.5
    few = np.clip(rng.lognormal(2.8, 0.5, n), 2, 80)
    many = np.clip(rng.lognormal(3.2, 0.8, n), 1, 200)
    n_node = np.where(molecule, few, many).astype(int)
    around = np.where(molecule, np.minimum(n_node - 1, rng.integers(10, 20, n)), 0)
    return sizes_of(n_node, np.where(molecule, around, rng.integers(30, 80, n)))


@pytest.mark.parametrize("make", [mptrj_like, molecules_and_crystals])
@pytest.mark.parametrize("per_batch", [8, 32])
def test_little_is_wasted_and_size_is_not_tied_to_batch(make, per_batch):
    sizes = make(10_000)
    cap = max(int(per_batch * sizes.n_edge.mean()), int(sizes.n_edge.max()))
    batches = pack_graphs(sizes, cap, 0)
    caps = padded_caps(sizes, batches)
    bound = math.ceil(sizes.n_edge.sum() / cap)
    assert caps.n_edge <= cap
    assert bound <= len(batches) <= 1.03 * bound
    assert 1 - sizes.n_edge.sum() / (len(batches) * caps.n_edge) <= 0.02
    assert 1 - sizes.n_node.sum() / (len(batches) * caps.n_node) <= 0.05
    order = batches.ids
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.1  # shuffled
    means = batches.sums(sizes.n_edge) / batches.n_graph
    assert np.median(means) == pytest.approx(sizes.n_edge.mean(), rel=0.3)  # not sorted by size


def test_graphs_of_one_size_do_not_widen_the_batches():
    """Six and a half fit: all batches have six."""
    sizes = sizes_of(np.full(60, 10), np.full(60, 10))
    batches = pack_graphs(sizes, 650, 0)
    assert batches.n_graph.tolist() == [6] * 10
    assert padded_caps(sizes, batches).n_edge == 600


def test_a_cap_near_the_wanted_one_may_be_larger():
    """Ten fit into 1000 edges, but only nine and a half into the 950 that are wanted."""
    sizes = sizes_of(np.full(100, 10), np.full(100, 10))
    near = pack_graphs(sizes, 950, 0, near=True)
    assert near.sums(sizes.n_edge).tolist() == [1000] * 10
    assert pack_graphs(sizes, 950, 0).sums(sizes.n_edge).max() == 900


def test_larger_graphs_open_larger_batches_which_small_ones_top_up():
    sizes = sizes_of(np.array([20, *[1] * 39]), np.full(40, 10))
    batches = pack_graphs(sizes, 20, 0, larger=(250,))
    (large,) = (batch for batch in batches if 0 in batch)
    assert len(large) == 6
    others = [batch for batch in batches if 0 not in batch]
    assert all(sizes.n_edge[batch].sum() <= 20 for batch in others)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=60),
    st.integers(0, 100),
    st.integers(0, 9),
    st.data(),
)
def test_each_of_the_wanted_graphs_once_under_the_cap(graphs, more, seed, data):
    n_node, n_neighbor = np.array(graphs).T
    sizes = sizes_of(n_node, n_neighbor)
    ids = st.sampled_from(range(len(graphs)))
    wanted = data.draw(st.lists(ids, min_size=1, unique=True))
    cap = max(int(sizes.n_edge.max()), 1) + more
    batches = pack_graphs(sizes, cap, seed, graphs=np.array(wanted))
    assert sorted(batches.ids) == sorted(wanted)
    assert batches.sums(sizes.n_edge).max() <= cap
    assert pack_graphs(sizes, cap, seed, graphs=np.array(wanted)) == batches
