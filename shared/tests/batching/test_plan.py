import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.artifacts.batch_plan import read_batch_plan, require_plan_fits, write_batch_plan
from mace_jax.artifacts.dataset import Dataset, write_dataset_file
from mace_jax.batching.neighbor_table import n_rows
from mace_jax.batching.plan import (
    GraphSizes,
    graph_sizes,
    pack_graphs,
    padded_caps,
    plan_batches,
    plan_lines,
)
from mace_jax.structures.neighbor_list import neighbor_list
from mace_jax.structures.structure import Structure


def chain(n):
    """``n`` atoms 1 Å apart: 2 (n - 1) edges at a cutoff of 1.5 Å."""
    positions = np.zeros((n, 3))
    positions[:, 0] = np.arange(n)
    return Structure(np.ones(n, dtype=int), positions, np.zeros((3, 3)), np.zeros(3, dtype=bool))


LENGTHS = [2, 3, 5, 2, 4, 1, 3, 6, 2, 2, 7, 3]


@pytest.fixture
def dataset(tmp_path, provenance):
    path = tmp_path / "train.h5"
    write_dataset_file(path, [chain(n) for n in LENGTHS], provenance)
    with Dataset(path) as dataset:
        yield dataset


def mptrj_like(n=5000):
    """Sizes as in MPtrj: about 31 atoms, log-normal, 40 to 80 neighbours an atom."""
    rng = np.random.default_rng(0)
    n_node = np.clip(rng.lognormal(3.2, 0.7, n), 1, 444).astype(int)
    means = rng.uniform(40, 80, n)
    sizes = GraphSizes([rng.poisson(mean, size) for mean, size in zip(means, n_node, strict=True)])
    assert sizes.n_node.std() > 15
    assert sizes.n_edge.max() > 10 * np.median(sizes.n_edge)
    return sizes


def test_sizes_are_counted(dataset):
    sizes = graph_sizes(dataset, 1.5)
    assert sizes.n_node.tolist() == LENGTHS
    assert sizes.n_edge.tolist() == [2 * (n - 1) for n in LENGTHS]
    assert sizes.n_neighbors[4].tolist() == [1, 2, 2, 1]
    assert sizes.n_neighbors[5].tolist() == [0]


def test_the_plan_names_the_data_and_the_cutoff(dataset, tmp_path, provenance):
    plan = plan_batches(dataset, 1.5, 20, seed=5)
    require_plan_fits(plan, tmp_path, dataset, 1.5)
    assert (plan.dataset_name, plan.n_structures, plan.seed) == ("train.h5", 12, 5)
    write_batch_plan(tmp_path / "a.plan.json", plan, provenance)
    assert read_batch_plan(tmp_path / "a.plan.json") == plan


def test_the_report_by_hand(dataset):
    plan = plan_batches(dataset, 1.5, 20)
    n_edge = [2 * (n - 1) for n in LENGTHS]
    caps, report, n = plan.caps, plan.report, len(plan.batches)
    assert caps.n_edge == max(sum(n_edge[i] for i in batch) for batch in plan.batches) <= 20
    assert caps.n_node == max(sum(LENGTHS[i] for i in batch) for batch in plan.batches) + 1
    assert caps.n_graph == max(len(batch) for batch in plan.batches) + 1
    assert (caps.n_neighbor, caps.n_row) == (2, caps.n_node)  # in a chain nobody has more than two
    assert report.n_graphs == 12
    assert report.n_batches == n
    assert report.n_batches_lower_bound == math.ceil(sum(n_edge) / 20) == 3 <= n
    assert report.edge_waste == pytest.approx(1 - sum(n_edge) / (n * caps.n_edge))
    assert report.node_waste == pytest.approx(1 - sum(LENGTHS) / (n * caps.n_node))
    assert report.graph_waste == pytest.approx(1 - 12 / (n * caps.n_graph))
    assert report.requested_n_edge == 20
    assert report.largest_graph == {"id": 10, "n_node": 7, "n_edge": 12}
    assert f"12 graphs in {n} batches (lower bound 3)" in plan_lines(plan)
    assert f"{caps.n_node} rows of 2 neighbours" in plan_lines(plan)[1]


def test_a_graph_larger_than_the_cap_raises_it_with_a_warning_that_names_it(dataset, caplog):
    with caplog.at_level(logging.WARNING):
        plan = plan_batches(dataset, 1.5, 5)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "train.h5: config_batch_0/config_10: has 12 edges" in record.getMessage()
    assert "--n-edge 5; the cap is raised to 12" in record.getMessage()
    assert plan.caps.n_edge == 12
    assert plan.report.requested_n_edge == 5


def test_a_cap_that_is_large_enough_is_not_raised(dataset, caplog):
    with caplog.at_level(logging.WARNING):
        assert plan_batches(dataset, 1.5, 12).caps.n_edge <= 12
    assert not caplog.records


@pytest.mark.parametrize("n_edge", [1, 12, 20, 1000])
@pytest.mark.parametrize("seed", [0, 1])
def test_padding_leaves_a_node_and_a_graph_in_every_batch(dataset, n_edge, seed):
    plan = plan_batches(dataset, 1.5, n_edge, seed)
    assert sorted(i for batch in plan.batches for i in batch) == list(range(12))
    for batch in plan.batches:
        assert len(batch) < plan.caps.n_graph
        assert sum(LENGTHS[i] for i in batch) < plan.caps.n_node
        assert sum(2 * (LENGTHS[i] - 1) for i in batch) <= plan.caps.n_edge


def test_a_plan_is_a_function_of_data_and_seed(dataset):
    assert plan_batches(dataset, 1.5, 20, 1) == plan_batches(dataset, 1.5, 20, 1)
    assert plan_batches(dataset, 1.5, 20, 1).batches != plan_batches(dataset, 1.5, 20, 2).batches


def test_structures_without_any_edges_can_be_planned(tmp_path, provenance):
    path = tmp_path / "atoms.h5"
    write_dataset_file(path, [chain(1)] * 3, provenance)
    with Dataset(path) as dataset:
        plan = plan_batches(dataset, 1.5, 10)
    assert plan.caps.n_edge >= 1
    assert plan.report.n_batches_lower_bound <= len(plan.batches)
    write_batch_plan(tmp_path / "a.plan.json", plan, provenance)
    assert read_batch_plan(tmp_path / "a.plan.json") == plan


@pytest.mark.parametrize("per_batch", [3, 8, 32])
def test_waste_on_sizes_like_those_of_mptrj(per_batch):
    sizes = mptrj_like()
    cap = max(int(per_batch * sizes.n_edge.mean()), int(sizes.n_edge.max()))
    batches = pack_graphs(sizes, cap, 0)
    caps = padded_caps(sizes, batches)
    assert caps.n_edge <= cap
    assert len(batches) >= math.ceil(sizes.n_edge.sum() / cap)
    assert 1 - sizes.n_edge.sum() / (len(batches) * caps.n_edge) < 0.05
    assert 1 - sizes.n_node.sum() / (len(batches) * caps.n_node) < 0.15
    order = np.concatenate(batches)
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.1  # shuffled
    means = [sizes.n_edge[batch].mean() for batch in batches]
    assert np.median(means) == pytest.approx(sizes.n_edge.mean(), rel=0.3)  # not sorted by size


def test_the_cutoff_matters(dataset):
    assert graph_sizes(dataset, 2.5).n_edge.sum() > graph_sizes(dataset, 1.5).n_edge.sum()
    assert graph_sizes(dataset, 2.5).n_edge[0] == len(neighbor_list(dataset[0], 2.5).senders)


# --- the neighbour table of a plan

SPREADS = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=8), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(SPREADS, st.integers(1, 5))
def test_the_caps_suffice_for_every_batch_and_one_of_them_needs_all(spreads, n_batches):
    sizes = GraphSizes([np.array(spread) for spread in spreads])
    batches = [batch for batch in np.array_split(range(len(spreads)), n_batches) if len(batch)]
    caps = padded_caps(sizes, batches)
    nodes, edges, rows = [], [], []
    for batch in batches:
        n_neighbors = np.concatenate([sizes.n_neighbors[graph] for graph in batch])
        padded = np.pad(n_neighbors, (0, caps.n_node - len(n_neighbors)))
        nodes.append(len(n_neighbors))
        edges.append(n_neighbors.sum())
        rows.append(n_rows(padded, caps.n_neighbor).sum())
    assert caps.n_node == max(nodes) + 1
    assert caps.n_edge == max(*edges, 1)
    assert caps.n_row == max(rows)
    assert 1 <= caps.n_neighbor <= max(1, *map(max, spreads))


def test_atoms_with_the_same_number_of_neighbours_have_one_full_row_each():
    sizes = GraphSizes([np.full(5, 12), np.full(3, 12)])
    caps = padded_caps(sizes, [[0], [1]])
    assert (caps.n_neighbor, caps.n_row) == (12, caps.n_node)


def test_one_crowded_atom_does_not_widen_the_rows_of_all():
    crowded = np.full(1000, 10)
    crowded[3] = 500
    caps = padded_caps(GraphSizes([crowded]), [[0]])
    assert 10 <= caps.n_neighbor < 100
    assert caps.n_row * caps.n_neighbor < 1.5 * crowded.sum()


def test_few_slots_are_empty_on_numbers_of_neighbours_like_those_of_mptrj():
    sizes = mptrj_like()
    caps = padded_caps(sizes, [range(5000)])
    assert caps.n_row * caps.n_neighbor < 1.5 * sizes.n_edge.sum()
