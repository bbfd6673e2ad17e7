import dataclasses

import numpy as np
import pytest

from mace_jax.artifacts.dataset import Dataset, write_dataset_file
from mace_jax.batching.graph_batch import GraphBuilder
from mace_jax.batching.loader import PlannedLoader, load_graphs
from mace_jax.batching.plan import plan_batches
from mace_jax.errors import DataError

BUILDER = GraphBuilder(4.0, (1, 8), ("Default",), {"Default": {1: -1.0, 8: -2.0}})


@pytest.fixture
def dataset(tmp_path, water, provenance):
    path = tmp_path / "train.h5"
    many = [
        dataclasses.replace(water, properties={"energy": np.array(float(index))})
        for index in range(30)
    ]
    write_dataset_file(path, many, provenance)
    with Dataset(path) as dataset:
        yield dataset


@pytest.fixture
def loader(dataset):
    plan = plan_batches(dataset, 4.0, 12)
    assert len(plan.batches) > 10
    return PlannedLoader(load_graphs(dataset, BUILDER, "reading"), plan, "float64")


def order(loader, seed, epoch):
    return [index for index, _ in loader.epoch(seed, epoch)]


def test_each_batch_once_an_epoch(loader):
    assert sorted(order(loader, 0, 0)) == list(range(len(loader)))


def test_the_order_is_a_function_of_seed_and_epoch_only(loader, dataset):
    first = order(loader, 3, 7)
    np.random.default_rng().random(5)
    other = PlannedLoader(load_graphs(dataset, BUILDER, "again"), loader.plan, "float32")
    assert order(loader, 3, 7) == first == order(other, 3, 7)


def test_epochs_and_seeds_differ(loader):
    orders = {tuple(order(loader, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_a_batch_holds_the_graphs_of_the_plan(loader):
    for index, batch in loader.epoch(0, 0):
        expected = [graph - (-2.0 - 1.0 - 1.0) for graph in loader.plan.batches[index]]
        assert batch.energy[batch.graph_mask].tolist() == expected


def test_every_batch_has_the_shape_of_the_plan(loader):
    caps = loader.plan.caps
    for _, batch in loader.in_order():
        assert batch.positions.shape == (caps.n_node, 3)
        assert batch.pair_senders.shape == (caps.n_edge // 2,)
        assert batch.table.row_node.shape == (caps.n_row,)
        assert batch.table.slot_pair.shape == (caps.n_row, caps.n_neighbor)
        assert batch.graph_mask.shape == (caps.n_graph,)
        assert not batch.graph_mask[-1]
        assert not batch.node_mask[-1]


def test_in_order_is_the_order_of_the_plan(loader):
    assert [index for index, _ in loader.in_order()] == list(range(len(loader)))


def test_loading_names_a_bad_structure_and_shows_its_progress(dataset):
    seen = []

    def track(items, description, total):
        for item in items:
            seen.append((description, total))
            yield item

    load_graphs(dataset, BUILDER, "reading", track)
    assert seen == [("reading", 30)] * 30
    with pytest.raises(DataError, match=r"train\.h5: config_batch_0/config_0: unknown element"):
        load_graphs(dataset, BUILDER._replace(elements=(8,)), "reading")
