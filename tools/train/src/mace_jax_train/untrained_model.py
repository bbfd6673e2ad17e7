"""The model of a run that begins with a fresh network, complete but for its parameters."""

from dataclasses import fields, replace
from math import nan
from typing import Any

from mace_jax.architecture import predicts_energy
from mace_jax.artifacts.model_bundle import ModelBundle, ModelConfig
from mace_jax.artifacts.provenance import Input
from mace_jax.artifacts.train_config_sections import ModelSection, TrainConfig
from mace_jax.structures.statistics import HeadStatistics
from mace_jax_train.run_files import RunFiles
from mace_jax_train.survey import TrainingData
from mace_jax_train.training_statistics import run_statistics, statistics_of


def configured_network(section: ModelSection) -> ModelConfig:
    """Return the configured hyper-parameters; those that follow from the data are still unknown."""
    network: dict[str, Any] = {
        item.name: getattr(section, item.name)
        for item in fields(ModelConfig)
        if hasattr(section, item.name)
    }
    unknown = {"r_max": nan, "avg_num_neighbors": nan, "atomic_numbers": ()}
    model = "ScaleShiftMACE" if section.model == "MACE" else section.model  # with a shift of 0
    return ModelConfig(**network | unknown | {"model": model})


def untrained_bundle(
    config: TrainConfig,
    network: ModelConfig,
    train: TrainingData,
    files: RunFiles,
    inputs: list[Input],
) -> tuple[ModelBundle, dict[str, str]]:
    """Return the run's model bundle, complete but for its parameters, and where E0s are from.

    Args:
        config: of the run.
        network: hyper-parameters, r_max included.
        train: training data.
        files: where to keep statistics that are computed.
        inputs: what was read; the statistics are added.

    Raises:
        ConfigError, DataError, IncompatibleError: the E0s or the statistics cannot be had.
    """
    section, heads = config.model, tuple(head.name for head in train.heads)
    bundle = ModelBundle(
        config=replace(network, atomic_numbers=train.elements),
        dtype=config.flags.dtype,
        heads=heads,
        atomic_energies={},
        scale={},
        shift={},
        parameters={},
    )
    sources: dict[str, str] = {}
    if predicts_energy(network):
        statistics, energies = run_statistics(config.datasets, train, files, inputs)
        scaling = {
            head.name: _scale_and_shift(section, statistics_of(statistics, head, train))
            for head in train.heads
        }
        bundle = replace(
            bundle,
            atomic_energies={head: found.energies for head, found in energies.items()},
            scale={head: scale for head, (scale, _) in scaling.items()},
            shift={head: shift for head, (_, shift) in scaling.items()},
        )
        sources = {head: found.source for head, found in energies.items()}
        neighbors = statistics.avg_num_neighbors
    else:
        neighbors = (train.given or train.sums).avg_num_neighbors
    neighbors = section.avg_num_neighbors or neighbors
    bundle = replace(bundle, config=replace(bundle.config, avg_num_neighbors=neighbors))
    return bundle, sources


def _scale_and_shift(section: ModelSection, statistics: HeadStatistics) -> tuple[float, float]:
    """Return scale and shift of the interaction energy, as each model of mace-torch takes them."""
    if section.model == "EnergyDipolesMACE":
        return 1.0, 0.0
    scale, shift = statistics.scale_and_shift(section.scaling)
    return scale, shift if section.model == "ScaleShiftMACE" else 0.0
