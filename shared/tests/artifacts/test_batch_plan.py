import dataclasses
import hashlib
import json

import pyarrow as pa
import pytest

from mace_jax.artifacts.batch_plan import (
    BatchPlan,
    Caps,
    PlannedDataset,
    PlanReport,
    Waste,
    read_batch_plan,
    require_plan_fits,
    write_batch_plan,
)
from mace_jax.artifacts.batches import Batches
from mace_jax.artifacts.dataset import Dataset, write_dataset_file
from mace_jax.errors import ArtifactError, ConfigError, IncompatibleError


@pytest.fixture
def dataset(tmp_path, water, crystal, provenance):
    path = tmp_path / "train.h5"
    write_dataset_file(path, [water, crystal, water], provenance)
    with Dataset(path) as dataset:
        yield dataset


@pytest.fixture
def plan(dataset):
    """Two shapes, two processes, a batch that is empty, and a graph that is skipped."""
    return BatchPlan(
        datasets=(
            PlannedDataset("train.h5", dataset.sha256(), 3),
            PlannedDataset("more.h5", "0123456789abcdef" * 4, 2),
        ),
        r_max=4.0,
        seed=7,
        processes=2,
        shapes=(Caps.enclosing(9, 70, 3), Caps.enclosing(7, 52, 2)),
        shape_counts=(2, 2),
        batches=Batches.from_lists([[2, 0], [1], [4], []]),
        skipped=(3,),
        report=PlanReport(
            4,
            4,
            1,
            0.25,
            0.5,
            0.125,
            40,
            {"id": 1, "n_node": 2, "n_edge": 40},
            (Waste(2, 0.25, 0.5, 0.125), Waste(2, 0.5, 0.25, 0.0)),
        ),
    )


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


def test_every_batch_has_a_shape(plan):
    assert plan.shape.tolist() == [0, 0, 1, 1]
    assert plan.n_structures == 5
    assert plan.caps == Caps.covering(plan.shapes)


def as_version_2(document):
    """Version 2 has one dataset, one shape and one process, and skips nothing."""
    document["schema"]["version"] = 2
    document["dataset"] = document.pop("datasets")[0]
    document["caps"] = document.pop("shapes")[0]
    del document["caps"]["n_batches"], document["processes"], document["skipped"]
    del document["report"]["shapes"]
    document["batches"] = [[2, 0], [1]]
    document["report"]["n_batches"] = 2


def test_a_plan_of_version_2_is_read(path, plan):
    edit(path, as_version_2)
    found = read_batch_plan(path)
    assert found == dataclasses.replace(
        plan,
        datasets=plan.datasets[:1],
        processes=1,
        shapes=plan.shapes[:1],
        shape_counts=(2,),
        batches=Batches.from_lists([[2, 0], [1]]),
        skipped=(),
        report=dataclasses.replace(plan.report, n_batches=2, shapes=plan.report.shapes[:1]),
    )


def test_a_plan_of_version_1_is_refused(path):
    edit(path, lambda document: document["schema"].update(version=1))
    with pytest.raises(ArtifactError, match=r"version 1, expected 3; create it with mace-jax-plan"):
        read_batch_plan(path)


@pytest.mark.parametrize(
    "batches",
    [
        [[2, 0], [], [4], []],
        [[2, 0], [1], [4, 1], []],
        [[2, 0], [0], [4], []],
        [[2, 0], [1], [5], []],
        [[2, 0], [1], [4], [5]],
        [[2, 0], [1], [4], [3]],
    ],
    ids=["missing", "twice", "one twice, one missing", "unknown", "one too many", "skipped"],
)
def test_every_graph_is_planned_once(path, batches):
    edit(path, lambda document: document.update(batches=batches))
    expected = r"train\.plan\.json: at /batches: .* and 1 skipped, expected each of 5 once; create"
    with pytest.raises(ArtifactError, match=expected):
        read_batch_plan(path)


def test_a_plan_for_one_process_has_no_empty_batch(path):
    edit(path, lambda document: document.update(processes=1))
    with pytest.raises(
        ArtifactError, match=r"at /batches/3: holds no graph, expected one at least"
    ):
        read_batch_plan(path)


@pytest.mark.parametrize(
    ("change", "place", "found"),
    [
        ({"n_graph": 2}, "shapes/0/n_graph", "2, expected at least 3"),
        ({"n_batches": 4}, "shapes", "6 batches, expected the 4 of /batches"),
    ],
)
def test_shapes_must_hold_the_batches(path, change, place, found):
    edit(path, lambda document: document["shapes"][0].update(change))
    with pytest.raises(ArtifactError, match=f"at /{place}: {found}"):
        read_batch_plan(path)


def test_every_group_must_have_one_shape(path):
    def uneven(document):
        document["shapes"][0]["n_batches"] = 1
        document["shapes"][1]["n_batches"] = 3

    edit(path, uneven)
    expected = "at /shapes/0/n_batches: 1, expected a multiple of 2 processes"
    with pytest.raises(ArtifactError, match=expected):
        read_batch_plan(path)


DATASET = {"name": "a", "sha256": "beef", "n_structures": 3}
DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("/batches", {"batches": []}),
        ("/batches", {"batches": {"file": "a.arrow"}}),
        ("/batches/file", {"batches": {"file": "../a.arrow", "sha256": DIGEST}}),
        ("/batches/file", {"batches": {"file": ".a.arrow", "sha256": DIGEST}}),
        ("/batches/0/0", {"batches": [[-1, 0], [1]]}),
        ("/batches/0/0", {"batches": [["2", 0], [1]]}),
        ("/batches/0/0", {"batches": [[2.5, 0], [1]]}),
        ("/r_max", {"r_max": 0}),
        ("/datasets", {"datasets": []}),
        ("/datasets/0/sha256", {"datasets": [DATASET]}),
        ("/shapes", {"shapes": []}),
        ("/shapes/0", {"shapes": [{"n_batches": 4, "n_node": 1, "n_edge": 1}]}),
        ("/processes", {"processes": 0}),
        ("/skipped/0", {"skipped": [-1]}),
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


# --- the batches of a large plan


@pytest.fixture
def large(tmp_path, plan, provenance):
    """A plan whose batches are in an Arrow file."""
    path = tmp_path / "large.plan.json"
    write_batch_plan(path, plan, provenance, most_in_json=3)
    return path


def test_reading_does_not_see_where_the_batches_are(large, plan):
    assert "0123456789abcdef" in large.read_text()
    assert json.loads(large.read_text())["batches"].keys() == {"file", "sha256"}
    assert sorted(path.name for path in large.parent.glob("large*")) == [
        "large.plan.arrow",
        "large.plan.json",
    ]
    assert read_batch_plan(large) == plan


def test_the_arrow_file_says_what_it_is(large, provenance):
    with pa.memory_map(str(large.with_suffix(".arrow"))) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table["graphs"].to_pylist() == [[2, 0], [1], [4], []]
    metadata = json.loads(table.schema.metadata[b"mace_jax"])
    assert metadata == {"schema": {"kind": "batch_plan", "version": 3}, "provenance": provenance}


def test_a_missing_arrow_file(large):
    large.with_suffix(".arrow").unlink()
    with pytest.raises(ArtifactError, match=r"large\.plan\.arrow: cannot be read"):
        read_batch_plan(large)


def test_an_arrow_file_of_another_plan(large, plan, provenance, tmp_path):
    other = dataclasses.replace(plan, batches=Batches.from_lists([[0, 2], [1], [4], []]))
    write_batch_plan(tmp_path / "other.plan.json", other, provenance, most_in_json=3)
    (tmp_path / "other.plan.arrow").replace(large.with_suffix(".arrow"))
    with pytest.raises(
        ArtifactError, match=r"large\.plan\.arrow: sha256 .*, expected .* as .*json"
    ):
        read_batch_plan(large)


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"ARROW1 but nothing more ARROW1"])
def test_an_arrow_file_that_is_none(large, content):
    arrow = large.with_suffix(".arrow")
    arrow.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit(large, lambda document: document["batches"].update(sha256=digest))
    with pytest.raises(ArtifactError, match=r"large\.plan\.arrow: not the batches of a plan"):
        read_batch_plan(large)


@pytest.mark.parametrize(
    "column",
    [{"ids": [[2, 0], [1], [4], []]}, {"graphs": [2, 0, 1, 4]}, {"graphs": [["2"], ["0"]]}],
)
def test_an_arrow_file_with_other_columns(large, column):
    arrow = large.with_suffix(".arrow")
    table = pa.table(column)
    with pa.ipc.new_file(str(arrow), table.schema) as writer:
        writer.write_table(table)
    digest = hashlib.sha256(arrow.read_bytes()).hexdigest()
    edit(large, lambda document: document["batches"].update(sha256=digest))
    with pytest.raises(ArtifactError, match=r"large\.plan\.arrow: not the batches of a plan"):
        read_batch_plan(large)


def test_a_graph_that_is_missing_in_the_arrow_file(large):
    edit(large, lambda document: document.update(skipped=[]))
    with pytest.raises(ArtifactError, match="at /batches: 4 graphs planned, expected each of 5"):
        read_batch_plan(large)


@pytest.mark.parametrize("name", ["a.arrow", "folder", "b.json"])
def test_names_that_the_two_files_cannot_have(tmp_path, plan, provenance, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "b.arrow").mkdir()
    with pytest.raises(ConfigError, match=f"{name}: cannot stand beside the batches"):
        write_batch_plan(tmp_path / name, plan, provenance, most_in_json=3)
    assert (tmp_path / "folder").is_dir()
    assert (tmp_path / "b.arrow").is_dir()


# --- which data


@pytest.fixture
def alone(plan):
    return dataclasses.replace(plan, datasets=plan.datasets[:1])


def test_a_plan_for_this_data_fits(alone, path, dataset):
    require_plan_fits(alone, path, [dataset], 4.0)


def test_a_plan_for_more_data_is_refused(plan, path, dataset):
    with pytest.raises(IncompatibleError, match="made for 2 datasets, expected 1; plan again"):
        require_plan_fits(plan, path, [dataset], 4.0)


def test_data_in_another_order_are_refused(plan, path, dataset, tmp_path, water, provenance):
    write_dataset_file(tmp_path / "b.h5", [water, water], provenance)
    with Dataset(tmp_path / "b.h5") as other:
        second = PlannedDataset("b.h5", other.sha256(), 2)
        both = dataclasses.replace(plan, datasets=(plan.datasets[0], second))
        require_plan_fits(both, path, [dataset, other], 4.0)
        with pytest.raises(IncompatibleError, match="made for other data"):
            require_plan_fits(both, path, [other, dataset], 4.0)


def test_a_plan_for_other_data_is_refused(alone, path, tmp_path, water, provenance):
    other = tmp_path / "train" / "train.h5"  # the same name
    write_dataset_file(other, [water] * 3, provenance)
    with Dataset(other) as dataset, pytest.raises(IncompatibleError, match="made for other data"):
        require_plan_fits(alone, path, [dataset], 4.0)


def test_a_plan_for_another_cutoff_is_refused(alone, path, dataset):
    with pytest.raises(IncompatibleError, match=r"made for r_max 4\.0 Å, expected 4\.5 Å"):
        require_plan_fits(alone, path, [dataset], 4.5)
    narrower = dataclasses.replace(alone, r_max=3.0)
    with pytest.raises(IncompatibleError, match=r"r_max 3\.0 Å"):
        require_plan_fits(narrower, path, [dataset], 4.0)
