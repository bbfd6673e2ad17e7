"""Read the splits, check them, and write datasets and statistics in one go."""

import logging
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mace_jax.artifacts.atomic_write import atomic_directory_entries, require_absent
from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.provenance import external_input, make_provenance
from mace_jax.artifacts.statistics import write_statistics
from mace_jax.errors import ConfigError
from mace_jax.preparation import (
    Split,
    read_split,
    require_energies,
    resolve_elements,
    split_evenly,
    training_statistics,
    write_shards,
)
from mace_jax.structures.isolated_atoms import take_isolated_atoms
from mace_jax.structures.label_keys import LabelKeys
from mace_jax.structures.statistics import Statistics
from mace_jax.structures.structure import Structure

log = logging.getLogger(__name__)

TOOL = "mace-jax-preprocess"
# What is written below the prefix; statistics.json last, so that with it the set is complete.
OUTPUTS = ("train", "val", "test", "statistics.json")


@dataclass(frozen=True)
class Options:
    """What the command line asks for; names as there."""

    train_file: tuple[Path, ...]
    valid_file: tuple[Path, ...] | None
    test_file: tuple[Path, ...] | None
    valid_fraction: float
    h5_prefix: Path
    r_max: float
    atomic_numbers: tuple[int, ...] | None
    e0s: str | None
    compute_statistics: bool
    shuffle: bool
    seed: int
    num_process: int
    keys: LabelKeys
    config_type_weights: Mapping[str, float]
    force: bool
    reproducible: bool


def prepare(options: Options) -> dict[str, Any]:
    """Write ``train/``, ``val/``, ``test/`` and ``statistics.json`` below the prefix.

    Returns: number of structures of each split, and the statistics.

    Raises:
        DataError, ConfigError: nothing has been written then.
    """
    for name in OUTPUTS:
        require_absent(options.h5_prefix / name, force=options.force)
    train = read_split("train", options.train_file, options.keys)
    structures, isolated = take_isolated_atoms(train.structures)
    for number, energy in isolated.items():
        log.info("train: isolated atom of element %d: E0 %.6f eV", number, energy)
    train = replace(train, structures=structures)
    require_energies(train, options.keys)
    train, valid = _validation_split(train, options)
    test = read_split("test", options.test_file, options.keys) if options.test_file else None
    splits = [split for split in (train, valid, test) if split]
    elements = resolve_elements(splits, options.atomic_numbers)
    statistics = (
        training_statistics(train, isolated, elements, options.e0s, options.r_max)
        if options.compute_statistics
        else None
    )
    with atomic_directory_entries(options.h5_prefix, OUTPUTS) as folder:
        for split in splits:
            _write_split(split, options, folder)
        if statistics:
            _write_statistics(statistics, options, folder)
    summary: dict[str, Any] = {"atomic_numbers": list(elements)}
    for split in splits:
        summary[split.name] = len(split.structures)
    if statistics:
        summary["avg_num_neighbors"] = statistics.avg_num_neighbors
        summary["atomic_energies"] = {str(z): e for z, e in statistics.atomic_energies.items()}
    return summary


def _write_statistics(statistics: Statistics, options: Options, folder: Path) -> None:
    with Dataset(folder / "train") as dataset:
        inputs = [dataset.as_input("train")]
    provenance = make_provenance(TOOL, inputs, seed=options.seed, reproducible=options.reproducible)
    write_statistics(folder / "statistics.json", statistics, provenance)
    log.info(
        "statistics: %.2f neighbours, mean %.6f eV/atom, rms force %.4f eV/Å; E0s %s",
        statistics.avg_num_neighbors,
        statistics.mean,
        statistics.std,
        ", ".join(f"{z}: {energy:.4f}" for z, energy in statistics.atomic_energies.items()),
    )


def _validation_split(train: Split, options: Options) -> tuple[Split, Split]:
    """Read the validation files, or take a random fraction of the training set."""
    if options.valid_file:
        valid = read_split("valid", options.valid_file, options.keys)
        require_energies(valid, options.keys)
    else:
        n = len(train.structures)
        n_valid = min(max(1, int(options.valid_fraction * n)), n - 1)
        if n < 2:
            message = f"{train.source}: one structure cannot be split; give --valid_file"
            raise ConfigError(message)
        order = np.random.default_rng(options.seed).permutation(n)
        chosen = set(order[:n_valid].tolist())
        valid = replace(
            train, name="valid", structures=[train.structures[i] for i in sorted(chosen)]
        )
        train = replace(
            train, structures=[s for i, s in enumerate(train.structures) if i not in chosen]
        )
        log.info("valid: %d of %d training structures, by seed %d", n_valid, n, options.seed)
    if options.shuffle:
        generator = random.Random(options.seed)  # noqa: S311 - not for secrets
        for split in (train, valid):
            generator.shuffle(split.structures)
    return train, valid


def _write_split(split: Split, options: Options, prefix: Path) -> None:
    weighted = [_weighted(structure, options) for structure in split.structures]
    if split.name == "test":
        shards = _shards_by_config_type(weighted)
    else:
        stem = {"train": "train", "valid": "val"}[split.name]
        parts = split_evenly(weighted, options.num_process)
        shards = {f"{stem}_{index}.h5": part for index, part in enumerate(parts)}
    provenance = make_provenance(
        TOOL,
        [external_input(split.name, path, "extxyz") for path in split.paths],
        seed=options.seed,
        reproducible=options.reproducible,
    )
    name = {"valid": "val"}.get(split.name, split.name)
    (prefix / name).mkdir()
    write_shards(prefix / name, shards, provenance, options.num_process)
    log.info("%s: %d structures in %d files", options.h5_prefix / name, len(weighted), len(shards))


def _weighted(structure: Structure, options: Options) -> Structure:
    factor = options.config_type_weights.get(structure.config_type, 1.0)
    return replace(structure, weight=structure.weight * factor)


def _shards_by_config_type(structures: list[Structure]) -> dict[str, list[Structure]]:
    """Name files ``<config_type>_<head>_0.h5`` with an empty head, as Torch MACE does."""
    groups: dict[str, list[Structure]] = {}
    for structure in structures:
        name = re.sub(r"[^\w.+-]", "-", structure.config_type)
        groups.setdefault(f"{name}__0.h5", []).append(structure)
    return dict(sorted(groups.items()))
