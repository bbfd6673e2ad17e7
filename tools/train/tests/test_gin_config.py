from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mace_jax.artifacts.provenance import make_provenance
from mace_jax.artifacts.train_config import (
    LOSS_TERMS,
    term_weights,
    train_config_from_sections,
    write_train_config,
)
from mace_jax.artifacts.train_config_consistency import ALGORITHM_PARAMETERS, SCHEDULE_PARAMETERS
from mace_jax.artifacts.train_config_fields import (
    FIELDS,
    choices,
    is_optional,
    is_section,
    without_none,
)
from mace_jax.artifacts.train_config_sections import (
    DatasetsConfig,
    FlagsConfig,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from mace_jax.errors import ArtifactError, ConfigError
from mace_jax_train.gin_config import load_train_config
from mace_jax_train.gin_names import KNOWN, MEANS, ONLY, WITHOUT_EFFECT
from mace_jax_train.gin_text import gin_text

DATA = "datasets.train_path='train.h5'"


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


def test_a_flag_can_set_a_split_to_none(gin_file):
    path = gin_file("datasets.valid_path = 'valid.h5'")
    config = load_train_config([path], [], {"datasets": {"valid_path": None}})
    assert config.datasets.valid_path is None


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
        ("optimizer.lr = (", "EOF in multi-line statement"),
        ("first/optimizer.lr = 1.0", "scopes have no meaning"),
        ("import os", "import os: a configuration imports nothing"),
        ("torch.optim.adam.b1 = 0.5", "unknown torch.optim.adam"),
        ("optimizer.lr = %lr", "unknown %lr"),
        ("lr = %lr\noptimizer.lr = %lr", "unknown %lr"),
        ("loss.loss_cls = @UniversalLos", "did you mean UniversalLoss?"),
        ("loss.loss_cls = 'universl'", "did you mean universal?"),
        ("optimiser.lr = 0.1", "did you mean optimizer?"),
        ("loss.energy_wieght = 1.0", "loss: unknown energy_wieght; did you mean energy_weight?"),
        ("exponential_decay.decayrate = 0.1", "did you mean decay_rate?"),
        ("optimizer.scheduler = @silu", "expected one of constant, exponential_decay"),
        ("train.swa_config = {'lr': 1e-3}", "expected @SWAConfig or None"),
        ("train.swa_config = @stage_two_loss", "expected @SWAConfig or None"),
        ("model.cueq_config = {'enabled': True}", "expected @CuEquivarianceConfig or None"),
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


def test_the_place_of_an_error_is_a_line(gin_file):
    """The first line names the data."""
    path = gin_file("", "optimizer.lr = 1.0", "optimizer.max_epochs = 'ten'", name="a.gin")
    with pytest.raises(ConfigError, match=r"a\.gin: line 4: optimizer\.max_epochs: expected `int`"):
        load_train_config([path, gin_file("flags.seed = 1", name="b.gin")], [], {})
    path = gin_file("optimizer:", "  lr = 1.0", "  momentum = 3", name="c.gin")
    with pytest.raises(ConfigError, match=r"c\.gin: line 4: optimizer: unknown momentum"):
        load_train_config([path], [], {})


def test_macros_blocks_and_includes(gin_file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    gin_file("epochs = 7", "optimizer.lr = 0.5", name="base.gin")
    path = gin_file("include 'base.gin'", "optimizer:", "  max_epochs = %epochs", name="run.gin")
    config = load_train_config([path], [], {})
    assert (config.optimizer.max_epochs, config.optimizer.lr) == (7, 0.5)
    gin_file("include 'run.gin'", name="base.gin")
    with pytest.raises(ConfigError, match="includes itself"):
        load_train_config([gin_file("include 'base.gin'")], [], {})


MACE_JAX = """
import mace_jax.modules
import mace_jax.tools.gin_model

mace_jax.tools.gin_model.model.r_max = 6.0
mace_jax.tools.gin_model.model.interaction_cls_first = (
    @mace_jax.modules.RealAgnosticDensityInteractionBlock
)
mace_jax.tools.gin_model.model.pair_repulsion = True
mace_jax.tools.gin_functions.loss.loss_cls = @mace_jax.modules.UniversalLoss
mace_jax.tools.gin_datasets.datasets.num_workers = 4
mace_jax.tools.gin_functions.flags.debug = False
mace_jax.tools.gin_functions.flags.profile = False
mace_jax.tools.gin_functions.optimizer.algorithm = @adam
mace_jax.tools.gin_functions.adam.b2 = 0.99
"""


def test_names_as_in_files_of_mace_jax(gin_file, caplog):
    config = load_train_config([gin_file(MACE_JAX)], [], {})
    assert config.model.r_max == 6.0
    assert config.model.interaction_cls_first == "RealAgnosticDensityInteractionBlock"
    assert config.model.pair_repulsion
    assert term_weights(config.loss) == {"energy": 1.0, "forces": 100.0, "stress": 1.0}
    assert config.datasets.num_workers == 4
    assert (config.optimizer.algorithm, config.optimizer.b2) == ("adam", 0.99)
    assert not caplog.records


def test_a_small_file_of_mace_jax_says_what_it_says_in_vain(gin_file, caplog):
    lines = [
        "model.radial_basis = @bessel_basis",
        "bessel_basis.number = 8",
        "model.radial_envelope = @soft_envelope",
        "model.atomic_energies = 'average'",
        "model.avg_num_neighbors = 'average'",
        "optimizer.algorithm = @sgd",
        "train.eval_train = True",
    ]
    config = load_train_config([gin_file(*lines)], [], {})
    assert (config.datasets.E0s, config.model.avg_num_neighbors) == ("average", None)
    assert (config.optimizer.algorithm, config.train.eval_train) == ("sgd", True)
    names = [message.split(": ")[2].split()[0] for message in caplog.messages]
    assert names == ["model.radial_basis", "bessel_basis.number", "model.radial_envelope"]


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_what_has_no_effect_is_told(name, caplog):
    assert load(f"{name} = 3") == DEFAULT
    assert f"{name} has no effect: {WITHOUT_EFFECT[name]}" in caplog.text


@pytest.mark.parametrize("name", ONLY)
def test_what_cannot_be_done_here_is_refused_unless_it_asks_for_nothing(name, caplog):
    only, todo = ONLY[name]
    assert load(f"{name} = {only!r}") == DEFAULT
    assert not caplog.records
    assert todo in refusal(f"{name} = 'something'")


ELSEWHERE = {
    "optimizer.max_num_epochs": (7, lambda config: config.optimizer.max_epochs),
    "datasets.stream_train_max_batches": (7, lambda config: config.datasets.max_batches),
    "datasets.stream_train_shuffle": (False, lambda config: config.datasets.shuffle),
    "datasets.atomic_energies_override": ("average", lambda config: config.datasets.E0s),
    "model.atomic_energies": ("average", lambda config: config.datasets.E0s),
    "model.atomic_numbers": ((1, 8), lambda config: config.datasets.atomic_numbers),
    "model.heads": (("a", "b"), lambda config: tuple(one.name for one in config.datasets.heads)),
    "datasets.head_configs": ({"a": {}}, lambda config: {config.datasets.heads[0].name: {}}),
    "model.readout_mlp_irreps": ("8x0e", lambda config: config.model.MLP_irreps),
    "optimizer.stage_two_lr": (0.5, lambda config: config.train.swa_config.lr),
    "optimizer.stage_two_interval": (9, lambda config: config.train.swa_config.start_interval),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_other_names_of_the_same(name):
    value, found = ELSEWHERE[name]
    assert found(load(f"{name} = {value!r}")) == value


def test_every_other_name_is_tested():
    cueq = {name for name in MEANS if name.startswith("CuEquivarianceConfig.")}
    assert MEANS.keys() - cueq - {"model.cueq_config"} == ELSEWHERE.keys()


def test_cuequivariance_by_reference(caplog):
    chosen = "model.cueq_config = @CuEquivarianceConfig()"
    values = ("CuEquivarianceConfig.enabled = True", "CuEquivarianceConfig.conv_fusion = False")
    flags = load(chosen, *values).flags
    assert (flags.backend, flags.cueq_conv_fusion, flags.cueq_optimize_all) == ("cueq", False, True)
    assert not caplog.records
    assert load(*values) == DEFAULT
    assert "nothing refers to @CuEquivarianceConfig" in caplog.text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("WeightedEnergyForcesStressLoss", "stress"),
        ("WeightedEnergyForcesLoss", "ef"),
        ("WeightedForcesLoss", "forces_only"),
        ("WeightedEnergyForcesVirialsLoss", "virials"),
        ("WeightedHuberEnergyForcesStressLoss", "huber"),
        ("UniversalLoss", "universal"),
        ("WeightedEnergyForcesL1L2Loss", "l1l2"),
        ("DipoleSingleLoss", "dipole"),
        ("WeightedEnergyForcesDipoleLoss", "energy_forces_dipole"),
        *((name, name) for name in LOSS_TERMS),
    ],
)
def test_losses_by_the_class_of_mace_torch_and_by_name(name, expected):
    model = "AtomicDipolesMACE" if expected == "dipole" else "EnergyDipolesMACE"
    bindings = (f"loss.loss_cls = @{name}", f"model.model = @{model}")
    assert load(*bindings).loss.loss_cls == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("@std_scaling", "std_scaling"), ("@constant_scaling", "no_scaling"), ("None", "no_scaling")],
)
def test_scalings(value, expected):
    assert load(f"model.scaling = {value}").model.scaling == expected


def test_no_gate_and_no_transform_by_none():
    model = load("model.gate = None", "model.distance_transform = None").model
    assert (model.gate, model.distance_transform) == ("None", "None")


SCHEDULES = {
    "@constant_schedule": ([], ScheduleConfig()),
    "@exponential_decay": (
        ["exponential_decay.decay_rate = 0.5", "exponential_decay.end_value = None"],
        ScheduleConfig("exponential_decay", decay_rate=0.5),
    ),
    "@piecewise_constant_schedule": (
        ["piecewise_constant_schedule.boundaries_and_scales = {9: 0.5, 5: 0.1}"],
        ScheduleConfig(
            "piecewise_constant_schedule", boundaries_and_scales=((5.0, 0.1), (9.0, 0.5))
        ),
    ),
    "@reduce_on_plateau": (
        ["reduce_on_plateau.patience = 3", "reduce_on_plateau.min_lr = 1e-6"],
        ScheduleConfig("reduce_on_plateau", patience=3, min_lr=1e-6),
    ),
    "@warmup_cosine_decay": (
        ["warmup_cosine_decay.warmup_epochs = 2"],
        ScheduleConfig("warmup_cosine_decay", warmup_epochs=2.0),
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("behind", [True, False])
def test_schedules_by_reference(schedule, behind, caplog):
    """It does not matter whether it is referred to before or after its parameters."""
    parameters, expected = SCHEDULES[schedule]
    chosen = [f"optimizer.scheduler = {schedule}"]
    lines = [*parameters, *chosen] if behind else [*chosen, *parameters]
    assert load(*lines).optimizer.scheduler == expected
    assert not caplog.records


def test_a_constant_rate_after_a_warmup():
    lines = ["optimizer.scheduler = @constant_schedule", "constant_schedule.warmup_epochs = 3"]
    assert load(*lines).optimizer.scheduler == ScheduleConfig(warmup_epochs=3.0)


def test_what_a_section_refers_to_goes_with_it(caplog):
    """``None`` takes stage two away, whatever a file says of its loss."""
    lines = ["train.swa_config = @SWAConfig", "SWAConfig.loss = @stage_two_loss"]
    lines += ["stage_two_loss.energy_weight = 1000.0"]
    assert load(*lines).train.swa_config.loss.energy_weight == 1000
    assert load(*lines, "train.swa_config = None") == DEFAULT
    assert "nothing refers to @stage_two_loss" in caplog.text


def test_parameters_of_what_nothing_refers_to_are_told(caplog):
    lines = [line for parameters, _ in SCHEDULES.values() for line in parameters]
    lines += ["SWAConfig.lr = 1.0", "stage_two_loss.energy_weight = 1.0", "adam.b1 = 0.5"]
    assert load(*lines) == DEFAULT
    assert len(caplog.messages) == len(SCHEDULES) - 1 + 3
    for name in ("exponential_decay", "SWAConfig", "stage_two_loss", "adam"):
        assert f"nothing refers to @{name}" in caplog.text


def test_stage_two_by_reference():
    stage_two = load(
        "loss.loss_cls = @UniversalLoss",
        "SWAConfig.loss = @stage_two_loss",
        "stage_two_loss.energy_weight = 3.0",
        "train.swa_config = @SWAConfig()",
        "SWAConfig.start_interval = 12",
    ).train.swa_config
    assert (stage_two.start_interval, stage_two.lr) == (12, 1e-3)
    assert stage_two.loss.loss_cls == "universal"  # as before, where nothing else is said
    assert term_weights(stage_two.loss) == {"energy": 3.0, "forces": 100.0, "stress": 10.0}
    assert load("train.swa_config = @SWAConfig", "train.swa_config = None") == DEFAULT


def test_flags_of_a_section_keep_what_files_say_of_it():
    bindings = ["optimizer.scheduler = @exponential_decay", "exponential_decay.staircase = False"]
    flags = {
        "optimizer": {"scheduler": {"decay_rate": 0.5}},
        "train": {"swa_config": {"loss": {"energy_weight": 5.0}}},
    }
    bindings += ["train.swa_config = @SWAConfig", "SWAConfig.lr = 0.25"]
    config = load(*bindings, flags=flags)
    expected = ScheduleConfig("exponential_decay", decay_rate=0.5, staircase=False)
    assert config.optimizer.scheduler == expected
    assert config.train.swa_config.lr == 0.25
    assert config.train.swa_config.loss.energy_weight == 5.0
    # a flag that turns stage two on makes the file's values of it count
    bindings[2] = "train.swa_config = None"
    assert load(*bindings, flags=flags).train.swa_config.lr == 0.25


def test_another_schedule_by_a_flag_leaves_the_parameters_of_the_first(caplog):
    bindings = ["optimizer.scheduler = @exponential_decay", "exponential_decay.decay_rate = 0.5"]
    flags = {"optimizer": {"scheduler": {"name": "reduce_on_plateau"}}}
    assert load(*bindings, flags=flags).optimizer.scheduler == ScheduleConfig("reduce_on_plateau")
    assert "exponential_decay.decay_rate" in caplog.text


TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
NUMBER = st.floats(1e-3, 0.9)
PATHS = TEXT | st.lists(TEXT, min_size=1, max_size=3).map(tuple)
VALUES = {
    **{f"datasets.{split}_path": PATHS for split in ("train", "valid", "test")},
    "datasets.heads": st.just(()),
    "datasets.atomic_numbers": st.lists(st.integers(1, 90), min_size=1, max_size=3).map(tuple),
    "datasets.config_type_weights": st.dictionaries(TEXT, NUMBER, max_size=2),
    "model.correlation": st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "model.radial_MLP": st.lists(st.integers(1, 99), max_size=3).map(tuple),
    "optimizer.max_epochs": st.integers(5, 10**6),
    "optimizer.scheduler.boundaries_and_scales": st.lists(
        st.tuples(NUMBER, NUMBER), min_size=1, max_size=3
    ).map(lambda pairs: tuple(sorted(dict(pairs).items()))),
    "flags.process_index": st.just(0),
    "wandb_run.tags": st.lists(TEXT, max_size=2).map(tuple),
}


def any_value(name):
    hint = FIELDS[name]
    words, kind = choices(hint), without_none(hint)
    kinds = {int: st.integers(1, 4), float: NUMBER, bool: st.booleans(), str: TEXT}
    plain = st.sampled_from(words) if words else kinds.get(kind)
    found = VALUES.get(name, plain)
    return found | st.none() if is_optional(hint) and name != "datasets.train_path" else found


@st.composite
def some_of(draw, section, names=None):
    """Draw values of a section, any of them or just those that are named."""
    own = {
        name.rpartition(".")[2]: name
        for name, hint in FIELDS.items()
        if name.rpartition(".")[0] == section and not is_section(hint)
    }
    chosen = own if names is None else {name: own[name] for name in names}
    return {key: draw(any_value(name)) for key, name in chosen.items() if draw(st.booleans())}


@st.composite
def configurations(draw):
    sections = {name: draw(some_of(name)) for name in FIELDS if "." not in name}
    sections["datasets"] |= {"train_path": draw(PATHS)}
    optimizer = sections["optimizer"]
    algorithm = draw(st.sampled_from(sorted(ALGORITHM_PARAMETERS)))
    others = {name for names in ALGORITHM_PARAMETERS.values() for name in names}
    for name in others - set(ALGORITHM_PARAMETERS[algorithm]):
        optimizer.pop(name, None)
    schedule = draw(st.sampled_from(sorted(SCHEDULE_PARAMETERS)))
    parameters = draw(some_of("optimizer.scheduler", SCHEDULE_PARAMETERS[schedule]))
    optimizer |= {"algorithm": algorithm, "scheduler": {"name": schedule, **parameters}}
    sections["loss"] = draw(loss(draw(st.sampled_from(sorted(LOSS_TERMS)))))
    if draw(st.booleans()):
        stage_two = draw(some_of("train.swa_config"))
        if draw(st.booleans()):
            stage_two["loss"] = draw(loss(sections["loss"]["loss_cls"]))
        sections["train"]["swa_config"] = stage_two
    sections["model"]["model"] = "EnergyDipolesMACE"
    try:
        return train_config_from_sections(sections, "drawn")
    except ConfigError:
        assume(False)


@st.composite
def loss(draw, name):
    weights = {f"{term}_weight": draw(NUMBER) for term in LOSS_TERMS[name] if draw(st.booleans())}
    return {"loss_cls": name, "huber_delta": draw(NUMBER), **weights}


@settings(max_examples=50, deadline=None)
@given(config=configurations())
def test_any_configuration_is_repeated_by_its_files(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("saved")
    gin, saved = folder / "run.gin", folder / "run.config.json"
    gin.write_text(gin_text(config), encoding="utf-8")
    write_train_config(saved, config, make_provenance("mace-jax-train", []))
    assert load_train_config([gin], [], {}) == config
    assert load_train_config([saved], [], {}) == config
    other = load_train_config([saved], ["flags.seed = 12345"], {})
    assert other == replace(config, flags=replace(config.flags, seed=12345))


ODD = (
    "()",
    "{}",
    "[[1]]",
    "{'a': {1: 2}}",
    "{1: 0.5, 'a': 2}",
    "@adam",
    "@SWAConfig()",
    "-1",
    "''",
)


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(sorted(KNOWN)), value=st.sampled_from(ODD) | TEXT)
def test_whatever_is_written_is_a_configuration_or_an_error_of_one_line(name, value):
    message = ""
    try:
        load(f"{name} = {value}")
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message


def test_a_name_that_a_caller_gives_wrong_is_not_lost():
    assert "unknown lrr; did you mean lr?" in refusal(flags={"optimizer": {"lrr": 1.0}})
    assert "unknown optimizr" in refusal(flags={"optimizr": {"lr": 1.0}})
