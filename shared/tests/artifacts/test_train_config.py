import dataclasses
import json

import pytest

from mace_jax.artifacts.train_config import (
    read_train_config,
    train_config_from_sections,
    write_train_config,
)
from mace_jax.artifacts.train_config_sections import (
    DatasetsConfig,
    FlagsConfig,
    LogsConfig,
    LossConfig,
    ModelSection,
    OptimizerConfig,
    TrainConfig,
    TrainSection,
)
from mace_jax.errors import ArtifactError, ConfigError

DATASETS = {"train_path": "train"}
FULL = TrainConfig(
    DatasetsConfig(
        "train",
        "valid",
        None,
        "s.json",
        "t.plan.json",
        r_max=4.5,
        n_edge=500,
        atomic_numbers=(1, 8),
        E0s="{1: -13.6}",
        energy_key="dft",
    ),
    FlagsConfig(7, "float64", "cpu", debug=True),
    LogsConfig("run", "out", True),
    ModelSection(r_max=4.5, radial_MLP=(8,), gate="None", avg_num_neighbors=12.5),
    LossConfig(energy_weight=0.0, forces_weight=10.0, stress_weight=1.5),
    OptimizerConfig("adam", 1e-3, max_epochs=12),
    TrainSection(None, None, 5, patience=20),
)


@pytest.fixture
def path(tmp_path, provenance):
    path = tmp_path / "run.config.json"
    write_train_config(path, FULL, provenance)
    return path


def from_sections(**sections):
    return train_config_from_sections({"datasets": DATASETS, **sections}, "run.gin")


DEFAULT = TrainConfig(DatasetsConfig("train"), loss=LossConfig("weighted", 1.0, 100.0, 0.0))


@pytest.mark.parametrize("config", [FULL, DEFAULT])
def test_round_trip(tmp_path, provenance, config):
    path = tmp_path / "a.config.json"
    write_train_config(path, config, provenance)
    assert read_train_config(path) == config


def test_defaults_are_saved_too(path):
    document = json.loads(path.read_text())
    for field in dataclasses.fields(FULL):
        section = getattr(FULL, field.name)
        assert set(document[field.name]) == {item.name for item in dataclasses.fields(section)}
    assert document["model"]["num_bessel"] == 8


def test_sections_that_are_not_given_have_defaults():
    assert from_sections() == DEFAULT
    assert from_sections(loss={"energy_weight": 2}).loss.energy_weight == 2.0


@pytest.mark.parametrize("section", ["flags", "logs", "datasets", "model", "loss", "optimizer"])
def test_an_unknown_key_is_named(section):
    values = {**(DATASETS if section == "datasets" else {}), "r_mx": 5.0}
    with pytest.raises(ConfigError, match=rf"run\.gin: {section}: unknown r_mx"):
        from_sections(**{section: values})


def test_an_unknown_section_is_named():
    with pytest.raises(ConfigError, match="optimiser"):
        from_sections(optimiser={"lr": 1.0})


def test_a_run_needs_training_data():
    with pytest.raises(ConfigError, match=r"run\.gin: .*datasets"):
        train_config_from_sections({}, "run.gin")
    with pytest.raises(ConfigError, match=r"run\.gin: .*train_path"):
        train_config_from_sections({"datasets": {}}, "run.gin")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("flags", "seed", "3"),
        ("flags", "seed", 1.5),
        ("flags", "debug", 1),
        ("flags", "dtype", "float16"),
        ("model", "hidden_irreps", 32),
        ("model", "radial_MLP", "64"),
        ("model", "num_bessel", "8"),
        ("model", "gate", None),
        ("model", "interaction_cls", "RealAgnosticInteraction"),
        ("loss", "energy_weight", "1"),
        ("optimizer", "algorithm", "lbfgs"),
        ("optimizer", "lr", None),
        ("train", "patience", 2.5),
    ],
)
def test_a_wrong_type_is_named(section, key, value):
    with pytest.raises(ConfigError, match=rf"run\.gin: .*{section}\.{key}"):
        from_sections(**{section: {key: value}})


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("optimizer", "lr", 0.0),
        ("optimizer", "lr", -0.01),
        ("optimizer", "lr", float("nan")),
        ("optimizer", "lr", float("inf")),
        ("optimizer", "b1", 1.0),
        ("optimizer", "b2", 1.5),
        ("optimizer", "eps", -1e-8),
        ("optimizer", "weight_decay", -1.0),
        ("optimizer", "max_epochs", 0),
        ("model", "num_interactions", 0),
        ("model", "correlation", 0),
        ("model", "max_ell", -1),
        ("model", "r_max", 0.0),
        ("model", "radial_MLP", [64, 0]),
        ("model", "avg_num_neighbors", 0.0),
        ("loss", "forces_weight", -1.0),
        ("loss", "forces_weight", float("nan")),
        ("train", "ema_decay", 1.0),
        ("train", "ema_decay", -0.1),
        ("train", "eval_interval", 0),
        ("train", "max_grad_norm", 0.0),
        ("train", "patience", 0),
    ],
)
def test_an_impossible_value_is_named(section, key, value):
    with pytest.raises(ConfigError, match=rf"run\.gin: {section}\.{key} = "):
        from_sections(**{section: {key: value}})


@pytest.mark.parametrize(("key", "value"), [("n_edge", 0), ("r_max", -1.0)])
def test_an_impossible_dataset_value_is_named(key, value):
    with pytest.raises(ConfigError, match=rf"datasets\.{key} = "):
        from_sections(datasets={**DATASETS, key: value})


def test_a_loss_without_any_weight_is_refused():
    weights = {"energy_weight": 0.0, "forces_weight": 0.0, "stress_weight": 0.0}
    with pytest.raises(ConfigError, match="all weights are 0"):
        from_sections(loss=weights)
    assert from_sections(loss={**weights, "stress_weight": 1.0}).loss.stress_weight == 1.0


@pytest.mark.parametrize(
    ("section", "change", "error"),
    [
        ("loss", {"energy_wieght": 1.0}, ArtifactError),
        ("loss", {"energy_weight": "1"}, ArtifactError),
        ("flags", {"dtype": "float16"}, ArtifactError),
        ("optimizer", {"lr": -1.0}, ConfigError),
    ],
)
def test_a_damaged_file_is_refused(path, section, change, error):
    document = json.loads(path.read_text())
    document[section].update(change)
    path.write_text(json.dumps(document))
    with pytest.raises(error, match=rf"run\.config\.json: .*{section}"):
        read_train_config(path)


def test_a_missing_section_is_refused(path):
    document = json.loads(path.read_text())
    del document["model"]
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match="'model' is a required property"):
        read_train_config(path)
