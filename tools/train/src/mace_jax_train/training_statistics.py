"""The statistics that scale a fresh network: read, or computed from the training data."""

import logging
from dataclasses import replace
from pathlib import Path

from mace_jax.artifacts.provenance import Input
from mace_jax.artifacts.statistics import (
    read_statistics,
    statistics_input,
    statistics_training_digests,
    write_statistics,
)
from mace_jax.artifacts.train_config_sections import DatasetsConfig, TrainConfig
from mace_jax.errors import ConfigError, IncompatibleError
from mace_jax.structures.atomic_energies import (
    AVERAGE,
    parse_atomic_energies,
    require_atomic_energies,
)
from mace_jax.structures.atomic_energy_table import AtomicEnergyTable, atomic_energy_table
from mace_jax.structures.model_energies import ESTIMATED
from mace_jax.structures.statistics import Statistics
from mace_jax.structures.training_sums import compute_statistics
from mace_jax_train.run_files import RunFiles
from mace_jax_train.split_data import SplitData
from mace_jax_train.survey import TrainingData

log = logging.getLogger(__name__)

ISOLATED_ATOM = "isolated_atom"
FOUNDATION = "foundation"


def given_statistics(
    config: DatasetsConfig, train: SplitData, inputs: list[Input]
) -> Statistics | None:
    """Read the statistics file; None without one.

    Raises:
        ArtifactError: it is damaged.
    """
    if config.statistics_file is None:
        return None
    path = Path(config.statistics_file)
    statistics = read_statistics(path)
    inputs.append(statistics_input(path))
    digests = statistics_training_digests(path)
    if digests and sorted(digests) != sorted(dataset.sha256() for dataset in train.datasets):
        log.warning("%s: was computed from other data than %s", path, train)
    return statistics


def run_r_max(config: TrainConfig, given: Statistics | None, of_model: float | None) -> float:
    """Return the cutoff: the starting model's, the configured one, or that of the statistics, Å.

    Raises:
        ConfigError: none of them is known, or two options differ.
        IncompatibleError: the statistics were made for another one.
    """
    options = {value for value in (config.datasets.r_max, config.model.r_max) if value is not None}
    if len(options) > 1:
        message = (
            f"datasets.r_max {config.datasets.r_max} and model.r_max {config.model.r_max} differ; "
            "set one of them"
        )
        raise ConfigError(message)
    r_max = of_model or next(iter(options), given.r_max if given else None)
    if r_max is None:
        message = "r_max is not set; give --r-max or model.r_max"
        raise ConfigError(message)
    if given and abs(given.r_max - r_max) > 1e-6 * r_max:  # float32 of a Torch model
        whose = "of the starting model" if of_model else "as configured"
        message = (
            f"{config.datasets.statistics_file}: r_max {given.r_max} Å, expected {r_max} Å "
            f"{whose}; compute the statistics again or change r_max"
        )
        raise IncompatibleError(message)
    return r_max


def run_statistics(
    config: DatasetsConfig, train: TrainingData, files: RunFiles, inputs: list[Input]
) -> Statistics:
    """Return the statistics of a fresh network; keep those that are computed.

    Raises:
        ConfigError, DataError: the E0s cannot be read, or leave out an element.
    """
    choice = (config.E0s or "").lower()
    if choice in (FOUNDATION, ESTIMATED):
        message = (
            f"datasets.E0s = {config.E0s!r}, but training begins with a fresh network, which has "
            "none; choose average, isolated_atom, a dict or a file"
        )
        raise ConfigError(message)
    if train.given:
        return _with_given_energies(config, train.given, train)
    e0s = None if choice == ISOLATED_ATOM else config.E0s
    table = atomic_energy_table(e0s, train.sums, train.elements)
    return keep_statistics(table, train, files, inputs)


def keep_statistics(
    table: AtomicEnergyTable, train: TrainingData, files: RunFiles, inputs: list[Input]
) -> Statistics:
    """Say what the E0s are, and keep the statistics that go with them in a file of the run."""
    log_table(table)
    statistics = train.sums.statistics(train.elements, table.by_head())
    path = files.path(".statistics.json")
    write_statistics(path, statistics, files.provenance(train.data.inputs("train")))
    inputs.append(statistics_input(path))
    log.info("statistics: computed from the training data, saved to %s", path.name)
    return statistics


def log_table(table: AtomicEnergyTable) -> None:
    """Say what the E0s are, where they are from and what is doubtful."""
    for line in table.lines():
        log.info(line)
    for warning in table.warnings:
        log.warning(warning)


def _with_given_energies(
    config: DatasetsConfig, given: Statistics, train: TrainingData
) -> Statistics:
    """Let E0s and elements of the configuration win over those of the statistics file."""
    if config.E0s and config.E0s.lower() not in (AVERAGE, ISOLATED_ATOM):
        energies = require_atomic_energies(
            parse_atomic_energies(config.E0s), train.elements, f"E0s {config.E0s!r}"
        )
    else:
        source = str(config.statistics_file)
        energies = require_atomic_energies(given.atomic_energies, train.elements, source)
    if energies != given.atomic_energies:
        # mean is taken relative to the E0s, so other E0s need another mean
        return compute_statistics(train.data, train.elements, energies, given.r_max)
    return replace(given, atomic_numbers=train.elements, atomic_energies=energies)
