"""Read everything, divide it, and write datasets, indices and statistics in one go."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mace_jax.artifacts.atomic_write import atomic_directory_entries, require_absent
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.preparation.collect import Choice, collect
from mace_jax_preprocess.options import Options
from mace_jax_preprocess.skipped import Skipped

log = logging.getLogger(__name__)

TOOL = "mace-jax-preprocess"
FOLDERS = {"train": "train", "valid": "val", "test": "test"}
# What is written below the prefix; the last one last, so that with it the set is complete.
OUTPUTS = (*FOLDERS.values(), "index", "skipped.txt", "statistics.json")
PART_OUTPUTS = (*FOLDERS.values(), "index", "skipped.txt", "sums.json")


def prepare(options: Options) -> tuple[Path, dict[str, Any]]:
    """Write ``train/``, ``val/``, ``test/``, ``index/`` and ``statistics.json`` below the prefix.

    Returns: the folder, and a summary: structures of each split, elements, statistics.

    Raises:
        DataError, ConfigError: nothing has been written then.
    """
    folder, outputs = options.h5_prefix, OUTPUTS
    if options.part:
        part, n_parts = options.part
        folder, outputs = folder / "parts" / f"{part + 1}of{n_parts}", PART_OUTPUTS
    for name in outputs:
        require_absent(folder / name, force=options.force)
    sources = options.sources()
    inputs = [source.as_input() for source in sources]
    provenance = make_provenance(
        TOOL, inputs, seed=options.seed, reproducible=options.reproducible
    )
    skipped = Skipped(options.skip_bad)
    with atomic_directory_entries(folder, outputs) as new, TemporaryDirectory(
        prefix=".spool.", dir=options.work_dir or new
    ) as work:
        choice = Choice(
            options.keys,
            options.split_of(),
            options.adapted,
            options.part or (0, 1),
            skipped.add if options.skip_bad else None,
        )
        collected = collect(sources, choice, Path(work), provenance)
        ...
