"""From raw structures to a dataset on disk: what preprocess does, and train when given extxyz."""

import ctypes
import logging
import os
import signal
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mace_jax.artifacts.dataset import write_dataset_file
from mace_jax.elements import sorted_elements, species_index
from mace_jax.errors import DataError
from mace_jax.structures.atomic_energies import (
    average_atomic_energies,
    parse_atomic_energies,
    require_atomic_energies,
)
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.read_structures import read_structures
from mace_jax.structures.statistics import Statistics, compute_statistics
from mace_jax.structures.structure import Structure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """The structures of one split (train, valid or test) and where they came from."""

    name: str
    structures: list[Structure]
    paths: tuple[Path, ...]
    counts: tuple[LabelCounts, ...]

    @property
    def source(self) -> str:
        """Return the file names, for messages."""
        return ", ".join(str(path) for path in self.paths)


def read_split(name: str, paths: Sequence[Path], keys: LabelKeys) -> Split:
    """Read the files of a split and log what was found where.

    Raises:
        DataError: a file is bad, or a key the user named occurs in none of its structures.
    """
    structures, all_counts = [], []
    for path in paths:
        found, counts = read_structures(path, keys)
        log.info("%s: %s: %d structures: %s", name, path, len(found), counts.summary())
        for label, key in keys.given.items():
            if not counts.total(label):
                message = (
                    f"{path}: {label} found in 0 of {len(found)} structures under {key!r}, "
                    f"keys present: {_present(counts)}; correct --{label}_key"
                )
                raise DataError(message)
        structures += found
        all_counts.append(counts)
    return Split(name, structures, tuple(paths), tuple(all_counts))


def require_energies(split: Split, keys: LabelKeys) -> None:
    """Check that a split can be trained on.

    Raises:
        DataError: no structure has an energy.
    """
    if any("energy" in structure.properties for structure in split.structures):
        return
    tried = ", ".join(keys.candidates("energy"))
    present = ", ".join(_present(counts) for counts in split.counts)
    message = (
        f"{split.source}: energy found in 0 of {len(split.structures)} structures under {tried}, "
        f"keys present: {present}; name the key with --energy_key"
    )
    raise DataError(message)


def _present(counts: LabelCounts) -> str:
    return ", ".join(sorted(counts.seen_keys)) or "none"


def resolve_elements(splits: Sequence[Split], given: Sequence[int] | None) -> tuple[int, ...]:
    """Return the elements of the data, or the given ones once all data is within them.

    Raises:
        DataError: the data holds an element that was not given.
    """
    if given is None:
        return sorted_elements(
            number
            for split in splits
            for structure in split.structures
            for number in structure.atomic_numbers
        )
    elements = sorted_elements(given)
    for split in splits:
        require_elements(split.structures, elements)
    return elements


def require_elements(structures: Iterable[Structure], elements: tuple[int, ...]) -> None:
    """Check that every atom is of one of ``elements``.

    Raises:
        DataError: names the first structure with another one.
    """
    for structure in structures:
        species_index(structure.atomic_numbers, elements, structure.place)


def resolve_atomic_energies(
    spec: str | None,
    structures: Sequence[Structure],
    isolated: dict[int, float],
    elements: tuple[int, ...],
) -> dict[int, float]:
    """Return E0 of every element, eV.

    Isolated atoms in the data win, as in Torch MACE; then what ``spec`` says.

    Args:
        spec: ``average``, a dict literal, a JSON file, or None for isolated atoms alone.
        structures: training data.
        isolated: E0s of isolated atoms found in it.
        elements: ascending.

    Raises:
        DataError: an element has no E0.
        ConfigError: ``spec`` cannot be read.
    """
    if all(number in isolated for number in elements):
        return require_atomic_energies(isolated, elements, "isolated atoms")
    if spec is None:
        return require_atomic_energies(
            isolated, elements, "E0s not given and no isolated atoms in the data"
        )
    if spec.lower() == "average":
        energies = average_atomic_energies(structures, elements)
        present = sorted_elements(z for s in structures for z in s.atomic_numbers)
        for number in set(elements) - set(present):
            log.warning("E0 of element %d is 0 eV: it does not occur in the data", number)
    else:
        energies = parse_atomic_energies(spec)
    return require_atomic_energies({**energies, **isolated}, elements, f"E0s {spec!r}")


def training_statistics(
    split: Split,
    isolated: dict[int, float],
    elements: tuple[int, ...],
    e0s: str | None,
    r_max: float,
) -> Statistics:
    """Return the statistics of a training split.

    Raises:
        DataError, ConfigError: as ``resolve_atomic_energies`` and ``compute_statistics``.
    """
    energies = resolve_atomic_energies(e0s, split.structures, isolated, elements)
    return compute_statistics(split.structures, elements, energies, r_max)


def write_shards(
    folder: Path,
    shards: dict[str, list[Structure]],
    provenance: dict[str, Any],
    n_process: int = 1,
) -> None:
    """Write the files of one split, ``n_process`` at a time.

    Args:
        folder: where to.
        shards: file name -> structures.
        provenance: record of ``make_provenance``.
        n_process: writer processes; any failure in one is raised here.
    """
    n_in_set = sum(len(structures) for structures in shards.values())
    jobs = [
        (folder / name, structures, provenance, n_in_set, (index, len(shards)))
        for index, (name, structures) in enumerate(shards.items())
    ]
    if n_process == 1 or len(jobs) == 1:
        for job in jobs:
            _write_shard(*job)
        return
    spawn = get_context("spawn")  # a fork of a process with threads, such as jax's, may hang
    workers = min(n_process, len(jobs))
    with ProcessPoolExecutor(workers, spawn, _die_with_parent, (os.getpid(),)) as pool:
        for future in [pool.submit(_write_shard, *job) for job in jobs]:
            future.result()


def _die_with_parent(parent: int) -> None:
    """Ask Linux to end this worker when the tool itself is killed, and end if it was already."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        set_parent_death_signal = 1
        libc.prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _write_shard(
    path: Path,
    structures: list[Structure],
    provenance: dict[str, Any],
    n_in_set: int,
    shard: tuple[int, int],
) -> None:
    write_dataset_file(path, structures, provenance, n_in_set=n_in_set, shard=shard)


def split_evenly(structures: list[Structure], n: int) -> list[list[Structure]]:
    """Cut a list into at most ``n`` contiguous, non-empty parts of nearly equal length."""
    n = min(n, len(structures))
    bounds = [len(structures) * i // n for i in range(n + 1)]
    return [structures[a:b] for a, b in pairwise(bounds)]
