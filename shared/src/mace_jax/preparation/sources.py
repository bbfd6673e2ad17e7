"""What is read: files of any kind, as one stream of structures with what was found in them."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mace_jax.artifacts.dataset import SUFFIXES, Dataset
from mace_jax.artifacts.provenance import Input, external_input
from mace_jax.errors import DataError
from mace_jax.structures import read_structures
from mace_jax.structures.input_files import STANDARD_INPUT, input_name, open_input
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.read_structures import OnBad, Unparsed, parse_frames
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure

log = logging.getLogger(__name__)

# structures read at a time
BLOCK = 256


@dataclass(frozen=True)
class Source:
    """A file, and what its structures are for.

    Attributes:
        path: extended XYZ, HDF5 (file, folder or glob), or anything that ASE reads.
        split: ``train``, ``valid`` or ``test``.
        head: of the structures that name none.
        copy: what to read in its place, of which messages do not speak.
    """

    path: Path
    split: str
    head: str = "Default"
    copy: Path | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return input_name(self.path)

    @property
    def file(self) -> Path:
        """What is read."""
        return self.copy or self.path

    @property
    def is_dataset(self) -> bool:
        """Whether it is HDF5 of either layout."""
        return self.path.is_dir() or self.path.suffix in SUFFIXES

    def as_input(self) -> Input:
        """Describe it in a provenance record."""
        if self.is_dataset:
            with Dataset(self.path) as dataset:
                return dataset.as_input(self.split)
        return external_input(self.split, self.file, "extxyz")


def with_a_file(source: Source, folder: Path) -> Source:
    """Copy standard input, unpacked, to a file, which has a name and a digest like any other."""
    if source.path != STANDARD_INPUT:
        return source
    path = folder / "standard input.xyz"
    with open_input(STANDARD_INPUT) as stream, path.open("wb") as file:
        shutil.copyfileobj(stream, file)
    return replace(source, copy=path)


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
    frames = unparsed_frames(source)
    yield from parse_frames(frames, source.name, keys, counts, head=source.head, on_bad=on_bad)
    report_source(source, keys, counts)


def unparsed_frames(source: Source) -> Iterator[Unparsed]:
    """Yield frames as they are in the file; an error in the place of one that cannot be read.

    Raises:
        DataError, ArtifactError: the file is missing, empty or damaged.
    """
    if not source.is_dataset:
        yield from read_structures.unparsed_frames(source.file, source.name)
        return
    with Dataset(source.path) as dataset:
        for first in range(0, len(dataset), BLOCK):
            yield from _read_block(dataset, range(first, min(first + BLOCK, len(dataset))))


def _read_block(dataset: Dataset, block: range) -> Iterator[Structure | DataError]:
    try:
        yield from dataset.read(block)
    except DataError:
        for index in block:
            try:
                yield dataset[index]
            except DataError as error:
                yield error


def report_source(source: Source, keys: LabelKeys, counts: LabelCounts) -> None:
    """Log what was found where in a source that was read.

    Raises:
        DataError: a key that the user named occurs nowhere.
    """
    log.info(
        "%s: %s: %d structures: %s",
        source.split,
        source.name,
        counts.n_structures,
        counts.summary(),
    )
    if len(counts.heads) > 1:
        for head, summary in counts.head_summaries().items():
            log.info("%s: %s: head %s: %s", source.split, source.name, head, summary)
    if not source.is_dataset:
        _require_given_keys(source, keys, counts)


def _require_given_keys(source: Source, keys: LabelKeys, counts: LabelCounts) -> None:
    missing = [label for label in keys.given if not counts.total(label)]
    if keys.head != LabelKeys().head and keys.head not in counts.seen_keys:
        missing.append("head")
    for label in missing:
        key = keys.head if label == "head" else keys.given[label]
        message = (
            f"{source.name}: {label} found in 0 of {counts.n_structures} structures under "
            f"{key!r}, keys present: {_keys_present(counts)}; correct --{label}_key"
        )
        raise DataError(message)


def require_energies(
    n_energies: int, n_structures: int, counts: Mapping[Source, LabelCounts], keys: LabelKeys
) -> None:
    """Check that structures can be trained on.

    Args:
        n_energies: structures that have an energy.
        n_structures: all.
        counts: what was found in the files that they are from.
        keys: where labels were looked for.

    Raises:
        DataError: there is no energy.
    """
    if n_energies:
        return
    message = (
        f"{', '.join(source.name for source in counts)}: energy found in 0 of "
        f"{n_structures} structures under {', '.join(keys.candidates('energy'))}, "
        f"keys present: {', '.join(map(_keys_present, counts.values()))}; "
        "name the key with --energy_key"
    )
    raise DataError(message)


def require_labels_of_heads(counts: Mapping[Source, LabelCounts]) -> None:
    """Check that each head has something to learn from.

    Args:
        counts: what was found in the files of the training data.

    Raises:
        DataError: a head has no label.
    """
    total = LabelCounts()
    for found in counts.values():
        total.merge(found)
    for head, n_structures in total.heads.items():
        if not any(total.total(name, head) for name in PROPERTY_SHAPES):
            files = [source for source, found in counts.items() if head in found.heads]
            message = (
                f"{', '.join(source.name for source in files)}: no labels in {n_structures} "
                f"structures of head {head}, keys present: "
                f"{', '.join(_keys_present(counts[source]) for source in files)}; name them in "
                "--heads, such as energy_key, or with --energy_key and its kin"
            )
            raise DataError(message)


def _keys_present(counts: LabelCounts) -> str:
    return ", ".join(sorted(counts.seen_keys)) or "none"
