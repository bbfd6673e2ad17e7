"""Whether a run begins, goes on after an interruption, or is refused because it exists."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mace_jax.artifacts.atomic_write import write_bytes
from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.train_config import read_train_config, write_train_config
from mace_jax.artifacts.train_config_sections import TrainConfig
from mace_jax.errors import ConfigError, MaceJaxError
from mace_jax.tracking import Track, track_silently
from mace_jax_train.data_parallel import ONE_DEVICE, Devices
from mace_jax_train.gin_text import gin_text
from mace_jax_train.inputs import SPLITS
from mace_jax_train.processes import Processes
from mace_jax_train.recipe import require_files_of_recipes
from mace_jax_train.run_files import BUNDLES, RunFiles
from mace_jax_train.run_lock import locked
from mace_jax_train.start import Run, prepare_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beginning:
    """How a run begins.

    Attributes:
        checkpoint: to go on from; None: from the start.
        continued: whether it is a checkpoint of this very run, whose files are there already.
    """

    checkpoint: Path | None = None
    continued: bool = False


def find_beginning(
    config: TrainConfig,
    files: RunFiles,
    configs: Sequence[Path],
    *,
    force: bool,
    track: Track = track_silently,
) -> Beginning:
    """Decide how a run begins; an interrupted one goes on unless ``force`` begins it anew.

    Args:
        config: of the run.
        files: of the run.
        configs: configuration files that it is made from.
        force: whether an earlier run of the same tag may be replaced.
        track: progress of a download.

    Raises:
        ConfigError: there is such a run, or no checkpoint where one was named.
        IncompatibleError: the run repeats another, whose files have changed.
    """
    given, latest = config.train.resume_from, files.checkpoint()
    if not force and _was_interrupted(files):
        began = read_train_config(files.path(".config.json")).train.resume_from
        if latest.exists() and given in (None, began):
            log.info("%s: the run was interrupted and goes on", latest)
            return Beginning(latest, True)
        if not latest.exists() and not any(files.path(suffix).exists() for suffix in BUNDLES):
            log.info("%s: was interrupted before its first checkpoint; begins anew", files.tag)
            force = True
    require_files_of_recipes(config, configs, track)
    if given is None:
        files.require_free(configs, force=force)
        return Beginning()
    path = Path(given)
    if not path.is_file():
        message = f"{path}: no such checkpoint; correct train.resume_from"
        raise ConfigError(message)
    own = path.resolve() in {checkpoint.resolve() for checkpoint in files.checkpoints()}
    if not own or path.resolve() != latest.resolve():
        files.require_free(configs, force=force)
    return Beginning(path, own)


def agreed_beginning(processes: Processes, find: Callable[[], Beginning]) -> Beginning:
    """Return how a run begins, as process 0 finds it; for the others its files are there then."""
    found = Beginning(continued=True)
    with processes.first_before_others("finding the beginning"):
        if processes.is_first:
            found = find()
    checkpoint = processes.agreed("checkpoint", str(found.checkpoint or ""))
    return replace(found, checkpoint=Path(checkpoint) if checkpoint else None)


def _was_interrupted(files: RunFiles) -> bool:
    """Return whether a run was prepared, but not trained to its end."""
    metrics = files.path(".metrics")
    try:
        read_train_config(files.path(".config.json"))
    except MaceJaxError:  # there is none, or it is not ours to judge
        return False
    return not metrics.exists() or read_metrics(metrics)[0]["status"] != "finished"


@contextmanager
def prepared_run(
    config: TrainConfig,
    files: RunFiles,
    beginning: Beginning,
    track: Track,
    devices: Devices = ONE_DEVICE,
) -> Iterator[Run]:
    """Prepare a run, write its configuration, and keep others from training it meanwhile.

    Of several processes, the first makes and writes everything before the others read it.

    Args:
        config: of the run.
        files: where it writes.
        beginning: how it begins.
        track: progress.
        devices: that train together.

    Raises:
        MaceJaxError: something is wrong with a file, or two do not belong together.
    """
    first = devices.processes.is_first
    with locked(files) if first else nullcontext(), ExitStack() as stack:
        with devices.processes.first_before_others("preparing the run"):
            if beginning.continued or not first:
                made = _with_prepared_inputs(config, files)
                run = prepare_run(made, files, track, devices, converted=True)
                run = replace(run, config=config)
                stack.enter_context(closing(run))
                if first and read_train_config(files.path(".config.json")) != config:
                    _write_config(run, files, files)
            else:
                with files.staged() as staged:
                    run = prepare_run(config, staged, track, devices)
                    stack.enter_context(closing(run))
                    _write_config(run, staged, files)
                    for path in files.checkpoints():  # of a run that is replaced
                        path.unlink()
        yield run


def _write_config(run: Run, to: RunFiles, files: RunFiles) -> None:
    provenance = files.provenance(run.inputs, run.config.flags.seed)
    write_bytes(to.path(".gin"), gin_text(run.config).encode())
    write_train_config(to.path(".config.json"), run.config, provenance)


def _with_prepared_inputs(config: TrainConfig, files: RunFiles) -> TrainConfig:
    """Have a continued run read what it made when it began, instead of making it again."""
    datasets = config.datasets
    plans: dict[str, Any] = {
        f"{split}_plan": str(plan)
        for split in SPLITS
        if getattr(datasets, f"{split}_plan") is None
        and (plan := files.path(f".{split}.plan.json")).exists()
    }
    statistics = files.path(".statistics.json")
    if datasets.statistics_file is None and statistics.exists():
        # the E0s are in the file
        heads = tuple(replace(head, E0s=None) for head in datasets.heads)
        datasets = replace(datasets, statistics_file=str(statistics), E0s=None, heads=heads)
    return replace(config, datasets=replace(datasets, **plans))
