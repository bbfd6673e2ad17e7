"""Which numbers a configuration can have."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from mace_jax.artifacts.train_config_sections import HeadConfig, TrainConfig
from mace_jax.errors import ConfigError

_POSITIVE = (
    "flags.process_count",
    "datasets.r_max",
    "datasets.heads.r_max",
    "datasets.n_edge",
    "datasets.max_batches",
    "model.r_max",
    "model.num_bessel",
    "model.num_interactions",
    "model.num_polynomial_cutoff",
    "model.avg_num_neighbors",
    "model.correlation",
    "model.radial_MLP",
    "loss.huber_delta",
    "optimizer.lr",
    "optimizer.eps",
    "optimizer.schedule_free_b1",
    "optimizer.max_epochs",
    "optimizer.accumulate",
    "optimizer.lora.rank",
    "optimizer.lora.alpha",
    "optimizer.scheduler.decay_rate",
    "optimizer.scheduler.transition_steps",
    "optimizer.scheduler.factor",
    "optimizer.scheduler.patience",
    "train.max_grad_norm",
    "train.eval_interval",
    "train.patience",
    "train.checkpoint_steps",
    "train.checkpoint_every",
    "train.checkpoint_keep",
    "train.swa_config.lr",
    "train.swa_config.update_interval",
    "train.swa_config.min_snapshots_for_eval",
    "train.swa_config.max_snapshots",
    "train.swa_config.loss.huber_delta",
)
_TERMS = ("energy", "forces", "stress", "virials", "dipole")
_NOT_NEGATIVE = (
    "flags.seed",
    "flags.process_index",
    "flags.coordinator_port",
    "datasets.num_workers",
    "datasets.config_type_weights",
    "model.max_ell",
    "datasets.heads.weight",
    "datasets.heads.config_type_weights",
    *(
        f"{section}.{term}_weight"
        for section in ("loss", "train.swa_config.loss", "datasets.heads")
        for term in _TERMS
    ),
    "optimizer.weight_decay",
    "optimizer.schedule_free_weight_lr_power",
    "optimizer.scheduler.transition_begin",
    "optimizer.scheduler.end_value",
    "optimizer.scheduler.boundaries_and_scales",
    "optimizer.scheduler.threshold",
    "optimizer.scheduler.min_lr",
    "optimizer.scheduler.warmup_epochs",
    "train.max_skipped_steps",
    "train.swa_config.start_interval",
)
_BELOW_ONE = ("optimizer.b1", "optimizer.b2", "optimizer.schedule_free_b1", "train.ema_decay")


def check_ranges(config: TrainConfig, where: Callable[[str], str]) -> None:
    """Check every number of a configuration.

    Args:
        config: of the run.
        where: from a dotted name to the place where it was given.

    Raises:
        ConfigError: names the first that is impossible.
    """
    for name, value, whose in _numbers(config):
        if name in _POSITIVE and not 0 < value < float("inf"):
            expected = "more than 0"
        elif name in _NOT_NEGATIVE and not 0 <= value < float("inf"):
            expected = "0 or more"
        elif name in _BELOW_ONE and not 0 <= value < 1:
            expected = "0 ≤ value < 1"
        else:
            continue
        message = f"{where(name)}: {name}{whose} = {value}, expected {expected}; correct the value"
        raise ConfigError(message)


def _numbers(value: Any, name: str = "", whose: str = "") -> Iterator[tuple[str, float, str]]:
    """Yield every number with its dotted name and, of a head's, whose it is.

    In a list or mapping each has the name of the whole.
    """
    if is_dataclass(value):
        whose = f" of {value.name}" if isinstance(value, HeadConfig) else whose
        for item in fields(value):
            yield from _numbers(getattr(value, item.name), f"{name}.{item.name}".lstrip("."), whose)
    elif isinstance(value, (tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item, name, whose)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, value, whose
