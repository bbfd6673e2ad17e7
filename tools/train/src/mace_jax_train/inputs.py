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
from mace_jax.artifacts.dataset import Dataset, DatasetWriter
from mace_jax.artifacts.provenance import Input
from mace_jax.artifacts.statistics import (
    read_statistics,
    statistics_input,
    statistics_training_digest,
    write_statistics,
)
from mace_jax.artifacts.train_config_sections import DatasetsConfig, TrainConfig
from mace_jax.batching.plan import plan_batches
from mace_jax.batching.plan_report import plan_lines
from mace_jax.elements import sorted_elements, species_index
from mace_jax.errors import ConfigError, IncompatibleError
from mace_jax.preparation.sources import Source, require_energies, stream_source
from mace_jax.structures.atomic_energies import parse_atomic_energies, require_atomic_energies
from mace_jax.structures.atomic_energy_table import atomic_energy_table
from mace_jax.structures.isolated_atoms import IsolatedAtoms, is_isolated_atom
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.statistics import Statistics
from mace_jax.structures.training_sums import compute_statistics, sum_structures
from mace_jax.tracking import Track
from mace_jax_train.run_files import RunFiles

log = logging.getLogger(__name__)


def open_datasets(
    config: DatasetsConfig, files: RunFiles, stack: ExitStack
) -> tuple[IsolatedAtoms, dict[str, Dataset]]:
    """Open the splits, converting extxyz to HDF5 in the run's folder first."""
    keys = {"energy": config.energy_key, "forces": config.forces_key, "stress": config.stress_key}
    label_keys = LabelKeys({name: key for name, key in keys.items() if key})
    isolated = IsolatedAtoms()
    datasets = {}
    for split in ("train", "valid", "test"):
        text = getattr(config, f"{split}_path")
        if text is None:
            continue
        source = Source(Path(text), split)
        path = source.path
        if path.is_file() and not source.is_dataset:
            path = _convert(source, label_keys, isolated, files)
        datasets[split] = stack.enter_context(Dataset(path))
    return isolated, datasets


def _convert(source: Source, keys: LabelKeys, isolated: IsolatedAtoms, files: RunFiles) -> Path:
    """Write the dataset of an extxyz file; isolated atoms of the training data go elsewhere."""
    folder = files.path(".data") / source.split
    counts, n_energies, n_structures = LabelCounts(), 0, 0
    with (
        atomic_directory(folder) as temporary,
        DatasetWriter(
            temporary / f"{source.split}_0.h5",
            files.provenance([source.as_input()]),
            layout="flat",
        ) as writer,
    ):
        for _, structure in stream_source(source, keys, counts):
            if source.split == "train" and is_isolated_atom(structure):
                isolated.add(structure)
                continue
            writer.write([structure])
            n_structures += 1
            n_energies += "energy" in structure.properties
        if source.split != "test":
            require_energies(n_energies, n_structures, {source: counts}, keys)
    log.info("%s: converted %s to %s", source.split, source.path, folder.parent.name)
    return folder


def run_statistics(
    config: TrainConfig,
    train: Dataset,
    isolated: IsolatedAtoms,
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
    sums = sum_structures(train, r_max)
    sums.isolated_atoms.merge(isolated)
    found = {number for head in sums.heads.values() for number in head.elements}
    elements = sorted_elements(config.datasets.atomic_numbers or found)
    species_index(sorted(found), elements, str(train.path))
    table = atomic_energy_table(config.datasets.E0s, sums, elements)
    for line in table.lines():
        log.info(line)
    for warning in table.warnings:
        log.warning(warning)
    statistics = sums.statistics(elements, table.by_head())
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
        given = parse_atomic_energies(config.datasets.E0s)
        energies = require_atomic_energies(given, elements, f"E0s {config.datasets.E0s!r}")
    else:
        source = str(config.datasets.statistics_file)
        energies = require_atomic_energies(statistics.atomic_energies, elements, source)
    if energies != statistics.atomic_energies:
        # mean is taken relative to the E0s, so other E0s need another mean
        for structure in train:
            species_index(structure.atomic_numbers, elements, structure.place)
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
    n_devices: int = 1,
) -> BatchPlan:
    """Read the plan of a split, or make and keep one, for as many batches at a time as devices.

    Raises:
        ConfigError: there is none, and nothing says how large batches are.
        IncompatibleError: it is a plan for other data, another cutoff or other processes.
    """
    text = getattr(config.datasets, f"{split}_plan")
    if text:
        path = Path(text)
        plan = read_batch_plan(path)
        require_plan_fits(plan, path, [dataset], r_max)
        if n_devices not in (1, plan.processes):
            message = (
                f"{path}: made for {plan.processes} processes, but {n_devices} devices train "
                f"together; plan again with --processes {n_devices}"
            )
            raise IncompatibleError(message)
    else:
        if config.datasets.n_edge is None:
            message = (
                f"no plan for {split} and datasets.n_edge is not set; "
                f"give --{split}-plan or --batch-max-edges"
            )
            raise ConfigError(message)
        path = files.path(f".{split}.plan.json")
        n_edge, seed = config.datasets.n_edge, config.flags.seed
        plan = plan_batches(dataset, r_max, n_edge, seed, track, n_devices)
        provenance = files.provenance([dataset.as_input("dataset")], seed)
        write_batch_plan(path, plan, provenance)
    inputs.append(batch_plan_input(f"{split}_plan", path))
    for line in plan_lines(plan):
        log.info("%s: %s", split, line)
    return plan
