"""Which values of a configuration contradict each other."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from itertools import chain, pairwise
from typing import Any

from mace_jax.artifacts.train_config_sections import (
    HeadConfig,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from mace_jax.errors import ConfigError

# choice -> the parameters that it has; no other choice may be given them
SCHEDULE_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "constant": (),
    "exponential_decay": (
        "decay_rate",
        "transition_steps",
        "transition_begin",
        "staircase",
        "end_value",
    ),
    "piecewise_constant_schedule": ("boundaries_and_scales",),
    "reduce_on_plateau": ("factor", "patience", "threshold", "min_lr"),
    "warmup_cosine_decay": ("end_value",),
}
WARMUP = "warmup_epochs"  # every schedule has it
ALGORITHM_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "adam": ("b1", "b2", "eps"),
    "adamw": ("b1", "b2", "eps"),
    "amsgrad": ("b1", "b2", "eps"),
    "sgd": (),
    "schedulefree": ("b2", "eps", "schedule_free_b1", "schedule_free_weight_lr_power"),
}
_PREDICTED: Mapping[str, tuple[str, ...]] = {
    "MACE": ("energy", "forces", "stress", "virials"),
    "ScaleShiftMACE": ("energy", "forces", "stress", "virials"),
    "AtomicDipolesMACE": ("dipole",),
    "EnergyDipolesMACE": ("energy", "forces", "stress", "virials", "dipole"),
}

_SPLITS = ("train", "valid", "test")
# of ``train.best_head``: all heads, each by its weight
WEIGHTED = "weighted"
# of rows of the metrics file: all heads together
ALL_HEADS = "all"
RESERVED = (WEIGHTED, ALL_HEADS)

# dotted name of a value, and why it can't be what it is
Problem = tuple[str, str]


def check_consistency(config: TrainConfig, where: Callable[[str], str]) -> None:
    """Check a configuration whose values are all possible by themselves.

    Args:
        config: of the run, with every default filled in.
        where: from a dotted name to the place where it was given.

    Raises:
        ConfigError: names the first value that contradicts another.
    """
    checks = (
        _datasets,
        _heads,
        _optimizer,
        _trained_parts,
        _schedule,
        _averaging,
        _stage_two,
        _predicted,
        _run,
    )
    for name, problem in chain.from_iterable(check(config) for check in checks):
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        shown = ":" if name == "datasets.heads" else f" = {value!r}, but"
        message = f"{where(name)}: {name}{shown} {problem}"
        raise ConfigError(message)


def _strays(
    values: Any, defaults: Any, chosen: str, parameters: Mapping[str, tuple[str, ...]], prefix: str
) -> Iterator[Problem]:
    """Find parameters that were given to a choice which was not made."""
    for name in sorted(set(chain(*parameters.values())) - set(parameters[chosen])):
        if getattr(values, name) != getattr(defaults, name):
            having = " or ".join(other for other, names in parameters.items() if name in names)
            yield f"{prefix}.{name}", f"{chosen} has no such parameter; remove it or take {having}"


def _datasets(config: TrainConfig) -> Iterator[Problem]:
    heads = config.datasets.heads
    own = [head.name for head in heads if head.train_path is not None]
    for split in _SPLITS:
        given = getattr(config.datasets, f"{split}_path")
        if given in ((), ""):
            yield f"datasets.{split}_path", "it names no data; give a path, or several"
        if given is not None and own:
            yield f"datasets.{split}_path", "heads have paths of their own; name all data there"
    if config.datasets.train_path is None and not heads:
        yield "datasets.train_path", "there is nothing to train on; give --train-path"


def _heads(config: TrainConfig) -> Iterator[Problem]:
    heads, model, prefix = config.datasets.heads, config.model, "datasets.heads"
    names = [head.name for head in heads]
    for name in sorted({name for name in names if names.count(name) > 1 or name in RESERVED}):
        what = "is given twice" if names.count(name) > 1 else "means all heads together"
        yield prefix, f"the name {name!r} {what}; choose another"
    begun = bool(model.start_from or model.torch_checkpoint or model.foundation_model)
    for head in heads:
        problems = [*_paths_of_head(head)]
        if head.train_path is None and config.datasets.train_path is None:
            problems += _head_without_data(head, begun=begun)
            names.remove(head.name)
        if head.readout is not None and not begun:
            problems.append("readout is of a model, but training begins with none")
        for problem in problems:
            yield prefix, f"{head.name}: {problem}"
    if heads and not any(head.weight for head in heads):
        yield prefix, "all weights are 0, so nothing would be learned; raise one"
    if names and config.train.best_head not in (WEIGHTED, *names):
        problem = f"there are {', '.join(names)}; name one of them, or {WEIGHTED}"
        yield "train.best_head", problem


def _paths_of_head(head: HeadConfig) -> Iterator[str]:
    paths = {split: getattr(head, f"{split}_path") for split in _SPLITS}
    for split, path in paths.items():
        if path in ((), "") or (path is not None and paths["train"] is None):
            what = "names no data" if path in ((), "") else "is given, but no train_path"
            yield f"{split}_path {what}; give paths, or none of them"
    keys = [item.name for item in fields(head) if item.name.endswith("_key")]
    for name in keys if paths["train"] is None else ():
        if getattr(head, name) is not None:
            yield f"{name} is given, but no train_path; give datasets.{name}"


def _head_without_data(head: HeadConfig, *, begun: bool) -> Iterator[str]:
    if head.weight or not begun:
        keeping = ", or weight 0 to keep it as the model has it" if begun else ""
        yield f"has no data; give it a train_path{keeping}"
    if head.readout == "fresh" or head.E0s is not None:
        yield (
            "without data it is kept as the model has it; leave out its E0s and a fresh readout, "
            "or give it a train_path"
        )


def _optimizer(config: TrainConfig) -> Iterator[Problem]:
    optimizer, n_steps = config.optimizer, config.datasets.max_batches
    yield from _strays(
        optimizer, OptimizerConfig(), optimizer.algorithm, ALGORITHM_PARAMETERS, "optimizer"
    )
    if n_steps and optimizer.accumulate > n_steps:
        problem = f"an epoch has at most {n_steps} batches (datasets.max_batches); lower it"
        yield "optimizer.accumulate", problem


def _trained_parts(config: TrainConfig) -> Iterator[Problem]:
    for part, factor in (config.optimizer.lr_factors or {}).items():
        if not 0 < factor < float("inf"):
            problem = f"the factor of {part} must be more than 0; a part that shall not train"
            yield "optimizer.lr_factors", f"{problem} is named in optimizer.freeze"


def _schedule(config: TrainConfig) -> Iterator[Problem]:
    schedule, prefix = config.optimizer.scheduler, "optimizer.scheduler"
    yield from _strays(schedule, ScheduleConfig(), schedule.name, SCHEDULE_PARAMETERS, prefix)
    epochs = [epoch for epoch, _ in schedule.boundaries_and_scales]
    if schedule.name == "piecewise_constant_schedule" and not epochs:
        yield f"{prefix}.boundaries_and_scales", "it needs one boundary at least, as {100: 0.1}"
    if any(second <= first for first, second in pairwise(epochs)):
        yield f"{prefix}.boundaries_and_scales", "the epochs must increase; sort them"
    if schedule.warmup_epochs >= config.optimizer.max_epochs:
        problem = f"there are {config.optimizer.max_epochs} epochs in all; lower it"
        yield f"{prefix}.warmup_epochs", problem


def _averaging(config: TrainConfig) -> Iterator[Problem]:
    if config.optimizer.algorithm == "schedulefree" and config.train.ema_decay is not None:
        yield "train.ema_decay", "schedulefree averages by itself; set it to None"
    if config.flags.debug and config.train.max_skipped_steps:
        problem = "flags.debug stops at the first NaN; leave one of them out"
        yield "train.max_skipped_steps", problem


def _stage_two(config: TrainConfig) -> Iterator[Problem]:
    stage_two, prefix = config.train.swa_config, "train.swa_config"
    if stage_two is None:
        return
    if (stage_two.start_interval or 0) >= config.optimizer.max_epochs:
        problem = f"there are {config.optimizer.max_epochs} epochs in all, so it never begins"
        yield f"{prefix}.start_interval", f"{problem}; lower it or raise optimizer.max_epochs"
    if stage_two.max_snapshots and stage_two.max_snapshots < stage_two.min_snapshots_for_eval:
        problem = f"min_snapshots_for_eval is {stage_two.min_snapshots_for_eval}; raise it"
        yield f"{prefix}.max_snapshots", problem


def _predicted(config: TrainConfig) -> Iterator[Problem]:
    """Find terms of a loss that the network does not predict; one that is loaded says itself."""
    model = config.model
    if model.start_from or model.torch_checkpoint or model.foundation_model:
        return
    predicted = _PREDICTED[model.model]
    losses: list[tuple[str, LossConfig]] = [("loss", config.loss)]
    if config.train.swa_config and config.train.swa_config.loss:
        losses.append(("train.swa_config.loss", config.train.swa_config.loss))
    for prefix, loss in losses:
        for term in ("energy", "forces", "stress", "virials", "dipole"):
            if getattr(loss, f"{term}_weight") and term not in predicted:
                problem = (
                    f"{model.model} predicts {', '.join(predicted)}; set it to 0, or choose "
                    f"another {prefix}.loss_cls or model.model"
                )
                yield f"{prefix}.{term}_weight", problem


def _run(config: TrainConfig) -> Iterator[Problem]:
    count, index = config.flags.process_count, config.flags.process_index
    if count is not None and index is not None and index >= count:
        yield "flags.process_index", f"there are {count} processes, counted from 0; lower it"
