"""The statistics that scale a fresh network: read, or computed from the training data."""

import logging
from collections.abc import Mapping
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
    parse_e0_choice,
    require_atomic_energies,
)
from mace_jax.structures.atomic_energy_table import AtomicEnergyTable, atomic_energy_table
from mace_jax.structures.model_energies import ESTIMATED
from mace_jax.structures.statistics import HeadStatistics, Statistics
from mace_jax.structures.training_sums import sum_structures
from mace_jax_train.head_energies import HeadEnergies, completed, energies_of
from mace_jax_train.run_files import RunFiles
from mace_jax_train.run_heads import RunHead
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
) -> tuple[Statistics, dict[str, HeadEnergies]]:
    """Return the statistics of a fresh network and the E0s of its heads; keep what is computed.

    Raises:
        ConfigError, DataError: the E0s cannot be read, or leave out an element.
    """
    for head in train.heads:
        if (head.config.E0s or "").lower() in (FOUNDATION, ESTIMATED):
            message = (
                f"datasets.E0s = {head.config.E0s!r}, but training begins with a fresh network, "
                "which has none; choose average, isolated_atom, a dict or a file"
            )
            raise ConfigError(message)
    if train.given:
        return _with_given_energies(config, train.given, train)
    tables = {head.name: fresh_table(head, train) for head in train.heads}
    return keep_statistics(tables, {}, train, files, inputs)


def fresh_table(head: RunHead, train: TrainingData) -> AtomicEnergyTable:
    """Return the E0s that a head is given, or has from its data.

    Raises:
        ConfigError: ``E0s`` cannot be read.
        DataError: an element of its data has none; or one of the model, if there is no other head.
    """
    choice = head.config.E0s
    e0s = None if (choice or "").lower() == ISOLATED_ATOM else choice
    elements = train.elements if len(train.heads) == 1 else None
    return atomic_energy_table(e0s, train.sums_of(head), elements, train.first_in[head.data_name])


def keep_statistics(
    tables: Mapping[str, AtomicEnergyTable],
    own: Mapping[str, Mapping[int, float]],
    train: TrainingData,
    files: RunFiles,
    inputs: list[Input],
) -> tuple[Statistics, dict[str, HeadEnergies]]:
    """Say what the E0s are, and keep the statistics that go with them in a file of the run.

    Args:
        tables: E0s of each head.
        own: those of the model that training began with, if it did.
        train: training data.
        files: where to keep the statistics.
        inputs: what was read; the statistics are added.

    Returns: the statistics, and the E0s of each head.
    """
    energies = energies_of_heads(tables, own, train)
    of_data = {head.data_name: energies[head.name].energies for head in train.heads}
    statistics = train.sums.statistics(train.elements, of_data)
    path = files.path(".statistics.json")
    write_statistics(path, statistics, files.provenance(train.data.inputs("train")))
    inputs.append(statistics_input(path))
    log.info("statistics: computed from the training data, saved to %s", path.name)
    return statistics, energies


def energies_of_heads(
    tables: Mapping[str, AtomicEnergyTable],
    own: Mapping[str, Mapping[int, float]],
    train: TrainingData,
) -> dict[str, HeadEnergies]:
    """Say what the E0s are, and return those of each head; arguments as of ``keep_statistics``."""
    for table in tables.values():
        log_table(table)
    found = {
        head.name: energies_of(tables[head.name], train.sums.heads[head.data_name].elements)
        for head in train.heads
    }
    return completed(found, train.elements, own)


def log_table(table: AtomicEnergyTable) -> None:
    """Say what the E0s are, where they are from and what is doubtful."""
    for line in table.lines():
        log.info(line)
    for warning in table.warnings:
        log.warning(warning)


def _with_given_energies(
    config: DatasetsConfig, given: Statistics, train: TrainingData
) -> tuple[Statistics, dict[str, HeadEnergies]]:
    """Let E0s and elements of the configuration win over those of the statistics file."""
    known = {head.name: statistics_of(given, head, train) for head in train.heads}
    found = {}
    for head in train.heads:
        one = _given_energies(head, known[head.name], str(config.statistics_file))
        needed = train.sums.heads[head.data_name].elements
        needed = needed if len(train.heads) > 1 else train.elements
        first_in = train.first_in[head.data_name]
        require_atomic_energies(one.energies, needed, one.source, first_in)
        found[head.name] = one
    energies = completed(found, train.elements, {})
    of_data = {head.data_name: energies[head.name].energies for head in train.heads}
    if any(energies[name].energies != of_head.atomic_energies for name, of_head in known.items()):
        # mean is taken relative to the E0s, so other E0s need another mean
        sums = sum_structures(train.data, given.r_max)
        return sums.statistics(train.elements, of_data), energies
    return replace(given, atomic_numbers=train.elements), energies


def _given_energies(head: RunHead, known: HeadStatistics, source: str) -> HeadEnergies:
    """Return the E0s that are given for a head, or else those of the statistics file."""
    text = head.config.E0s
    if text and text.lower() not in (AVERAGE, ISOLATED_ATOM):
        chosen = parse_e0_choice(text).of_head(head.data_name)
        if not isinstance(chosen, str):
            return HeadEnergies(dict(chosen), f"E0s {text!r}")
    return HeadEnergies(dict(known.atomic_energies), source)


def statistics_of(given: Statistics, head: RunHead, train: TrainingData) -> HeadStatistics:
    """Return the statistics of a head; one alone has those of all structures.

    Raises:
        IncompatibleError: the statistics are of other heads.
    """
    if len(train.heads) == 1:
        return HeadStatistics(given.atomic_energies, given.mean, given.std, given.energy_std)
    return given.of_head(head.data_name)
