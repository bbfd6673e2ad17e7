"""What is read: files of any kind, as one stream of structures with what was found in them."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mace_jax.artifacts.dataset import SUFFIXES, Dataset
from mace_jax.artifacts.provenance import Input, external_input
from mace_jax.errors import DataError
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.read_extxyz import stream_structures
from mace_jax.structures.structure import Structure

log = logging.getLogger(__name__)

# structures read at a time
BLOCK = 256

OnBad = Callable[[DataError], None]


@dataclass(frozen=True)
class Source:
    """A file, and what its structures are for.

    Attributes:
        path: extended XYZ, HDF5 (file, folder or glob), or anything that ASE reads.
        split: ``train``, ``valid`` or ``test``.
        head: of the structures that name none.
    """

    path: Path
    split: str
    head: str = "Default"

    @property
    def is_dataset(self) -> bool:
        """Whether it is HDF5 of either layout."""
        return self.path.is_dir() or self.path.suffix in SUFFIXES

    def as_input(self) -> Input:
        """Describe it in a provenance record."""
        if self.is_dataset:
            with Dataset(self.path) as dataset:
                return dataset.as_input(self.split)
        return external_input(self.split, self.path, "extxyz")


def stream_source(
    source: Source, keys: LabelKeys, counts: LabelCounts, on_bad: OnBad | None = None
) -> Iterator[tuple[int, Structure]]:
    """Yield every structure with the number of its frame, and log what was found where.

    Args:
        source: what to read.
        keys: the user's own label keys; those of HDF5 are fixed.
        counts: is told what was found.
        on_bad: called for a frame that is wrong, which is then passed over.

    Raises:
        DataError, ArtifactError: the file is missing or damaged, a frame is wrong and ``on_bad`` is
            None, or a key that the user named occurs nowhere.
    """
    n_bad = 0

    def pass_over(error: DataError) -> None:
        nonlocal n_bad
        n_bad += 1
        if on_bad is None:
            raise error
        on_bad(error)

    frames = (
        _stream_dataset(source.path, counts, pass_over)
        if source.is_dataset
        else stream_structures(source.path, keys, counts, head=source.head, on_bad=pass_over)
    )
    for n_good, structure in enumerate(frames):
        yield n_good + n_bad, structure
    log.info(
        "%s: %s: %d structures: %s",
        source.split, source.path, counts.n_structures, counts.summary(),
    )  # fmt: skip
    if not source.is_dataset:
        _require_given_keys(source, keys, counts)


def _stream_dataset(path: Path, counts: LabelCounts, on_bad: OnBad) -> Iterator[Structure]:
    with Dataset(path) as dataset:
        for first in range(0, len(dataset), BLOCK):
            block = range(first, min(first + BLOCK, len(dataset)))
            for structure in dataset.read(block):
                counts.count(structure, dict.fromkeys(structure.properties, "HDF5"))
                yield structure


def _require_given_keys(source: Source, keys: LabelKeys, counts: LabelCounts) -> None:
    for label, key in keys.given.items():
        if not counts.total(label):
            message = (
                f"{source.path}: {label} found in 0 of {counts.n_structures} structures under "
                f"{key!r}, keys present: {keys_present(counts)}; correct --{label}_key"
            )
            raise DataError(message)


def keys_present(counts: LabelCounts) -> str:
    """Return the keys of a file in words."""
    return ", ".join(sorted(counts.seen_keys)) or "none"
