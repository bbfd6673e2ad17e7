import dataclasses
import json

import numpy as np
import pytest

from mace_jax.artifacts.batch_plan import (
    BatchPlan,
    Caps,
    PlanReport,
    read_batch_plan,
    require_plan_fits,
    write_batch_plan,
)
from mace_jax.artifacts.dataset import Dataset, write_dataset_file
from mace_jax.batching.graph_batch import GraphBuilder
from mace_jax.batching.loader import PlannedLoader, load_graphs
from mace_jax.batching.plan import plan_batches
from mace_jax.errors import ArtifactError, IncompatibleError


@pytest.fixture
def dataset(tmp_path, water, crystal, provenance):
    path = tmp_path / "train.h5"
    write_dataset_file(path, [water, crystal, water], provenance)
    with Dataset(path) as dataset:
        yield dataset


@pytest.fixture
def plan(dataset):
    report = PlanReport(3, 2, 1, 0.25, 0.5, 0.125, 40, {"id": 1, "n_node": 2, "n_edge": 40})
    caps = Caps.enclosing(n_node=7, n_edge=52, n_graph=3)
    batches = ((2, 0), (1,))
    return BatchPlan("train.h5", dataset.sha256(), 3, 4.0, 7, caps, batches, report)


@pytest.fixture
def path(tmp_path, plan, provenance):
    path = tmp_path / "train.plan.json"
    write_batch_plan(path, plan, provenance)
    return path


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_round_trip(path, plan):
    assert read_batch_plan(path) == plan


def as_version_1(document):
    """Version 1 says nothing of neighbours."""
    document["schema"]["version"] = 1
    del document["caps"]["n_neighbor"], document["caps"]["n_row"]


def test_a_plan_of_version_1_is_read(path, plan):
    edit(path, as_version_1)
    assert "n_row" not in path.read_text()
    assert read_batch_plan(path) == plan


@pytest.mark.parametrize("n_edge", [1, 60, 500])
def test_the_shape_of_a_plan_of_version_1_holds_every_graph(tmp_path, dataset, provenance, n_edge):
    planned = plan_batches(dataset, 4.0, n_edge)
    path = tmp_path / "old.plan.json"
    write_batch_plan(path, planned, provenance)
    edit(path, as_version_1)
    plan = read_batch_plan(path)
    for name in ("n_node", "n_edge", "n_graph"):
        assert getattr(plan.caps, name) == getattr(planned.caps, name)
    builder = GraphBuilder(4.0, (1, 6, 8, 14), ("pbe",), {})
    graphs = load_graphs(dataset, builder, "reading")
    for index, batch in PlannedLoader(graphs, plan, "float64").in_order():
        n_edges = sum(int(graphs[graph].n_neighbors.sum()) for graph in plan.batches[index])
        assert n_edges > 0
        assert np.count_nonzero(batch.table.slot_direction) == n_edges
        assert set(batch.table.row_node) == set(range(plan.caps.n_node))


@pytest.mark.parametrize(
    "batches",
    [[[2, 0]], [[2, 0], [1], [1]], [[2, 0], [0]], [[2, 0], [3]], [[2, 0], [1], [3]]],
    ids=["missing", "twice", "one twice, one missing", "unknown", "one too many"],
)
def test_every_graph_is_planned_once(path, batches):
    edit(path, lambda document: document.update(batches=batches))
    with pytest.raises(
        ArtifactError, match=r"train\.plan\.json: at /batches: .*expected each of 3"
    ):
        read_batch_plan(path)


@pytest.mark.parametrize("n_graph", [1, 2])
def test_a_graph_of_padding_must_be_left(path, n_graph):
    edit(path, lambda document: document["caps"].update(n_graph=n_graph))
    with pytest.raises(ArtifactError, match=r"/caps/n_graph: .*expected at least 3"):
        read_batch_plan(path)


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("/batches", {"batches": []}),
        ("/batches/1", {"batches": [[2, 0], []]}),
        ("/batches/0/0", {"batches": [[-1, 0], [1]]}),
        ("/batches/0/0", {"batches": [["2", 0], [1]]}),
        ("/batches/0/0", {"batches": [[2.5, 0], [1]]}),
        ("/r_max", {"r_max": 0}),
        ("/dataset/sha256", {"dataset": {"name": "a", "sha256": "beef", "n_structures": 3}}),
        ("/caps", {"caps": {"n_node": 1, "n_edge": 1}}),
        ("/caps", {"caps": {"n_node": 7, "n_edge": 52, "n_graph": 3}}),
        ("/seed", {"seed": None}),
        ("/", {"shuffle": True}),
    ],
)
def test_impossible_content_is_refused_with_its_place(path, place, change):
    edit(path, lambda document: document.update(change))
    with pytest.raises(ArtifactError, match=rf"train\.plan\.json: at {place}: "):
        read_batch_plan(path)


def test_every_truncation_is_refused(path):
    content = path.read_bytes().rstrip()
    for length in range(0, len(content), 17):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match="not complete JSON"):
            read_batch_plan(path)


def test_a_plan_for_this_data_fits(plan, path, dataset):
    require_plan_fits(plan, path, dataset, 4.0)


def test_a_plan_for_other_data_is_refused(plan, path, tmp_path, water, provenance):
    other = tmp_path / "train" / "train.h5"  # the same name
    write_dataset_file(other, [water] * 3, provenance)
    with Dataset(other) as dataset, pytest.raises(IncompatibleError, match="made for other data"):
        require_plan_fits(plan, path, dataset, 4.0)


def test_a_plan_for_another_cutoff_is_refused(plan, path, dataset):
    with pytest.raises(IncompatibleError, match=r"made for r_max 4\.0 Å, expected 4\.5 Å"):
        require_plan_fits(plan, path, dataset, 4.5)
    narrower = dataclasses.replace(plan, r_max=3.0)
    with pytest.raises(IncompatibleError, match=r"r_max 3\.0 Å"):
        require_plan_fits(narrower, path, dataset, 4.0)
