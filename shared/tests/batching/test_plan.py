import itertools
import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.artifacts.batch_plan import (
    PlannedDataset,
    read_batch_plan,
    require_plan_fits,
    write_batch_plan,
)
from mace_jax.artifacts.dataset import Dataset, write_dataset_file
from mace_jax.artifacts.provenance import Input
from mace_jax.batching.graph_sizes import GraphSizes, SizedDataset
from mace_jax.batching.plan import PlanSettings, plan_batches, plan_sized
from mace_jax.batching.plan_report import plan_lines
from mace_jax.batching.shape_classes import NODE_COST
from mace_jax.errors import DataError
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


def sized(lengths, name="a"):
    """A dataset of chains of atoms."""
    spreads = [np.array([1, *[2] * (n - 2), 1]) if n > 1 else np.array([0]) for n in lengths]
    return SizedDataset(
        PlannedDataset(name, 64 * "0", len(lengths)),
        1.5,
        GraphSizes.from_lists(spreads),
        lambda graph: f"{name}.xyz: frame {graph}",
        Input("dataset", name, "dataset", 1, 64 * "0"),
    )


def test_the_plan_names_the_data_and_the_cutoff(dataset, tmp_path, provenance):
    plan = plan_batches([dataset], 1.5, 20, seed=5)
    require_plan_fits(plan, tmp_path, [dataset], 1.5)
    assert plan.datasets == (PlannedDataset("train.h5", dataset.sha256(), 12),)
    assert (plan.n_structures, plan.seed, plan.processes, plan.skipped) == (12, 5, 1, ())
    write_batch_plan(tmp_path / "a.plan.json", plan, provenance)
    assert read_batch_plan(tmp_path / "a.plan.json") == plan


def test_the_report_by_hand(dataset):
    plan = plan_batches([dataset], 1.5, 20)
    n_edge = [2 * (n - 1) for n in LENGTHS]
    (caps,), report, n = plan.shapes, plan.report, len(plan.batches)
    assert caps == plan.caps
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


def test_the_report_of_two_shapes_by_hand():
    """Two chains of eleven atoms, 20 edges, beside twelve of two atoms, 2 edges."""
    plan = plan_sized([sized([11, 11, *[2] * 12])], PlanSettings(4, n_shapes=2))
    large, small = plan.report.shapes
    assert plan.shape_counts == (2, 6) == (large.n_batches, small.n_batches)
    assert [caps.n_edge for caps in plan.shapes] == [20, 4]
    assert [caps.n_node for caps in plan.shapes] == [12, 5]
    assert (large.edge_waste, small.edge_waste, plan.report.edge_waste) == (0, 0, 0)
    assert large.node_waste == pytest.approx(1 - 22 / 24)
    assert small.node_waste == pytest.approx(1 - 24 / 30)
    assert plan.report.node_waste == pytest.approx(1 - 46 / 54)
    assert plan.report.graph_waste == pytest.approx(1 - 14 / (2 * 2 + 6 * 3))
    assert plan.report.n_batches_lower_bound == 8
    assert plan_lines(plan)[1:4] == [
        "padded shape of 2: 20 edges, 12 nodes, 2 graphs; 12 rows of 2 neighbours",
        "  empty slots: 0.0% of edges, 8.3% of nodes, 50.0% of graphs",
        "padded shape of 6: 4 edges, 5 nodes, 3 graphs; 5 rows of 2 neighbours",
    ]


def test_a_plan_is_a_function_of_data_and_seed(dataset):
    assert plan_batches([dataset], 1.5, 20, 1) == plan_batches([dataset], 1.5, 20, 1)
    assert (
        plan_batches([dataset], 1.5, 20, 1).batches != plan_batches([dataset], 1.5, 20, 2).batches
    )


def test_structures_without_any_edges_can_be_planned(tmp_path, provenance):
    path = tmp_path / "atoms.h5"
    write_dataset_file(path, [chain(1)] * 3, provenance)
    with Dataset(path) as dataset:
        plan = plan_batches([dataset], 1.5, 10)
    assert plan.caps.n_edge >= 1
    assert plan.report.n_batches_lower_bound <= len(plan.batches)
    write_batch_plan(tmp_path / "a.plan.json", plan, provenance)
    assert read_batch_plan(tmp_path / "a.plan.json") == plan


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=20), min_size=1, max_size=3),
    st.builds(
        PlanSettings,
        n_edge=st.integers(1, 80),
        near=st.booleans(),
        n_shapes=st.integers(1, 4),
        oversize=st.sampled_from(["raise", "own-shape", "skip"]),
        processes=st.integers(1, 5),
        seed=st.integers(0, 9),
    ),
)
def test_every_graph_once_within_its_shape_in_full_groups(lengths, wanted):
    every = np.concatenate(lengths)
    n_edge = 2 * (every - 1)
    large = np.flatnonzero(n_edge > wanted.n_edge)
    if wanted.oversize == "skip" and len(large) == len(every):
        with pytest.raises(DataError, match="more than the cap"):
            plan_sized([sized(part) for part in lengths], wanted)
        return
    plan = plan_sized([sized(part) for part in lengths], wanted)
    assert plan.skipped == (tuple(large) if wanted.oversize == "skip" else ())
    assert sorted([*plan.batches.ids, *plan.skipped]) == list(range(len(every)))
    assert len(plan.shapes) <= wanted.n_shapes + (wanted.oversize == "own-shape")
    assert all(count % wanted.processes == 0 for count in plan.shape_counts)
    assert sum(plan.shape_counts) == len(plan.batches) == len(plan.shape)
    for shape, batch in zip(plan.shape, plan.batches, strict=True):
        caps = plan.shapes[shape]
        assert len(batch) < caps.n_graph
        assert every[batch].sum() < caps.n_node
        assert n_edge[batch].sum() <= caps.n_edge
    if not large.size and not wanted.near:
        assert plan.caps.n_edge <= max(wanted.n_edge, 1)
    assert plan.report.n_batches_lower_bound <= len(plan.batches)


# --- graphs that are too large


def test_a_graph_larger_than_the_cap_raises_it_with_a_warning_that_names_it(dataset, caplog):
    with caplog.at_level(logging.WARNING):
        plan = plan_batches([dataset], 1.5, 5)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "train.h5: config_batch_0/config_10: has 12 edges" in record.getMessage()
    assert "more than the cap of 5; the cap is raised to 12" in record.getMessage()
    assert plan.caps.n_edge == 12
    assert plan.report.requested_n_edge == 5


def test_a_cap_that_is_large_enough_is_not_raised(dataset, caplog):
    with caplog.at_level(logging.WARNING):
        assert plan_batches([dataset], 1.5, 12).caps.n_edge <= 12
    assert not caplog.records


LARGE = [*[3] * 40, 30, 50]


@pytest.mark.parametrize(("oversize", "n_shapes"), [("raise", 2), ("own-shape", 1)])
def test_large_graphs_do_not_widen_the_other_batches(oversize, n_shapes, caplog):
    plan = plan_sized([sized(LARGE)], PlanSettings(20, n_shapes=n_shapes, oversize=oversize))
    assert [caps.n_edge for caps in plan.shapes] == [98, 20]
    assert plan.shape_counts[0] == 2
    assert "a.xyz: frame 41: has 98 edges, more than the cap of 20; 2 graphs" in caplog.text
    one = plan_sized([sized(LARGE)], PlanSettings(20))
    assert [caps.n_edge for caps in one.shapes] == [98]


@pytest.mark.parametrize("n_edge", [10, 30, 60, 90])
def test_more_shapes_do_not_cost_more(n_edge):
    lengths = np.random.default_rng(0).integers(2, 60, 300)

    def cost(n_shapes):
        plan = plan_sized([sized(lengths)], PlanSettings(n_edge, n_shapes=n_shapes))
        padded = zip(plan.shape_counts, plan.shapes, strict=True)
        return sum(count * (caps.n_edge + NODE_COST * caps.n_node) for count, caps in padded)

    costs = [cost(n_shapes) for n_shapes in (2, 3, 4)]
    for fewer, more in itertools.pairwise(costs):
        assert more <= 1.02 * fewer


def test_large_graphs_that_are_skipped_are_named_and_stand_in_the_plan(caplog):
    both = [sized([3, 30], "a"), sized([3, 50, 3], "b")]
    plan = plan_sized(both, PlanSettings(20, oversize="skip"))
    assert plan.skipped == (1, 3)
    assert sorted(plan.batches.ids) == [0, 2, 4]
    assert plan.report.largest_graph["n_edge"] == 4
    assert "b.xyz: frame 1: has 98 edges" in caplog.text
    assert "2 graphs are skipped: 1, 3" in caplog.text


def test_large_graphs_can_be_an_error():
    with pytest.raises(DataError, match=r"a\.xyz: frame 41: has 98 edges, .* 2 graphs in all; rai"):
        plan_sized([sized(LARGE)], PlanSettings(20, oversize="error"))


def test_of_a_large_graph_alone_nothing_is_left():
    with pytest.raises(DataError, match=r"a\.xyz: frame 0: has 98 edges"):
        plan_sized([sized([50])], PlanSettings(20, oversize="skip"))


def test_processes_share_the_batches():
    plan = plan_sized([sized(LARGE)], PlanSettings(20, n_shapes=2, processes=4))
    assert all(count % 4 == 0 for count in plan.shape_counts)
    steps = len(plan.batches) // 4
    assert f"4 processes: {steps} batches for each in an epoch" in plan_lines(plan)
