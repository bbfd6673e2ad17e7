"""Every stored file is inspected, and every one that is read is brought to the newest version."""

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from mace_jax.artifacts.batch_plan import read_batch_plan
from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.artifacts.predictions import read_predictions
from mace_jax.artifacts.provenance import file_sha256
from mace_jax.artifacts.statistics import read_statistics
from mace_jax.artifacts.train_config import read_train_config
from mace_jax.artifacts.versioned import MIGRATIONS
from mace_jax.inspection.cli import main
from mace_jax.inspection.inputs import InputSearch
from mace_jax.inspection.report import inspect_file
from mace_jax.inspection.tagged_file import read_tagged_file
from mace_jax.inspection.upgrade import write_upgraded
from mace_jax_schemas import current_version

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("archived", HERE / "test_archives.py")
archived = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(archived)

STORED = archived.STORED


def kind_and_version(path):
    return path.parents[1].name, int(path.parent.name[1:])


# versions that are inspected, but no longer read
TOO_OLD = {
    (kind, version)
    for kind, version in map(kind_and_version, STORED)
    if version < current_version(kind) and (kind, version) not in MIGRATIONS
}
READ = [path for path in STORED if kind_and_version(path) not in TOO_OLD]
OUTDATED = [
    path for path in READ if kind_and_version(path)[1] < current_version(path.parents[1].name)
]
OLD = [path for path in OUTDATED if path.suffix != ".extxyz"]
NEWEST = [path for path in READ if path not in OUTDATED and path.suffix != ".arrow"]
every = pytest.mark.parametrize("path", STORED, ids=archived.label)


def inspect(path, **options):
    return inspect_file(path, InputSearch([]), **{"quick": False, **options})


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return stopped.value.code, out, err


@every
def test_what_it_is(path):
    kind, version = kind_and_version(path)
    report = inspect(path)
    assert (report.kind, report.version, report.newest) == (kind, version, current_version(kind))
    assert report.valid
    assert (report.sha256, report.n_bytes) == (file_sha256(path), path.stat().st_size)
    assert (report.problem is not None) == ((kind, version) in TOO_OLD)
    assert bool(report.summary) == (report.problem is None)


@every
def test_who_made_it_of_what(path):
    report = inspect(path)
    made = archived.made.PROVENANCE
    recorded = [dict(list(item._asdict().items())[:5]) for item in report.inputs]
    assert {**report.provenance, "inputs": recorded} == made
    assert {item.state for item in report.inputs} == {"not here"}


@every
def test_name_does_not_matter(path, tmp_path):
    """The kind is told by the content; only metrics are told from JSON by their name."""
    other = tmp_path / ("x.metrics" if path.suffix == ".metrics" else "x")
    shutil.copy(path, other)
    assert read_tagged_file(other)[1:] == read_tagged_file(path)[1:]


@pytest.mark.parametrize("path", OLD, ids=archived.label)
def test_upgrade(path, tmp_path):
    new = tmp_path / path.name
    write_upgraded(read_tagged_file(path), new)
    before, after = inspect(path), inspect(new)
    assert (after.version, after.problem) == (current_version(after.kind), None)
    assert after.summary == before.summary
    assert after.provenance == before.provenance
    *same, added = after.inputs
    assert same == before.inputs
    recorded = (added.role, added.name, added.version, added.sha256)
    assert recorded == ("upgraded_from", path.name, before.version, before.sha256)


def dataset_of(path):
    with Dataset(path) as dataset:
        return [dataclasses.replace(structure, place="") for structure in dataset]


READERS = {
    "batch_plan": read_batch_plan,
    "dataset": dataset_of,
    "metrics": lambda path: read_metrics(path)[1],
    "model_bundle": read_model_bundle,
    "statistics": read_statistics,
    "train_config": read_train_config,
}


@pytest.mark.parametrize("path", OLD, ids=archived.label)
def test_upgraded_content_is_the_same(path, tmp_path):
    new = tmp_path / path.name
    write_upgraded(read_tagged_file(path), new)
    if path.suffix == ".npz":
        archived.assert_same(read_predictions(new)[1], read_predictions(path)[1])
    elif path.suffix == ".parquet":
        assert archived.pq.read_table(new).equals(archived.pq.read_table(path))
    else:
        read = READERS[path.parents[1].name]
        archived.assert_same(read(new), read(path))


@pytest.mark.parametrize("path", OLD, ids=archived.label)
def test_upgrade_in_place_needs_overwrite(path, tmp_path, capsys):
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    code, out, err = run(capsys, copy, "--upgrade")
    assert (code, out) == (2, "")
    assert "--overwrite" in err
    assert copy.read_bytes() == path.read_bytes()
    code, out, err = run(capsys, copy, "--upgrade", "--overwrite")
    assert (code, out) == (0, f"{copy}\n")
    assert "the digest it had" in err
    assert inspect(copy).version == current_version(path.parents[1].name)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("path", NEWEST, ids=archived.label)
def test_nothing_to_upgrade(path, tmp_path, capsys):
    code, out, err = run(capsys, path, "--upgrade", "--output", tmp_path / path.name)
    assert (code, out) == (0, f"{path}\n")
    assert "is the newest; nothing written" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "path", [path for path in STORED if kind_and_version(path) in TOO_OLD], ids=archived.label
)
def test_too_old_to_upgrade(path, tmp_path, capsys):
    code, out, err = run(capsys, path, "--upgrade", "--output", tmp_path / "new")
    assert (code, out) == (1, "")
    assert "create it with mace-jax-" in err
    assert not list(tmp_path.iterdir())


def test_summaries(capsys):
    bundle = inspect(HERE / "model_bundle" / "v2" / "model.msgpack").summary
    assert (bundle["elements"], bundle["heads"]) == (["H", "O"], ["pbe", "r2scan"])
    assert (bundle["r_max, Å"], bundle["licence"]) == (5.0, "MIT")
    dataset = inspect(HERE / "dataset" / "v2" / "flat.h5").summary
    assert (dataset["structures"], dataset["atoms"]) == (2, 5)
    assert dataset["labels"]["energy"] == 2
    index = inspect(HERE / "index" / "v1" / "train.parquet").summary
    atoms = {"H": 2, "C": 1, "O": 1, "Si": 1}
    assert dataset["elements"] == index["elements"] == atoms
    assert dataset["heads"] == index["heads"] == {"Default": 1, "pbe": 1}
    checkpoint = inspect(HERE / "checkpoint" / "v1" / "run.checkpoint").summary
    assert (checkpoint["epoch under way"], checkpoint["batches done of it"]) == (2, 1)
    plan = inspect(HERE / "batch_plan" / "v3" / "train.plan.json").summary
    assert (plan["graphs"], plan["skipped"]) == (4, 1)


def test_quick_computes_no_digest():
    report = inspect(HERE / "dataset" / "v2" / "train.h5", quick=True)
    assert (report.sha256, report.inputs) == (None, [])
    assert report.summary == {"structures": 2, "layout": "mace"}


def test_several_files_as_one_object(capsys):
    code, out, _ = run(capsys, *STORED, "--json")
    assert code == 1  # some are too old
    files = json.loads(out)["summary"]["files"]
    assert [item["artifact"] for item in files] == [str(path) for path in STORED]
    assert {"artifact", "sha256", "summary"} <= set(files[0])


def test_names_in_extxyz_are_not_upgraded(tmp_path, capsys):
    path = HERE / "predictions" / "v2" / "predictions.extxyz"
    code, _, err = run(capsys, path, "--upgrade", "--output", tmp_path / path.name)
    assert code == 1
    assert f"{path}: extxyz of version 2, whose predictions have other names" in err
    assert not list(tmp_path.iterdir())
