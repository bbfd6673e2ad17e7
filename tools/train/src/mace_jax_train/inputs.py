"""What a run reads, and what it makes first where something is missing.

extxyz becomes HDF5, statistics are computed, batches planned: by the same code as in the tools for
it, and kept with the run.
"""

import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from mace_jax.artifacts.atomic_write import atomic_directory
from mace_jax.artifacts.batch_plan import (
    BatchPlan,
    batch_plan_input,
    read_batch_plan,
    require_plan_fits,
    write_batch_plan,
)
from mace_jax.artifacts.dataset import SUFFIXES, Dataset
from mace_jax.artifacts.provenance import Input, external_input
from mace_jax.artifacts.statistics import (
    read_statistics,
    statistics_input,
    statistics_training_digest,
    write_statistics,
)
from mace_jax.artifacts.train_config import DatasetsConfig, TrainConfig
from mace_jax.batching.plan import plan_batches
from mace_jax.batching.plan_report import plan_lines
from mace_jax.elements import sorted_elements
from mace_jax.errors import ConfigError, IncompatibleError
from mace_jax.preparation import (
    read_split,
    require_elements,
    require_energies,
    resolve_atomic_energies,
    split_evenly,
    write_shards,
)
from mace_jax.structures.atomic_energies import require_atomic_energies, take_isolated_atoms
from mace_jax.structures.label_keys import LabelKeys
from mace_jax.structures.statistics import Statistics, compute_statistics
from mace_jax.tracking import Track
from mace_jax_train.run_files import RunFiles

log = logging.getLogger(__name__)


def open_datasets(
    config: DatasetsConfig, files: RunFiles, stack: ExitStack
) -> tuple[dict[int, float], dict[str, Dataset]]:
    """Open the splits, converting extxyz to HDF5 in the run's folder first."""
    keys = {"energy": config.energy_key, "forces": config.forces_key, "stress": config.stress_key}
    label_keys = LabelKeys({name: key for name, key in keys.items() if key})
    isolated: dict[int, float] = {}
    datasets = {}
    for split in ("train", "valid", "test"):
        text = getattr(config, f"{split}_path")
        if text is None:
            continue
        path = Path(text)
        if path.is_file() and path.suffix not in SUFFIXES:
            isolated.update(_convert(split, path, label_keys, files))
            path = _data_folder(split, files)
        datasets[split] = stack.enter_context(Dataset(path))
    return isolated, datasets


def _data_folder(split: str, files: RunFiles) -> Path:
    return files.path(".data") / split


def _convert(split: str, path: Path, keys: LabelKeys, files: RunFiles) -> dict[int, float]:
    """Write the HDF5 dataset of an extxyz file; return the E0s of its isolated atoms."""
    data = read_split(split, [path], keys)
    isolated: dict[int, float] = {}
    if split == "train":
        structures, isolated = take_isolated_atoms(data.structures)
        data = replace(data, structures=structures)
    if split != "test":
        require_energies(data, keys)
    provenance = files.provenance([external_input(split, path, "extxyz")])
    (part,) = split_evenly(data.structures, 1)
    folder = _data_folder(split, files)
    with atomic_directory(folder) as temporary:
        write_shards(temporary, {f"{split}_0.h5": part}, provenance)
    log.info("%s: converted %s to %s", split, path, folder.parent.name)
    return isolated


def run_statistics(
    config: TrainConfig,
    train: Dataset,
    isolated: dict[int, float],
    files: RunFiles,
    inputs: list[Input],
) -> tuple[Statistics, float]:
    """Return the statistics, read or computed, and the cutoff they were made for."""
    if config.datasets.statistics_file:
        path = Path(config.datasets.statistics_file)
        statistics = read_statistics(path)
        inputs.append(statistics_input(path))
        if statistics_training_digest(path) not in (None, train.sha256()):
            log.warning("%s: was computed from other data than %s", path, train.path)
        r_max = _r_max(config, statistics.r_max)
        if statistics.r_max != r_max:
            message = (
                f"{path}: r_max {statistics.r_max} Å, expected {r_max} Å as configured; "
                "compute the statistics again or change r_max"
            )
            raise IncompatibleError(message)
        return _with_given_energies(config, statistics, train), r_max
    r_max = _r_max(config, None)
    structures = list(train)
    elements = sorted_elements(
        config.datasets.atomic_numbers
        or (z for structure in structures for z in structure.atomic_numbers)
    )
    require_elements(structures, elements)
    energies = resolve_atomic_energies(config.datasets.E0s, structures, isolated, elements)
    statistics = compute_statistics(structures, elements, energies, r_max)
    path = files.path(".statistics.json")
    write_statistics(path, statistics, files.provenance([train.as_input("train")]))
    inputs.append(statistics_input(path))
    log.info("statistics: computed from the training data, saved to %s", path.name)
    return statistics, r_max


def _r_max(config: TrainConfig, from_statistics: float | None) -> float:
    given = {value for value in (config.datasets.r_max, config.model.r_max) if value is not None}
    if len(given) > 1:
        message = (
            f"datasets.r_max {config.datasets.r_max} and model.r_max {config.model.r_max} differ; "
            "set one of them"
        )
        raise ConfigError(message)
    r_max = given.pop() if given else from_statistics
    if r_max is None:
        message = "r_max is not set; give --r-max or model.r_max"
        raise ConfigError(message)
    return r_max


def _with_given_energies(config: TrainConfig, statistics: Statistics, train: Dataset) -> Statistics:
    """Let E0s and elements of the configuration win over those of the statistics file."""
    elements = sorted_elements(config.datasets.atomic_numbers or statistics.atomic_numbers)
    if config.datasets.E0s and config.datasets.E0s.lower() != "average":
        energies = resolve_atomic_energies(config.datasets.E0s, [], {}, elements)
    else:
        source = str(config.datasets.statistics_file)
        energies = require_atomic_energies(statistics.atomic_energies, elements, source)
    if energies != statistics.atomic_energies:
        # mean is taken relative to the E0s, so other E0s need another mean
        require_elements(train, elements)
        return compute_statistics(train, elements, energies, statistics.r_max)
    return replace(statistics, atomic_numbers=elements, atomic_energies=energies)


def run_plan(
    config: TrainConfig,
    split: str,
    dataset: Dataset,
    r_max: float,
    files: RunFiles,
    inputs: list[Input],
    track: Track,
) -> BatchPlan:
    """Read the plan of a split, or make and keep one."""
    text = getattr(config.datasets, f"{split}_plan")
    if text:
        path = Path(text)
        plan = read_batch_plan(path)
        require_plan_fits(plan, path, [dataset], r_max)
    else:
        if config.datasets.n_edge is None:
            message = (
                f"no plan for {split} and datasets.n_edge is not set; "
                f"give --{split}-plan or --batch-max-edges"
            )
            raise ConfigError(message)
        path = files.path(f".{split}.plan.json")
        plan = plan_batches(dataset, r_max, config.datasets.n_edge, config.flags.seed, track)
        provenance = files.provenance([dataset.as_input("dataset")], config.flags.seed)
        write_batch_plan(path, plan, provenance)
    inputs.append(batch_plan_input(f"{split}_plan", path))
    for line in plan_lines(plan):
        log.info("%s: %s", split, line)
    return plan
