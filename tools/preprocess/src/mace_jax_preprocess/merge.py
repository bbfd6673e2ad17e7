"""Join the parts that ``--shard i/n`` made into one set of datasets, indices and statistics."""

import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mace_jax.artifacts.atomic_write import atomic_directory_entries, require_absent
from mace_jax.artifacts.dataset import Dataset, dataset_files, renumber_file
from mace_jax.artifacts.index import elements_of_index
from mace_jax.artifacts.provenance import Input, files_sha256, make_provenance
from mace_jax.artifacts.training_sums import read_training_sums, training_sums_input
from mace_jax.errors import ConfigError, DataError
from mace_jax.preparation.write_split import join_indices
from mace_jax.structures.training_sums import TrainingSums
from mace_jax_preprocess.options import TOOL, Options
from mace_jax_preprocess.prepare import FOLDERS, OUTPUTS, SUMS
from mace_jax_preprocess.statistics_file import write_statistics_file

log = logging.getLogger(__name__)


def merge_parts(options: Options) -> dict[str, Any]:
    """Join all parts below ``--h5_prefix``; no structure is read and nothing computed anew.

    The parts are removed once the whole is complete.

    Returns: number of structures of each split, elements, statistics.

    Raises:
        ConfigError: a part is missing.
        IncompatibleError, DataError: the parts were not made alike, or nothing can be learned.
    """
    for name in OUTPUTS:
        require_absent(options.h5_prefix / name, force=options.force)
    folder_of_parts = options.h5_prefix / "parts"
    parts = _parts(folder_of_parts)
    inputs = [training_sums_input("part", part / SUMS) for part in parts]
    sums = TrainingSums(options.r_max)
    for part in parts:
        sums.merge(read_training_sums(part / SUMS))
    summary: dict[str, Any] = {}
    digests: dict[str, str] = {}
    with (
        atomic_directory_entries(options.h5_prefix, OUTPUTS) as folder,
        TemporaryDirectory(prefix=".index.", dir=folder) as work,
    ):
        for split, name in FOLDERS.items():
            n = _merge_split(parts, name, folder / name, Path(work) / name)
            if n:
                provenance = _provenance(inputs, options)
                index = folder / "index" / f"{name}.parquet"
                digests[split] = files_sha256(dataset_files(folder / name))
                join_indices(folder / name, Path(work) / name, index, provenance, digests[split])
                summary[split] = n
        if not any(head.n_energies for head in sums.heads.values()):
            message = (
                f"{folder_of_parts}: energy found in no structure of train; make the parts again "
                "with --energy_key"
            )
            raise DataError(message)
        elements = sorted(set().union(*map(elements_of_index, (folder / "index").iterdir())))
        summary["atomic_numbers"] = elements
        if options.compute_statistics:
            summary |= write_statistics_file(folder, sums, elements, digests["train"], options)
    shutil.rmtree(folder_of_parts)
    return summary


def _provenance(inputs: Sequence[Input], options: Options) -> dict[str, Any]:
    return make_provenance(TOOL, inputs, seed=options.seed, reproducible=options.reproducible)


def _parts(folder: Path) -> list[Path]:
    """Return the folders of all parts, in order.

    Raises:
        ConfigError: one is missing, or they are parts of different wholes.
    """
    found = {
        (int(match[1]), int(match[2])): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"(\d+)of(\d+)", path.name)) and (path / SUMS).is_file()
    }
    counts = {count for _, count in found}
    n_parts = max(counts, default=1)
    missing = [number for number in range(1, n_parts + 1) if (number, n_parts) not in found]
    if missing or len(counts) != 1:
        message = (
            f"{folder}: holds parts {sorted(path.name for path in found.values())}, expected all "
            f"of one whole; run --shard {missing[0] if missing else 'i'}/{n_parts}, or remove "
            "what is not of it"
        )
        raise ConfigError(message)
    return [found[number, n_parts] for number in range(1, n_parts + 1)]


def _merge_split(parts: Sequence[Path], name: str, folder: Path, indices: Path) -> int:
    """Copy the files of a split, number them through, and return how many structures they hold."""
    sources = [
        (number, file)
        for number, part in enumerate(parts)
        if (part / name).is_dir()
        for file in dataset_files(part / name)
    ]
    if not sources:
        return 0
    sizes = []
    for _, file in sources:
        with Dataset(file) as dataset:
            sizes.append(len(dataset))
    folder.mkdir()
    indices.mkdir()
    for shard, (number, file) in enumerate(sources):
        part = file.parent.parent
        stem = f"{file.stem.rpartition('_')[0]}_{shard if name != 'test' else number}"
        copy = shutil.copyfile(file, folder / f"{stem}{file.suffix}")
        renumber_file(copy, (shard, len(sources)), sum(sizes))
        shutil.copyfile(part / "index" / name / f"{file.stem}.parquet", indices / f"{stem}.parquet")
    log.info("%s: %d structures in %d files", name, sum(sizes), len(sources))
    return sum(sizes)
