"""The sections of a training run's configuration, typed and complete."""

from dataclasses import dataclass, field
from typing import Literal

from mace_jax.artifacts.model_bundle import InteractionName


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
        distributed: whether this is one of several processes that train together.
        process_count, process_index: how many there are, and which this is, from 0.
        coordinator_address, coordinator_port: where the processes meet: the host of process 0.
    """

    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    device: Literal["auto", "cpu", "cuda", "tpu"] = "auto"
    backend: Literal["dense", "cueq"] = "dense"
    cueq_conv_fusion: bool = True
    cueq_optimize_all: bool = True
    debug: bool = False
    distributed: bool = False
    process_count: int | None = None
    process_index: int | None = None
    coordinator_address: str | None = None
    coordinator_port: int | None = None


@dataclass(frozen=True)
class LogsConfig:
    """Where the run writes; ``name`` is the common stem of its files."""

    name: str | None = None
    directory: str = "results"
    include_timestamp: bool = False
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


@dataclass(frozen=True)
class HeadConfig:
    """One of several readout heads: its data, and what they count in the loss.

    Attributes:
        name: of the head.
        train_path, valid_path, test_path: as in ``DatasetsConfig``; all structures in them are of
            this head. Either every head has a ``train_path``, or none: then the structures of
            ``DatasetsConfig`` name their heads themselves.
        weight: what its part of the loss is multiplied by in training; with 0 it trains nothing,
            and without training data it is kept as the model that training begins with has it.
        energy_weight, …, dipole_weight: what single terms are multiplied by, in evaluations, too.
        r_max: cutoff its data are meant for, Å; an error if the run has another one.
        readout: of a model that training begins with, the head whose readout, E0s, scale and shift
            this one begins with; ``fresh`` for random weights. By default the one of this name, or
            else ``model.torch_head``, or else the only one.
        E0s, energy_key, …, config_type_weights: as in ``DatasetsConfig``, where they are not
            given here.
    """

    name: str
    train_path: str | tuple[str, ...] | None = None
    valid_path: str | tuple[str, ...] | None = None
    test_path: str | tuple[str, ...] | None = None
    weight: float = 1.0
    energy_weight: float = 1.0
    forces_weight: float = 1.0
    stress_weight: float = 1.0
    virials_weight: float = 1.0
    dipole_weight: float = 1.0
    r_max: float | None = None
    readout: str | None = None
    E0s: str | None = None
    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    virials_key: str | None = None
    dipole_key: str | None = None
    polarizability_key: str | None = None
    charges_key: str | None = None
    config_type_weights: dict[str, float] | None = None


@dataclass(frozen=True)
class DatasetsConfig:
    """What the run reads.

    Attributes:
        train_path, valid_path, test_path: the splits: a path, or several, whose structures follow
            each other. Each is HDF5 (a file, folder or glob ``*.h5`` is one dataset), extxyz or
            anything else that ASE reads, or a glob of such files. Where the training data are of
            several heads, so is the model.
        statistics_file: of preprocess; computed if there is none.
        train_plan, valid_plan, test_plan: of plan-batches; made if there is none.
        r_max: cutoff, Å; the same as ``model.r_max``.
        n_edge: edges of a batch, for plans that are made.
        atomic_numbers: elements of the model; by default those of the statistics file or the data.
        E0s: ``average``, ``isolated_atom``, a dict literal or a JSON file; of a model that training
            begins with also ``foundation``, its own, or ``estimated``, its own corrected by what
            its predictions of the training data are wrong by. By default those of the statistics
            file, or else the model's own, or else those of isolated atoms in the data.
        energy_key, …, head_key: where extxyz has what.
        config_type_weights: weight of the structures of a config type; 1 for those not named.
        shuffle: whether each epoch has an order of its own.
        max_batches: steps of an epoch, at most; the next epoch has other batches.
        num_workers: processes that make the batches of each split; 0: this one does.
        heads: readout heads, in the order that they have in the model; by default the data's.
    """

    train_path: str | tuple[str, ...] | None = None
    valid_path: str | tuple[str, ...] | None = None
    test_path: str | tuple[str, ...] | None = None
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
    virials_key: str | None = None
    dipole_key: str | None = None
    polarizability_key: str | None = None
    charges_key: str | None = None
    head_key: str | None = None
    config_type_weights: dict[str, float] | None = None
    shuffle: bool = True
    max_batches: int | None = None
    num_workers: int = 0
    heads: tuple[HeadConfig, ...] = ()


@dataclass(frozen=True)
class ModelSection:
    """The network; names and meaning as in ``ModelConfig`` and in ``mace_run_train``.

    ``model`` is ``MACE``, whose energies are scaled but not shifted, so that an isolated atom has
    its E0, or ``ScaleShiftMACE``, which is shifted by the mean, too. ``avg_num_neighbors``, scale
    and shift come from the statistics.

    With one of ``start_from`` (a bundle), ``torch_checkpoint`` or ``foundation_model`` (name of a
    released model, or a path) training begins with that model, and everything above is its own: a
    value that is neither the default nor the model's is an error.

    Attributes:
        torch_head: its head that is trained; needed if it has several, and the run none of their
            names.
        torch_param_dtype: what its weights are rounded to first.
    """

    r_max: float | None = None
    model: Literal["MACE", "ScaleShiftMACE", "AtomicDipolesMACE", "EnergyDipolesMACE"] = "MACE"
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
    scaling: Literal["rms_forces_scaling", "std_scaling", "no_scaling"] = "rms_forces_scaling"
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
    start_from: str | None = None
    torch_checkpoint: str | None = None
    foundation_model: str | None = None
    torch_head: str | None = None
    torch_param_dtype: Literal["float32", "float64"] | None = None


LossName = Literal[
    "weighted",
    "ef",
    "forces_only",
    "stress",
    "virials",
    "huber",
    "universal",
    "l1l2",
    "dipole",
    "energy_forces_dipole",
]


@dataclass(frozen=True)
class LossConfig:
    """The loss: one of mace-torch's, and the weights of its terms.

    ``weighted`` is mean squares of energy per atom, forces and, with a ``stress_weight``, stress. A
    weight that is None is what the loss has by default; a term that it lacks can have none.
    """

    loss_cls: LossName = "weighted"
    energy_weight: float | None = None
    forces_weight: float | None = None
    stress_weight: float | None = None
    virials_weight: float | None = None
    dipole_weight: float | None = None
    huber_delta: float = 0.01


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate changes; lengths are in epochs, also where it changes every step.

    Attributes:
        name: one of the following.
        decay_rate, transition_steps, transition_begin, staircase, end_value: ``exponential_decay``:
            lr·decay_rate^((epoch - begin) / steps), a whole number of times with ``staircase``,
            never below ``end_value``.
        boundaries_and_scales: ``piecewise_constant_schedule``: pairs (epoch, factor from it on).
        factor, patience, threshold, min_lr: ``reduce_on_plateau``: times ``factor`` when more than
            ``patience`` evaluations in a row were no better by ``threshold``, relative to the best
            loss.
        warmup_epochs: of every one: the rate rises from 0 to the whole in these; then
            ``warmup_cosine_decay`` falls along a half cosine to ``end_value`` at the last epoch.
    """

    name: Literal[
        "constant",
        "exponential_decay",
        "piecewise_constant_schedule",
        "reduce_on_plateau",
        "warmup_cosine_decay",
    ] = "constant"
    decay_rate: float = 0.9993
    transition_steps: float = 1.0
    transition_begin: float = 0.0
    staircase: bool = True
    end_value: float = 0.0
    boundaries_and_scales: tuple[tuple[float, float], ...] = ()
    factor: float = 0.8
    patience: int = 50
    threshold: float = 1e-4
    min_lr: float = 0.0
    warmup_epochs: float = 0.0


@dataclass(frozen=True)
class LoRAConfig:
    """Adapters of low rank beside the linear layers: they alone train.

    Attributes:
        rank: of each adapter.
        alpha: an adapter counts alpha / rank times.
    """

    rank: int = 4
    alpha: float = 1.0


@dataclass(frozen=True)
class OptimizerConfig:
    """The gradient descent method.

    ``weight_decay`` acts on the weights that mace-torch decays: the linear layers after the
    convolutions and everything in the product bases. It is added to the gradient (L2), and in
    ``adamw`` and ``schedulefree`` to the step instead (decoupled).

    Attributes:
        accumulate: batches whose gradients are averaged for one step.
        schedule_free_b1, schedule_free_weight_lr_power: of ``schedulefree``.
        freeze: parts of the network that do not train, by their paths in it, such as
            ``interactions.0``.
        lr_factors: part -> what its learning rate is multiplied by; of several that a weight is
            in, the innermost counts.
        lora: adapters that train instead of the weights; None: there are none.
    """

    algorithm: Literal["adam", "adamw", "amsgrad", "sgd", "schedulefree"] = "amsgrad"
    lr: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_epochs: int = 100
    accumulate: int = 1
    scheduler: ScheduleConfig = field(default_factory=ScheduleConfig)
    schedule_free_b1: float = 0.95
    schedule_free_weight_lr_power: float = 2.0
    freeze: tuple[str, ...] | None = None
    lr_factors: dict[str, float] | None = None
    lora: LoRAConfig | None = None


@dataclass(frozen=True)
class SWAConfig:
    """Stage two: another loss and learning rate, and an average of the weights of its epochs.

    Attributes:
        start_interval: epoch that it begins after; by default three quarters of all, as in
            mace-torch.
        lr: learning rate, constant; by default 1e-3 or the run's own, if that is lower.
        update_interval: epochs between the snapshots that are averaged.
        min_snapshots_for_eval: as many, and the average is what is evaluated and saved.
        max_snapshots: how many are averaged.
        prefer_swa_params: False: the average is kept but not evaluated.
        loss: by default the run's loss with mace-torch's weights of stage two: energy 1000,
            forces 100, stress 10, virials 10, dipole 1.
    """

    start_interval: int | None = None
    lr: float | None = None
    update_interval: int = 1
    min_snapshots_for_eval: int = 1
    max_snapshots: int | None = None
    prefer_swa_params: bool = True
    loss: LossConfig | None = None


LogErrors = Literal[
    "PerAtomRMSE",
    "PerAtomRMSEstressvirials",
    "rel_PerAtomRMSE",
    "TotalRMSE",
    "PerAtomMAE",
    "PerAtomMAEstressvirials",
    "rel_PerAtomMAE",
    "TotalMAE",
    "DipoleRMSE",
    "EnergyDipoleRMSE",
]


@dataclass(frozen=True)
class TrainSection:
    """The loop: averaging, clipping, evaluation, stopping and checkpoints.

    Attributes:
        ema_decay: of the moving average that is evaluated and saved; None: there is none.
        max_grad_norm: larger gradients are scaled down to it.
        eval_interval: epochs between evaluations.
        eval_train: whether the training data are evaluated, too, with the weights that are saved.
        eval_test: whether the test data are evaluated at every evaluation, not only at the end.
        log_errors: which errors the table of an evaluation shows.
        best_metric: what the best weights have lowest: a column of the metrics file.
        best_head: head whose metric that is; ``weighted``: the sum over heads of weight times
            metric. In mace-torch it is the last head.
        patience: evaluations without a better one that end the run.
        swa_config: stage two.
        max_skipped_steps: steps, at most, that may be left out because loss or gradient is not
            finite.
        checkpoint_dir: by default the folder of the run.
        checkpoint_steps: steps between checkpoints inside an epoch; after each epoch there is one.
        checkpoint_every: epochs between checkpoints that are kept beside the latest.
        checkpoint_keep: how many of those.
        checkpoint_best: whether that of the best evaluation is kept, too.
        resume_from: checkpoint to go on from; by default the run's own, if it was interrupted.
    """

    ema_decay: float | None = 0.99
    max_grad_norm: float | None = 10.0
    eval_interval: int = 1
    eval_train: bool = False
    eval_test: bool = False
    log_errors: LogErrors = "PerAtomRMSE"
    best_metric: str = "loss"
    best_head: str = "weighted"
    patience: int | None = None
    swa_config: SWAConfig | None = None
    max_skipped_steps: int = 0
    checkpoint_dir: str | None = None
    checkpoint_steps: int | None = None
    checkpoint_every: int | None = None
    checkpoint_keep: int = 1
    checkpoint_best: bool = False
    resume_from: str | None = None


@dataclass(frozen=True)
class WandbConfig:
    """Reports to Weights & Biases, with the names of ``wandb.init``."""

    enabled: bool = False
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None
    mode: Literal["online", "offline", "disabled"] | None = None
    dir: str | None = None


@dataclass(frozen=True)
class TensorboardConfig:
    """Reports as event files, which TensorBoard shows.

    ``dir`` is the folder in which each run has one of its tag; by default ``tensorboard`` in
    ``logs.directory``.
    """

    enabled: bool = False
    dir: str | None = None


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
    wandb_run: WandbConfig = field(default_factory=WandbConfig)
    tensorboard: TensorboardConfig = field(default_factory=TensorboardConfig)


SECTIONS: dict[str, type] = {
    "flags": FlagsConfig,
    "logs": LogsConfig,
    "datasets": DatasetsConfig,
    "model": ModelSection,
    "loss": LossConfig,
    "optimizer": OptimizerConfig,
    "train": TrainSection,
    "wandb_run": WandbConfig,
    "tensorboard": TensorboardConfig,
}
