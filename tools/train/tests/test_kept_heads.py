"""Heads of a starting model that have no data: kept if the run says so, else dropped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mace_jax.artifacts.dataset import write_dataset_file
from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.model_bundle import read_model_bundle, write_model_bundle
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.errors import ConfigError, DataError, IncompatibleError, StoppedError
from mace_jax.model.predict import predict
from mace_jax.torch_models.select_head import select_head, select_heads
from mace_jax.tracking import show_nothing, track_silently
from mace_jax_train.beginning import find_beginning, prepared_run
from mace_jax_train.gin_config import load_train_config
from mace_jax_train.loop import train
from mace_jax_train.run_files import RunFiles

NO_PATHS = {"train_path": None, "valid_path": None, "test_path": None, "E0s": None}
KEPT = {"weight": 0.0}
MINE = object()  # a head with the data of the tests


def trained(config, folder, show=show_nothing):
    files = RunFiles(folder, "run", reproducible=True)
    beginning = find_beginning(config, files, [], force=False)
    with prepared_run(config, files, beginning, track_silently) as run:
        return train(run, files, show, beginning.checkpoint)


@pytest.fixture(scope="module")
def foundation(make_config, data, tmp_path_factory):
    """The path of a model of three heads, one of whose readouts has a hidden layer."""
    paths = {split: data[split] for split in ("train_path", "valid_path")}
    heads = [
        {"name": name, "E0s": str({1: -13.6 - k, 8: -2041.8 - k}), **paths}
        for k, name in enumerate(("pbe", "scan", "r2scan"))
    ]
    config = make_config(
        datasets={**NO_PATHS, "heads": heads},
        model={"num_interactions": 2, "MLP_irreps": "4x0e"},
        optimizer={"max_epochs": 1},
    )
    return str(trained(config, tmp_path_factory.mktemp("foundation")).best)


@pytest.fixture
def finetuned(data, foundation):
    """Return a function from heads to the configuration of a run that begins with the model."""
    paths = {split: data[split] for split in ("train_path", "valid_path")}

    def make(heads, datasets=(), **sections):
        given = tuple({"name": name, **head} for name, head in heads.items())
        return load_train_config(
            [],
            [],
            {
                "datasets": {"heads": given, "n_edge": 20, **dict(datasets)},
                "model": {"start_from": foundation},
                "optimizer": {"max_epochs": 2, "algorithm": "adamw", "weight_decay": 0.1},
                **sections,
            },
        )

    make.paths = paths
    return make


def test_a_kept_head_is_as_the_model_has_it(finetuned, foundation, tmp_path, caplog):
    caplog.set_level("INFO", "mace_jax_train")
    mine = {"readout": "pbe", **finetuned.paths}
    old = {"readout": "pbe", **KEPT}
    outcome = trained(finetuned({"scan": KEPT, "mine": mine, "old": old}), tmp_path)
    before, after = (read_model_bundle(path) for path in (Path(foundation), outcome.best))
    sources = {"scan": "scan", "mine": "pbe", "old": "pbe"}
    assert after.heads == tuple(sources)
    expected = select_heads(before, sources)
    for head in ("scan", "old"):
        for values in ("atomic_energies", "scale", "shift"):
            assert getattr(after, values)[head] == getattr(before, values)[sources[head]]
    for head, source in sources.items():
        found, own = (select_head(bundle, head).parameters for bundle in (after, expected))
        readouts = {path for path in own if path.startswith("readouts/")}
        equal = {path for path in own if np.array_equal(found[path], own[path])}
        assert (readouts <= equal) == (head != "mine"), source
        assert "interactions_0/linear_up/weight" not in equal
    said = caplog.text
    assert "kept without data: scan from scan, old from pbe, with readout, E0s, scale" in said
    assert "; the network that they share with the others is trained" in said
    assert ": dropped: r2scan; a head of datasets.heads of weight 0" in said


def test_with_the_shared_network_frozen_it_predicts_what_it_did(
    finetuned, foundation, tmp_path, molecules
):
    heads = {"mine": {"readout": "pbe", **finetuned.paths}, "scan": KEPT}
    frozen = {"freeze": ("embedding", "interactions", "products"), "lr": 0.1, "max_epochs": 1}
    config = finetuned(heads, optimizer=frozen)
    after, before = (
        read_model_bundle(path) for path in (trained(config, tmp_path).best, Path(foundation))
    )

    def energies(bundle, head):
        found = predict(bundle, "model", molecules(4, 7), n_edge=100, head=head)
        return found.quantities["energy"]

    pairs = (("scan", "scan"), ("mine", "pbe"))
    change = {one: energies(after, one) - energies(before, other) for one, other in pairs}
    assert np.abs(change["scan"]).max() < 1e-5
    assert np.abs(change["mine"]).max() > 1e-2


def test_the_others_train_as_without_it(finetuned, tmp_path):
    mine = finetuned.paths
    alone = trained(finetuned({"pbe": mine, "scan": mine}), tmp_path / "alone")
    beside = trained(finetuned({"pbe": mine, "r2scan": KEPT, "scan": mine}), tmp_path / "beside")
    rows = [read_metrics(tmp_path / name / "run.metrics")[1] for name in ("alone", "beside")]
    assert rows[0] == rows[1]
    expected, found = (read_model_bundle(outcome.best) for outcome in (alone, beside))
    assert found.heads == ("pbe", "r2scan", "scan")
    for head in expected.heads:
        one, other = (select_head(bundle, head) for bundle in (found, expected))
        for path, array in other.parameters.items():
            np.testing.assert_allclose(one.parameters[path], array, rtol=1e-6, err_msg=path)
        assert one.scale == other.scale


def test_a_run_that_goes_on_keeps_it(finetuned, tmp_path, signalled):
    config = finetuned({"pbe": finetuned.paths, "scan": KEPT})
    whole = trained(config, tmp_path / "whole")
    with pytest.raises(StoppedError):
        trained(config, tmp_path / "stopped", signalled("SIGTERM"))
    assert trained(config, tmp_path / "stopped").best.read_bytes() == whole.best.read_bytes()


def test_a_run_goes_on_with_the_model_that_it_began_with(
    finetuned, foundation, tmp_path, signalled
):
    """Of one that differs in nothing but weights, all that is kept would be another's."""
    config = finetuned({"pbe": finetuned.paths, "scan": KEPT})
    with pytest.raises(StoppedError):
        trained(config, tmp_path / "run", signalled("SIGTERM"))
    other = read_model_bundle(Path(foundation))
    weights = {path: 1.01 * array for path, array in other.parameters.items()}
    other, path = replace(other, parameters=weights), tmp_path / "other.msgpack"
    write_model_bundle(path, other, make_provenance("mace-jax-train", []))
    config = replace(config, model=replace(config.model, start_from=str(path)))
    with pytest.raises(IncompatibleError, match=r"network/starting_model was '\w+', now '\w+'"):
        trained(config, tmp_path / "run")


def test_data_that_name_their_heads(make_config, finetuned, data, tmp_path, molecules):
    """Of the heads that are configured, the data need not have one of weight 0."""
    named = [replace(structure, head="pbe") for structure in molecules(8, 5)]
    others = [replace(structure, head="scan") for structure in molecules(2, 6)]
    provenance = make_provenance("mace-jax-preprocess", [])
    for name, structures in {"train": named, "valid": named[:2] + others}.items():
        write_dataset_file(tmp_path / f"{name}.h5", structures, provenance)
    paths = {"train_path": str(tmp_path / "train.h5")}
    outcome = trained(finetuned({"pbe": {}, "scan": KEPT}, paths), tmp_path)
    assert read_model_bundle(outcome.best).heads == ("pbe", "scan")
    with pytest.raises(DataError, match="scan: no structure of this head in"):
        trained(finetuned({"pbe": {}, "scan": {}}, paths), tmp_path / "other")
    paths["valid_path"] = str(tmp_path / "valid.h5")
    with pytest.raises(DataError, match="head 'scan' of 2 structures, expected one of 'pbe'"):
        trained(finetuned({"pbe": {}, "scan": KEPT}, paths), tmp_path / "third")


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"pbe": MINE, "scan": {}}, "scan: has no data; give it a train_path, or weight 0 to keep"),
        ({"pbe": MINE, "scan": KEPT | {"E0s": "average"}}, "scan: without data it is kept as"),
        ({"pbe": MINE, "new": KEPT | {"readout": "fresh"}}, "new: without data it is kept as"),
        ({"pbe": MINE, "new": KEPT}, "has several heads, expected one of"),
        ({"pbe": MINE, "new": KEPT | {"readout": "none"}}, "has no head 'none', expected one of"),
        ({"pbe": KEPT, "scan": KEPT}, "all weights are 0"),
        ({"pbe": MINE, "scan": KEPT | {"valid_path": "a.h5"}}, "valid_path is given, but no train"),
    ],
)
def test_what_cannot_be_kept(finetuned, tmp_path, heads, message):
    own = {name: finetuned.paths if head is MINE else head for name, head in heads.items()}
    with pytest.raises(ConfigError, match=message):
        trained(finetuned(own), tmp_path)


def test_nothing_is_kept_of_no_model(make_config, data, tmp_path):
    heads = [{"name": "a", "train_path": data["train_path"]}, {"name": "b", **KEPT}]
    with pytest.raises(ConfigError, match=r"b: has no data; give it a train_path$"):
        make_config(datasets={**NO_PATHS, "heads": heads})


def test_a_kept_head_decides_nothing(finetuned):
    with pytest.raises(ConfigError, match=r"train\.best_head = 'scan', but there are pbe"):
        finetuned({"pbe": finetuned.paths, "scan": KEPT}, train={"best_head": "scan"})
