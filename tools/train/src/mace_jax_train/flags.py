"""The flags of mace-jax-train: a table of what each sets in the configuration.

Its type and the words that it takes are those of the value it sets; ranges are checked with the
whole configuration. A flag that is not given changes nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mace_jax.artifacts.train_config_fields import FIELDS, choices
from mace_jax_train.head_options import parse_heads, read_heads


@dataclass(frozen=True)
class Flag:
    """A flag that sets one value.

    Attributes:
        names: as they are written, separated by spaces; the first is what messages say.
        target: dotted name of the value.
        help: what it is.
        value: what a flag sets that takes none.
        words: words that it takes -> what each stands for.
        weak: whether any other flag of the same target wins.
        hidden: whether it is left out of the help: another spelling, for old scripts.
        parse: from its text to the value, where the value's type does not say it.
    """

    names: str
    target: str
    help: str
    value: Any = None
    words: Mapping[str, str] | None = None
    weak: bool = False
    hidden: bool = False
    parse: Callable[[str], Any] | None = None


_SCHEDULES = {
    "constant": "constant",
    "exponential": "exponential_decay",
    "piecewise_constant": "piecewise_constant_schedule",
    "plateau": "reduce_on_plateau",
    "cosine": "warmup_cosine_decay",
}
_LOSSES = {name: name for name in choices(FIELDS["loss.loss_cls"])} | {"l1l2energyforces": "l1l2"}
_TERMS = ("energy", "forces", "stress", "virials", "dipole")
_KEYS = (*_TERMS, "polarizability", "charges", "head")

FLAGS = (
    Flag("--name", "logs.name", "tag of the run's files [default: name of the first config]"),
    Flag("--log-dir", "logs.directory", "folder of the run's files"),
    Flag("--timestamp/--no-timestamp", "logs.include_timestamp", "date and time in front of it"),
    Flag("--log-level", "logs.level", "how much is said on stderr"),
    Flag("--seed", "flags.seed", "of the initial weights, plans and order of batches"),
    Flag("--dtype --default-dtype", "flags.dtype", "of weights and activations"),
    Flag("--device", "flags.device", "where to compute; auto: as jax chooses"),
    Flag("--backend", "flags.backend", "plain jax, or the kernels of cuequivariance"),
    Flag("--enable-cueq", "flags.backend", "the same as --backend cueq", value="cueq"),
    Flag("--only-cueq", "flags.backend", "the same as --backend cueq", value="cueq"),
    Flag(
        "--cueq-conv-fusion/--no-cueq-conv-fusion",
        "flags.cueq_conv_fusion",
        "messages by cuequivariance",
    ),
    Flag(
        "--cueq-optimize-all/--no-cueq-optimize-all",
        "flags.cueq_optimize_all",
        "contractions and linear maps by element by cuequivariance",
    ),
    Flag(
        "--debug/--no-debug", "flags.debug", "stop where a NaN is made; show an error's traceback"
    ),
    Flag("--distributed/--no-distributed", "flags.distributed", "train with other processes"),
    Flag("--process-count", "flags.process_count", "how many processes train together"),
    Flag("--process-index", "flags.process_index", "which of them this is, from 0"),
    Flag("--coordinator-address", "flags.coordinator_address", "host of process 0"),
    Flag("--coordinator-port", "flags.coordinator_port", "where process 0 listens"),
    Flag(
        "--train-path --train-file",
        "datasets.train_path",
        "HDF5 file, folder or glob, or extxyz; several as \"['a.h5', 'b.xyz']\"",
    ),
    Flag("--valid-path --valid-file", "datasets.valid_path", "the same, or None"),
    Flag("--test-path --test-file", "datasets.test_path", "the same, or None"),
    Flag("--statistics-file", "datasets.statistics_file", "statistics.json of mace-jax-preprocess"),
    Flag("--train-plan", "datasets.train_plan", "plan of mace-jax-plan-batches"),
    Flag("--valid-plan", "datasets.valid_plan", "plan of mace-jax-plan-batches"),
    Flag("--test-plan", "datasets.test_plan", "plan of mace-jax-plan-batches"),
    Flag("--batch-max-edges --n-edge", "datasets.n_edge", "edges of a batch, for missing plans"),
    Flag("--atomic-numbers", "datasets.atomic_numbers", 'elements, such as "[1, 6, 8]"'),
    Flag(
        "--E0s",
        "datasets.E0s",
        "average, isolated_atom, foundation, estimated, a dict or a JSON file",
    ),
    *(Flag(f"--{key}-key", f"datasets.{key}_key", f"where extxyz has the {key}") for key in _KEYS),
    Flag(
        "--config-type-weights",
        "datasets.config_type_weights",
        "dict literal: config_type -> weight of its structures",
    ),
    Flag(
        "--heads",
        "datasets.heads",
        "names of readout heads, or a dict literal: name -> its train_path, weight, E0s, …",
        parse=parse_heads,
    ),
    Flag(
        "--heads-config --head-config",
        "datasets.heads",
        "JSON or YAML file of the same",
        parse=read_heads,
    ),
    Flag("--shuffle/--no-shuffle", "datasets.shuffle", "another order of batches in each epoch"),
    Flag("--suffle", "datasets.shuffle", "as mace-jax spells it", hidden=True),
    Flag("--stream-train-max-batches", "datasets.max_batches", "steps of an epoch, at most"),
    Flag(
        "--num-workers",
        "datasets.num_workers",
        "processes that make the batches of each split; 0: this one does, between steps",
    ),
    Flag("--r-max", "model.r_max", "cutoff, Å"),
    Flag("--scaling", "model.scaling", "what the energies are scaled by"),
    Flag("--start-from", "model.start_from", "bundle of the model to start from"),
    Flag("--torch-checkpoint", "model.torch_checkpoint", "Torch MACE model to start from"),
    Flag("--foundation-model", "model.foundation_model", "released model to start from, or a path"),
    Flag("--torch-head --foundation-head", "model.torch_head", "its head that is trained"),
    Flag("--torch-param-dtype", "model.torch_param_dtype", "what its weights are rounded to"),
    Flag(
        "--multiheads-finetuning/--no-multiheads-finetuning",
        "replay.multiheads_finetuning",
        "train a model's head on its old data beside those of the new ones",
    ),
    Flag(
        "--pt-train-file",
        "replay.pt_train_file",
        "training data of that head; may be given several times",
    ),
    Flag("--pt-valid-file", "replay.pt_valid_file", "its validation data"),
    Flag("--pt-head-name", "replay.pt_head_name", "its name [default: pt_head]"),
    Flag("--weight-pt-head", "replay.weight_pt_head", "its weight in the loss"),
    Flag(
        "--force-mh-ft-lr/--no-force-mh-ft-lr",
        "replay.force_mh_ft_lr",
        "learning rate and average as in any other run, not 1e-4 and 0.99999",
    ),
    Flag("--loss", "loss.loss_cls", "one of mace-torch's", words=_LOSSES),
    *(
        Flag(f"--{term}-weight", f"loss.{term}_weight", f"of the {term} in the loss")
        for term in _TERMS
    ),
    Flag("--huber-delta", "loss.huber_delta", "where the Huber losses become linear"),
    Flag("--optimizer", "optimizer.algorithm", "method of gradient descent"),
    Flag("--lr", "optimizer.lr", "learning rate"),
    Flag("--beta", "optimizer.b1", "of Adam: decay of the first moment"),
    Flag("--beta2", "optimizer.b2", "of Adam: decay of the second moment"),
    Flag("--epsilon", "optimizer.eps", "of Adam"),
    Flag("--weight-decay", "optimizer.weight_decay", "of the weights that mace-torch decays"),
    Flag("--schedule-free-b1", "optimizer.schedule_free_b1", "of schedulefree"),
    Flag(
        "--schedule-free-weight-lr-power",
        "optimizer.schedule_free_weight_lr_power",
        "of schedulefree",
    ),
    Flag("--accumulate", "optimizer.accumulate", "batches whose gradients make one step"),
    Flag("--max-epochs --max-num-epochs --max-num-intervals", "optimizer.max_epochs", "at most"),
    Flag("--scheduler", "optimizer.scheduler.name", "of the learning rate", words=_SCHEDULES),
    Flag(
        "--lr-scheduler-gamma",
        "optimizer.scheduler.decay_rate",
        "of exponential: factor of every epoch",
    ),
    Flag("--lr-factor", "optimizer.scheduler.factor", "of plateau: factor"),
    Flag(
        "--scheduler-patience",
        "optimizer.scheduler.patience",
        "of plateau: evaluations without a better loss",
    ),
    Flag(
        "--scheduler-threshold",
        "optimizer.scheduler.threshold",
        "of plateau: how much lower, relative to the best, is better",
    ),
    Flag("--warmup-epochs", "optimizer.scheduler.warmup_epochs", "from 0 to the whole rate"),
    Flag("--clip-grad", "train.max_grad_norm", "largest norm of the gradient"),
    Flag("--ema", "train.ema_decay", "the same as --ema-decay 0.99", value=0.99, weak=True),
    Flag("--ema-decay", "train.ema_decay", "of the moving average of the weights, or None"),
    Flag("--eval-interval", "train.eval_interval", "epochs between evaluations"),
    Flag("--eval-train/--no-eval-train", "train.eval_train", "evaluate the training data, too"),
    Flag("--eval-test/--no-eval-test", "train.eval_test", "evaluate the test data every time"),
    Flag("--log-errors", "train.log_errors", "which errors are shown"),
    Flag("--best-metric", "train.best_metric", "what the best weights have lowest"),
    Flag(
        "--best-head",
        "train.best_head",
        "head whose metric that is; weighted: of all, each times its weight",
    ),
    Flag("--patience", "train.patience", "evaluations without a better one that end the run"),
    Flag("--max-skipped-steps", "train.max_skipped_steps", "steps that may be not finite"),
    Flag("--checkpoint-dir", "train.checkpoint_dir", "folder [default: that of the run]"),
    Flag("--checkpoint-steps", "train.checkpoint_steps", "steps between checkpoints of an epoch"),
    Flag("--checkpoint-every", "train.checkpoint_every", "epochs between those that are kept"),
    Flag("--checkpoint-keep", "train.checkpoint_keep", "how many are kept"),
    Flag("--checkpoint-best/--no-checkpoint-best", "train.checkpoint_best", "keep the best's, too"),
    Flag("--resume-from", "train.resume_from", "checkpoint to go on from"),
    Flag(
        "--swa",
        "train.swa_config",
        "stage two: other loss and lr, averaged weights; so does each flag below",
        value={},
    ),
    Flag("--swa-start --start-swa", "train.swa_config.start_interval", "epoch that it follows"),
    Flag("--swa-every", "train.swa_config.update_interval", "epochs between averaged weights"),
    Flag(
        "--swa-min-snapshots",
        "train.swa_config.min_snapshots_for_eval",
        "as many, and the average is evaluated and saved",
    ),
    Flag("--swa-max-snapshots", "train.swa_config.max_snapshots", "how many are averaged"),
    Flag(
        "--swa-prefer/--swa-no-prefer",
        "train.swa_config.prefer_swa_params",
        "whether the average is evaluated and saved at all",
    ),
    Flag("--swa-lr", "train.swa_config.lr", "its learning rate"),
    Flag("--swa-loss", "train.swa_config.loss.loss_cls", "its loss", words=_LOSSES),
    *(
        Flag(f"--swa-{term}-weight", f"train.swa_config.loss.{term}_weight", f"of the {term}")
        for term in _TERMS
    ),
    Flag("--swa-huber-delta", "train.swa_config.loss.huber_delta", "of its Huber loss"),
    Flag("--wandb/--no-wandb", "wandb_run.enabled", "report there; so does each flag below"),
    Flag("--wandb-project", "wandb_run.project", "name of the project"),
    Flag("--wandb-entity", "wandb_run.entity", "user or team"),
    Flag("--wandb-group", "wandb_run.group", "group of the run"),
    Flag("--wandb-run-name", "wandb_run.name", "name there [default: the tag]"),
    Flag("--wandb-tag", "wandb_run.tags", "may be given several times"),
    Flag("--wandb-notes", "wandb_run.notes", "text about the run"),
    Flag("--wandb-mode", "wandb_run.mode", "offline: keep the reports for wandb sync"),
    Flag("--wandb-dir", "wandb_run.dir", "folder of its files [default: that of the run]"),
    Flag(
        "--tensorboard/--no-tensorboard",
        "tensorboard.enabled",
        "write event files; so does the flag below",
    ),
    Flag(
        "--tensorboard-dir",
        "tensorboard.dir",
        "folder of them [default: tensorboard in that of the run]",
    ),
)

# flag -> words it takes (any number if there are none), what is used anyway, and why
IGNORED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "--cueq-layout": (("mul_ir", "ir_mul"), "ir_mul is used, with the same numbers"),
    "--cueq-group": (("O3", "O3_e3nn"), "O3_e3nn is used, with the same numbers"),
    "--stream-train-node-percentile": ((), "the plan says how many atoms a batch has room for"),
    "--batch-node-precentile": ((), "the plan says how many atoms a batch has room for"),
}
# section -> title in the help
TITLES = {
    "logs": "Files",
    "flags": "Computing",
    "datasets": "Data",
    "model": "Model",
    "replay": "Multi-head fine-tuning",
    "loss": "Loss",
    "optimizer": "Optimizer",
    "train": "Loop",
    "train.swa_config": "Stage two",
    "wandb_run": "Weights & Biases",
    "tensorboard": "TensorBoard",
}
