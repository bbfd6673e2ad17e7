"""The configuration of a training run, typed and complete: what a run is a function of."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import msgspec

from mace_jax.artifacts.model_bundle import InteractionName
from mace_jax.artifacts.provenance import Input, file_sha256
from mace_jax.artifacts.versioned import check_document, read_json, tag, write_json
from mace_jax.errors import ConfigError

KIND = "train_config"


@dataclass(frozen=True)
class FlagsConfig:
    """How the run computes.

    Attributes:
        seed: of the initial weights, of plans made on the way and of the order of batches.
        dtype: of weights and activations.
        device: platform; ``auto`` is jax's own choice.
        backend: ``dense`` is plain jax, ``cueq`` the kernels of cuequivariance.
        cueq_conv_fusion: whether those compute the messages.
        cueq_optimize_all: whether they compute the symmetric contraction and the linear maps by
            element.
        debug: stop at the operation that makes a NaN.
    """

    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    device: Literal["auto", "cpu", "cuda", "tpu"] = "auto"
    backend: Literal["dense", "cueq"] = "dense"
    cueq_conv_fusion: bool = True
    cueq_optimize_all: bool = True
    debug: bool = False


@dataclass(frozen=True)
class LogsConfig:
    """Where the run writes; ``name`` is the common stem of its files."""

    name: str | None = None
    directory: str = "results"
    include_timestamp: bool = False


@dataclass(frozen=True)
class DatasetsConfig:
    """What the run reads. A path is HDF5 (file, folder, glob) or extxyz."""

    train_path: str
    valid_path: str | None = None
    test_path: str | None = None
    statistics_file: str | None = None
    train_plan: str | None = None
    valid_plan: str | None = None
    test_plan: str | None = None
    r_max: float | None = None
    n_edge: int | None = None
    atomic_numbers: tuple[int, ...] | None = None
    E0s: str | None = None
    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None


@dataclass(frozen=True)
class ModelSection:
    """The network; names and meaning as in ``ModelConfig`` and in ``mace_run_train``.

    ``model`` is ``MACE``, whose energies are scaled but not shifted, so that an isolated atom has
    its E0, or ``ScaleShiftMACE``, which is shifted by the mean, too. ``avg_num_neighbors``, scale
    and shift come from the statistics.
    """

    r_max: float | None = None
    model: Literal["MACE", "ScaleShiftMACE"] = "MACE"
    num_bessel: int = 8
    num_polynomial_cutoff: int = 5
    max_ell: int = 3
    num_interactions: int = 2
    hidden_irreps: str = "128x0e + 128x1o"
    MLP_irreps: str = "16x0e"
    correlation: int | tuple[int, ...] = 3
    radial_MLP: tuple[int, ...] = (64, 64, 64)
    gate: Literal["silu", "tanh", "abs", "None"] = "silu"
    interaction_cls: InteractionName = "RealAgnosticResidualInteractionBlock"
    interaction_cls_first: InteractionName = "RealAgnosticInteractionBlock"
    avg_num_neighbors: float | None = None
    scaling: Literal["rms_forces_scaling", "no_scaling"] = "rms_forces_scaling"
    radial_type: Literal["bessel", "gaussian", "chebyshev"] = "bessel"
    distance_transform: Literal["None", "Agnesi", "Soft"] = "None"
    apply_cutoff: bool = True
    pair_repulsion: bool = False
    readout_cls: Literal["NonLinearReadoutBlock", "NonLinearBiasReadoutBlock"] = (
        "NonLinearReadoutBlock"
    )
    edge_irreps: str | None = None
    use_edge_irreps_first: bool = False
    use_so3: bool = False
    use_reduced_cg: bool = False
    use_agnostic_product: bool = False
    use_last_readout_only: bool = False
    keep_last_layer_irreps: bool = False


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of mace-torch's ``WeightedEnergyForcesStressLoss``."""

    energy_weight: float = 1.0
    forces_weight: float = 100.0
    stress_weight: float = 0.0


@dataclass(frozen=True)
class OptimizerConfig:
    """The gradient descent method.

    ``weight_decay`` is L2 regularisation of the weights that mace-torch decays: the linear layers
    after the convolutions and everything in the product bases.
    """

    algorithm: Literal["adam", "amsgrad"] = "amsgrad"
    lr: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_epochs: int = 100


@dataclass(frozen=True)
class TrainSection:
    """The loop: averaging, clipping, evaluation and stopping."""

    ema_decay: float | None = 0.99
    max_grad_norm: float | None = 10.0
    eval_interval: int = 1
    patience: int | None = None


@dataclass(frozen=True)
class TrainConfig:
    """All sections of a run's configuration."""

    datasets: DatasetsConfig
    flags: FlagsConfig = field(default_factory=FlagsConfig)
    logs: LogsConfig = field(default_factory=LogsConfig)
    model: ModelSection = field(default_factory=ModelSection)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainSection = field(default_factory=TrainSection)


SECTIONS: dict[str, type] = {
    "flags": FlagsConfig,
    "logs": LogsConfig,
    "datasets": DatasetsConfig,
    "model": ModelSection,
    "loss": LossConfig,
    "optimizer": OptimizerConfig,
    "train": TrainSection,
}


def train_config_from_sections(sections: dict[str, dict[str, Any]], source: str) -> TrainConfig:
    """Check names and types of a configuration given as plain data.

    Raises:
        ConfigError: an unknown key, a wrong type or an impossible value.
    """
    unknown = set(sections) - set(SECTIONS)
    if unknown:
        message = f"{source}: unknown section {', '.join(sorted(unknown))}"
        raise ConfigError(message)
    try:
        for name, section in SECTIONS.items():
            unknown = set(sections.get(name, {})) - {item.name for item in fields(section)}
            if unknown:
                message = f"{source}: {name}: unknown {', '.join(sorted(unknown))}"
                raise ConfigError(message)
        config = msgspec.convert(sections, TrainConfig, strict=True)
    except msgspec.ValidationError as error:
        message = f"{source}: {error}; correct the value"
        raise ConfigError(message) from error
    _check_ranges(config, source)
    return config


def _check_ranges(config: TrainConfig, source: str) -> None:
    positive = {
        "optimizer.lr": config.optimizer.lr,
        "optimizer.max_epochs": config.optimizer.max_epochs,
        "train.eval_interval": config.train.eval_interval,
        "model.num_bessel": config.model.num_bessel,
        "model.num_interactions": config.model.num_interactions,
        "model.num_polynomial_cutoff": config.model.num_polynomial_cutoff,
        "datasets.n_edge": config.datasets.n_edge,
        "datasets.r_max": config.datasets.r_max,
        "model.r_max": config.model.r_max,
        "model.avg_num_neighbors": config.model.avg_num_neighbors,
        "optimizer.eps": config.optimizer.eps,
        "train.max_grad_norm": config.train.max_grad_norm,
        "train.patience": config.train.patience,
    }
    not_negative = {
        "loss.energy_weight": config.loss.energy_weight,
        "loss.forces_weight": config.loss.forces_weight,
        "loss.stress_weight": config.loss.stress_weight,
        "optimizer.weight_decay": config.optimizer.weight_decay,
        "model.max_ell": config.model.max_ell,
        "flags.seed": config.flags.seed,
    }
    for name, value in positive.items():
        if value is not None and not 0 < value < float("inf"):
            message = f"{source}: {name} = {value}, expected more than 0; correct the value"
            raise ConfigError(message)
    for name, value in not_negative.items():
        if not value >= 0:
            message = f"{source}: {name} = {value}, expected 0 or more; correct the value"
            raise ConfigError(message)
    below_one = {
        "train.ema_decay": config.train.ema_decay,
        "optimizer.b1": config.optimizer.b1,
        "optimizer.b2": config.optimizer.b2,
    }
    for name, value in below_one.items():
        if value is not None and not 0 <= value < 1:
            message = f"{source}: {name} = {value}, expected 0 ≤ value < 1; correct the value"
            raise ConfigError(message)
    correlation = config.model.correlation
    if min((correlation,) if isinstance(correlation, int) else correlation, default=0) < 1:
        message = f"{source}: model.correlation = {correlation}, expected 1 or more; correct it"
        raise ConfigError(message)
    if not all(width > 0 for width in config.model.radial_MLP):
        message = f"{source}: model.radial_MLP = {config.model.radial_MLP}, expected widths above 0"
        raise ConfigError(message)
    if not (config.loss.energy_weight or config.loss.forces_weight or config.loss.stress_weight):
        message = f"{source}: loss: all weights are 0, so nothing would be learned; set one"
        raise ConfigError(message)


def write_train_config(path: Path, config: TrainConfig, provenance: dict[str, Any]) -> None:
    """Write ``<tag>.config.json`` atomically."""
    document = {"schema": tag(KIND), "provenance": provenance, **asdict(config)}
    write_json(path, document, KIND)


def read_train_config(path: Path) -> TrainConfig:
    """Read ``<tag>.config.json``.

    Raises:
        ArtifactError: it is damaged or of another kind.
        ConfigError: a value is impossible.
    """
    document = check_document(read_json(path), KIND, path)
    sections = {name: document[name] for name in SECTIONS}
    return train_config_from_sections(sections, str(path))


def train_config_input(path: Path) -> Input:
    """Describe a configuration in a provenance record."""
    return Input("config", path, KIND, tag(KIND)["version"], file_sha256(path))
