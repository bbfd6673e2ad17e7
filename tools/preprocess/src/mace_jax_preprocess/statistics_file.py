"""E0s and statistics of the training data, said and written to ``statistics.json``."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mace_jax.artifacts.dataset import dataset_input
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.artifacts.statistics import write_statistics
from mace_jax.elements import sorted_elements
from mace_jax.structures.atomic_energy_table import atomic_energy_table
from mace_jax.structures.training_sums import TrainingSums
from mace_jax_preprocess.options import TOOL, Options

log = logging.getLogger(__name__)


def write_statistics_file(
    folder: Path, sums: TrainingSums, elements: Sequence[int], sha256: str, options: Options
) -> dict[str, Any]:
    """Write ``statistics.json`` beside the dataset ``train``.

    Args:
        folder: of the datasets.
        sums: over the training data.
        elements: atomic numbers of all splits.
        sha256: digest of ``train``.
        options: of the command.

    Returns: what the summary says of it.

    Raises:
        ConfigError: ``--E0s`` cannot be read.
        DataError: an element has no E0, or there is nothing to learn.
    """
    numbers = sorted_elements(options.atomic_numbers or elements)
    table = atomic_energy_table(options.e0s_of_heads(), sums, numbers)
    for line in table.lines():
        log.info(line)
    for warning in table.warnings:
        log.warning(warning)
    statistics = sums.statistics(numbers, table.by_head())
    inputs = [dataset_input("train", folder / "train", sha256)]
    provenance = make_provenance(TOOL, inputs, seed=options.seed, reproducible=options.reproducible)
    write_statistics(folder / "statistics.json", statistics, provenance)
    for head, of_head in statistics.heads.items():
        scale, shift = of_head.scale_and_shift(options.scaling)
        log.info("%s: head %s: scale %.6g, shift %.6g", options.scaling, head, scale, shift)
    log.info(
        "statistics: %.2f neighbours, mean %.6f eV/atom, rms force %.4f eV/Å",
        statistics.avg_num_neighbors,
        statistics.mean,
        statistics.std,
    )
    return {
        "avg_num_neighbors": statistics.avg_num_neighbors,
        "atomic_energies": {str(z): e for z, e in statistics.atomic_energies.items()},
    }
