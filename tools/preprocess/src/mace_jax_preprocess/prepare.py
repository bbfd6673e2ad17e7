"""Read everything, divide it, and write datasets, indices and statistics in one go."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mace_jax.artifacts.atomic_write import atomic_directory_entries, require_absent
from mace_jax.artifacts.provenance import Input, make_provenance
from mace_jax.artifacts.training_sums import write_training_sums
from mace_jax.elements import sorted_elements, symbol
from mace_jax.preparation.collect import Choice, Collected, collect
from mace_jax.preparation.processes import Processes
from mace_jax.preparation.skipped import Skipped
from mace_jax.preparation.sources import (
    Source,
    require_energies,
    require_labels_of_heads,
    with_a_file,
)
from mace_jax.preparation.write_split import Spooled, join_indices, write_split
from mace_jax.structures.training_sums import TrainingSums
from mace_jax_preprocess.divide import Split, divide, files_of
from mace_jax_preprocess.options import TOOL, Options
from mace_jax_preprocess.statistics_file import write_statistics_file

log = logging.getLogger(__name__)

FOLDERS = {"train": "train", "valid": "val", "test": "test"}
SUMS = "sums.json"
# What is written below the prefix, or for a part; with the last one the set is complete.
OUTPUTS = (*FOLDERS.values(), "index", "skipped.txt", "statistics.json")
OUTPUTS_OF_PART = (*FOLDERS.values(), "index", "skipped.txt", SUMS)


def prepare(options: Options) -> dict[str, Any]:
    """Write ``train/``, ``val/``, ``test/``, ``index/`` and ``statistics.json``.

    Of one part of several, sums are written instead of statistics.

    Returns: number of structures of each split, elements, statistics.

    Raises:
        DataError, ConfigError: nothing has been written then.
    """
    outputs = OUTPUTS_OF_PART if options.part else OUTPUTS
    read = [source.path for source in options.sources()]
    for name in outputs:
        require_absent(options.folder / name, force=options.force, inputs=read)
    skipped = Skipped(options.skip_bad)
    with (
        atomic_directory_entries(options.folder, outputs) as folder,
        TemporaryDirectory(prefix=".spool.", dir=options.work_dir or folder) as work,
        Processes(options.num_process) as processes,
    ):
        sources = [with_a_file(source, Path(work)) for source in options.sources()]
        inputs = [source.as_input() for source in sources]
        choice = Choice(
            options.keys,
            options.split_of(),
            options.adapted,
            options.part or (0, 1),
            apart=bool(options.skip_bad),
            keys_of_heads=options.keys_of_heads(),
        )
        collected = collect(
            sources,
            choice,
            Path(work),
            _provenance(inputs, options),
            processes,
            skipped.add if options.skip_bad else None,
        )
        if "train" not in collected.spools:
            skipped.require_none()
        splits = divide(collected.spools, options)
        if not options.part:
            _require_energies(splits, collected, options)
        indices = folder / "index" if options.part else Path(work)
        sums = TrainingSums(options.r_max)
        digests: dict[str, str] = {}
        for split in splits:
            of_split, digests[split.name] = _write_split(
                split, sources, inputs, options, folder, indices, processes
            )
            if split.name == "train":
                sums.merge(of_split)
        sums.isolated_atoms.merge(collected.isolated)
        for head, energies in collected.isolated.heads.items():
            elements = ", ".join(map(symbol, energies))
            log.info("train: isolated atoms of head %s give E0s only: %s", head, elements)
        skipped.write(folder / "skipped.txt")
        numbers = sorted_elements(z for spool in collected.spools.values() for z in spool.elements)
        summary: dict[str, Any] = {split.name: len(split.order) for split in splits}
        summary |= {"atomic_numbers": list(numbers), "skipped": skipped.messages}
        if options.part:
            write_training_sums(folder / SUMS, sums, _provenance(inputs, options))
        elif options.compute_statistics:
            summary |= write_statistics_file(folder, sums, numbers, digests["train"], options)
    return summary


def _require_energies(splits: Sequence[Split], collected: Collected, options: Options) -> None:
    """Check that what is trained and validated on has energies; a part alone may have none."""
    for split in splits:
        counts = {s: c for s, c in collected.counts.items() if s.split == split.role}
        if split.name != "test":
            n_energies = split.spool.labels["energy"]
            require_energies(n_energies, len(split.spool), counts, options.keys)
        if split.name == "train":
            require_labels_of_heads(counts)


def _write_split(
    split: Split,
    sources: Sequence[Source],
    inputs: Sequence[Input],
    options: Options,
    folder: Path,
    indices: Path,
    processes: Processes,
) -> tuple[TrainingSums, str]:
    """Write a dataset, and its index unless it is one part of several.

    Returns: the sums over it, and its digest.
    """
    name = FOLDERS[split.name]
    provenance = _provenance([item for item in inputs if item.role == split.role], options)
    files = files_of(split, options.num_process)
    spooled = Spooled(split.spool.path, tuple(source.name for source in sources))
    sums, sha256 = write_split(
        spooled, files, folder / name, indices / name, provenance, options.form(), processes
    )
    if not options.part:
        target = folder / "index" / f"{name}.parquet"
        target.parent.mkdir(exist_ok=True)
        if len(files) == 1:  # its index is that of the set
            (index,) = (indices / name).iterdir()
            shutil.move(index, target)
        else:
            join_indices(folder / name, indices / name, target, provenance, sha256)
    log.info("%s: %d structures in %d files", options.folder / name, len(split.order), len(files))
    return sums, sha256


def _provenance(inputs: Sequence[Input], options: Options) -> dict[str, Any]:
    return make_provenance(TOOL, inputs, seed=options.seed, reproducible=options.reproducible)
