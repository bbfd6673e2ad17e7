from pathlib import Path

import gin
import pytest

from mace_jax.artifacts.provenance import make_provenance
from mace_jax.artifacts.train_config import write_train_config
from mace_jax.artifacts.train_config_sections import (
    DatasetsConfig,
    FlagsConfig,
    LossConfig,
    OptimizerConfig,
    TrainConfig,
)
from mace_jax.errors import ArtifactError, ConfigError
from mace_jax_train.cli import _FLAGS, _flag_sections
from mace_jax_train.cli import main as command
from mace_jax_train.gin_config import gin_text, load_train_config

DATA = "datasets.train_path='train.h5'"
ASPIRIN = Path(__file__).parents[3] / "configs" / "aspirin_small.gin"


@pytest.fixture
def gin_file(tmp_path):
    def write(*lines, name="run.gin"):
        path = tmp_path / name
        path.write_text("\n".join([DATA, *lines]))
        return path

    return write


DEFAULT = TrainConfig(DatasetsConfig("train.h5"), loss=LossConfig("weighted", 1.0, 100.0, 0.0))


def load(*bindings, flags=None) -> TrainConfig:
    return load_train_config([], [DATA, *bindings], flags or {})


def refusal(*bindings, flags=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*bindings, flags=flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_given_is_the_defaults():
    assert load() == DEFAULT


def test_files_bindings_and_flags_win_in_this_order(gin_file):
    first = gin_file(
        "flags.seed = 1", "optimizer.lr = 1.0", "loss.energy_weight = 1.5", name="a.gin"
    )
    second = gin_file(
        "optimizer.lr = 2.0", "loss.energy_weight = 2.5", "optimizer.eps = 2e-3", name="b.gin"
    )
    bindings = ["loss.energy_weight = 3.5", "optimizer.eps = 3e-3"]
    config = load_train_config([first, second], bindings, {"optimizer": {"eps": 4e-3}})
    assert config.flags == FlagsConfig(seed=1)
    assert config.optimizer == OptimizerConfig(lr=2.0, eps=4e-3)
    assert config.loss == LossConfig("weighted", 3.5, 100.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["--seed", "0"], {"flags": {"seed": 0}}),
        (["--max_num_epochs", "7"], {"optimizer": {"max_epochs": 7}}),
        (["--valid-path", "None"], {"datasets": {"valid_path": None}}),
        (
            ["--E0s", "average", "--beta", "0.5"],
            {"datasets": {"E0s": "average"}, "optimizer": {"b1": 0.5}},
        ),
        (["--atomic-numbers", "[1, 8]"], {"datasets": {"atomic_numbers": (1, 8)}}),
        (
            ["--energy-weight", "0", "--clip_grad", "2"],
            {"loss": {"energy_weight": 0.0}, "train": {"max_grad_norm": 2.0}},
        ),
    ],
    ids=str,
)
def test_only_flags_that_were_given_count(arguments, expected):
    parameters = command.make_context("mace-jax-train", arguments).params
    flags = {name: value for name, value in parameters.items() if name in _FLAGS}
    found = _flag_sections(flags)
    if "datasets" in found and "atomic_numbers" in found["datasets"]:
        found["datasets"]["atomic_numbers"] = tuple(found["datasets"]["atomic_numbers"])
    assert found == expected


def test_a_flag_can_set_a_split_to_none(gin_file):
    path = gin_file("datasets.valid_path = 'valid.h5'")
    config = load_train_config([path], [], {"datasets": {"valid_path": None}})
    assert config.datasets.valid_path is None


def test_the_example_configuration():
    config = load_train_config([ASPIRIN], [], {})
    assert config.model.gate == "silu"
    assert config.optimizer.algorithm == "amsgrad"
    assert config.model.interaction_cls == "RealAgnosticResidualInteractionBlock"
    assert config.model.scaling == "rms_forces_scaling"


@pytest.mark.parametrize(
    ("binding", "name", "expected"),
    [
        ("correlation = (3, 2)", "correlation", (3, 2)),
        ("correlation = [3, 2]", "correlation", (3, 2)),
        (
            "interaction_cls = @RealAgnosticResidualNonLinearInteractionBlock",
            "interaction_cls",
            "RealAgnosticResidualNonLinearInteractionBlock",
        ),
        (
            "interaction_cls_first = 'RealAgnosticDensityInteractionBlock'",
            "interaction_cls_first",
            "RealAgnosticDensityInteractionBlock",
        ),
        ("readout_cls = @NonLinearBiasReadoutBlock", "readout_cls", "NonLinearBiasReadoutBlock"),
        ("radial_type = 'gaussian'", "radial_type", "gaussian"),
        ("distance_transform = 'Agnesi'", "distance_transform", "Agnesi"),
        ("edge_irreps = '16x0e'", "edge_irreps", "16x0e"),
        ("apply_cutoff = False", "apply_cutoff", False),
    ],
)
def test_other_architectures(binding, name, expected):
    assert getattr(load(f"model.{binding}").model, name) == expected


@pytest.mark.parametrize(
    ("bindings", "expected"),
    [
        (["optimizer.algorithm = @adam"], OptimizerConfig(algorithm="adam")),
        (["optimizer.algorithm = @amsgrad()"], OptimizerConfig(algorithm="amsgrad")),
        (["optimizer.algorithm = 'adam'"], OptimizerConfig(algorithm="adam")),
        (
            ["optimizer.algorithm = @adam", "adam.b1 = 0.5", "adam.b2 = 0.75", "amsgrad.eps = 9.0"],
            OptimizerConfig(algorithm="adam", b1=0.5, b2=0.75),
        ),
    ],
    ids=str,
)
def test_optimizers_by_reference(bindings, expected):
    assert load(*bindings).optimizer == expected


def test_a_flag_wins_over_a_parameter_of_the_optimizer():
    config = load("optimizer.algorithm = @adam", "adam.b1 = 0.5", flags={"optimizer": {"b1": 0.25}})
    assert config.optimizer.b1 == 0.25


@pytest.mark.parametrize(
    ("binding", "section", "key", "value"),
    [
        ("model.gate = @tanh", "model", "gate", "tanh"),
        ("model.model = @ScaleShiftMACE", "model", "model", "ScaleShiftMACE"),
        ("model.gate = 'None'", "model", "gate", "None"),
        ("datasets.E0s = {1: -13.6, 8: -2041.8}", "datasets", "E0s", "{1: -13.6, 8: -2041.8}"),
        ("datasets.E0s = 'average'", "datasets", "E0s", "average"),
        ("model.radial_MLP = [8, 16]", "model", "radial_MLP", (8, 16)),
        ("datasets.atomic_numbers = (1, 8)", "datasets", "atomic_numbers", (1, 8)),
        ("train.ema_decay = None", "train", "ema_decay", None),
        ("optimizer.lr = 1", "optimizer", "lr", 1.0),
    ],
    ids=str,
)
def test_values(binding, section, key, value):
    found = getattr(getattr(load(binding), section), key)
    assert found == value
    assert isinstance(found, type(value))


@pytest.mark.parametrize(
    ("binding", "named"),
    [
        ("optimiser.lr = 0.1", "optimiser"),
        ("optimizer.learning_rate = 0.1", "learning_rate"),
        ("optimizer.lr = 'fast'", "lr"),
        ("optimizer.lr = True", "lr"),
        ("flags.seed = 1.5", "seed"),
        ("flags.dtype = 'float16'", "float16"),
        ("model.gate = @relu", "relu"),
        ("model.gate = @adam", "gate"),
        ("optimizer.algorithm = 'lbfgs'", "lbfgs"),
        ("optimizer.algorithm = @silu", "silu"),
        ("adam.momentum = 0.5\noptimizer.algorithm = @adam", "momentum"),
        ("datasets.atomic_numbers = 8", "atomic_numbers"),
        ("optimizer.lr = ", "Unable to parse value"),
        ("optimizer.lr 0.1", "Couldn't parse statement"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(binding, named):
    assert named in refusal(*binding.split("\n"))


@pytest.mark.parametrize(
    ("binding", "place"),
    [
        ("optimizer.lr = 0", "optimizer.lr = 0"),
        ("optimizer.lr = -1.0", "optimizer.lr = -1"),
        ("optimizer.max_epochs = 0", "optimizer.max_epochs = 0"),
        ("train.patience = 0", "train.patience = 0"),
        ("train.ema_decay = 1.0", "train.ema_decay = 1"),
        ("loss.forces_weight = -1.0", "loss.forces_weight = -1"),
        ("optimizer.b1 = 1.0", "optimizer.b1 = 1"),
        ("optimizer.b2 = -0.1", "optimizer.b2 = -0.1"),
        ("optimizer.eps = 0.0", "optimizer.eps = 0"),
        ("model.avg_num_neighbors = 0.0", "model.avg_num_neighbors = 0"),
        ("model.radial_MLP = [0]", "model.radial_MLP"),
    ],
)
def test_impossible_values_are_named(binding, place):
    assert place in refusal(binding)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_values_that_are_not_finite_are_refused(value):
    assert "optimizer.lr" in refusal(flags={"optimizer": {"lr": value}})


def test_all_weights_zero_is_refused():
    assert "all weights are 0" in refusal("loss.energy_weight = 0", "loss.forces_weight = 0")


def test_no_training_data_is_refused():
    with pytest.raises(ConfigError, match="give --train-path"):
        load_train_config([], [], {})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.gin: no such file"):
        load_train_config([tmp_path / "none.gin"], [], {})


def test_a_broken_file_is_named(gin_file):
    with pytest.raises(ConfigError, match=r"run\.gin") as caught:
        load_train_config([gin_file("optimizer.lr = = 3")], [], {})
    assert "\n" not in str(caught.value)


def test_nothing_is_left_from_one_configuration_to_the_next():
    load("optimizer.lr = 0.5", "optimizer.algorithm = @adam", "adam.b1 = 0.1")
    refusal("optimizer.lr = 'fast'")
    assert load() == DEFAULT
    assert gin.config_str() == ""


@pytest.fixture
def unusual() -> TrainConfig:
    return load(
        "optimizer.algorithm = @adam",
        "adam.b1 = 0.123456789012345",
        "datasets.E0s = {1: -13.6, 8: -2041.8}",
        "datasets.atomic_numbers = [1, 8]",
        'logs.name = "it\'s"',
        "model.radial_MLP = [8]",
        "train.ema_decay = None",
        "optimizer.lr = 1e-30",
    )


def test_gin_text_repeats_the_run(tmp_path, unusual):
    path = tmp_path / "run.gin"
    path.write_text(gin_text(unusual))
    assert load_train_config([path], [], {}) == unusual


def test_a_saved_configuration_repeats_the_run(tmp_path, unusual):
    path = tmp_path / "run.config.json"
    write_train_config(path, unusual, make_provenance("mace-jax-train", []))
    assert load_train_config([path], [], {}) == unusual
    changed = load_train_config([path], ["flags.seed = 5"], {"optimizer": {"lr": 0.5}})
    assert (changed.flags.seed, changed.optimizer.lr) == (5, 0.5)
    assert changed.optimizer.b1 == unusual.optimizer.b1


def test_a_json_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "statistics.json"
    path.write_text("{}")
    with pytest.raises(ArtifactError, match="expected kind 'train_config'"):
        load_train_config([path], [], {})
