"""Read all sources once, and put every structure into the spool of its split."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mace_jax.errors import DataError
from mace_jax.preparation.processes import Processes
from mace_jax.preparation.sources import Source, report_source, unparsed_frames
from mace_jax.preparation.splits import SplitName
from mace_jax.preparation.spool import Spool
from mace_jax.structures.block_neighbors import block_pairs
from mace_jax.structures.extxyz_frames import NothingFollowsError, RawFrame
from mace_jax.structures.isolated_atoms import IsolatedAtoms, is_isolated_atom
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.read_structures import OnBad, Unparsed, parse_structure
from mace_jax.structures.structure import Structure
from mace_jax.structures.structure_block import StructureBlock, check_block

# Å; neighbours up to here are enough to tell that two atoms are at one place.
_NEAR = 0.1
# Frames, and bytes of them, that are read at a time.
_FRAMES, _BYTES = 256, 1 << 22


@dataclass(frozen=True)
class Choice:
    """Which structures are taken, and what becomes of them; all but ``on_bad`` is pickled.

    Attributes:
        keys: the user's own label keys.
        split_of: split of a structure of the training data; all are ``train`` without it.
        adapt: changes structures, or raises if one can't be used.
        part: (i, n): only frames i, i + n, … of every source.
        apart: whether two atoms at one place make a frame wrong already here, where it can be
            passed over, and not only when neighbours are searched for writing.
        keys_of_heads: label keys of the files of a head, where it has its own.
    """

    keys: LabelKeys
    split_of: Callable[[Structure], SplitName] | None = None
    adapt: Callable[[StructureBlock], StructureBlock] | None = None
    part: tuple[int, int] = (0, 1)
    apart: bool = False
    keys_of_heads: Mapping[str, LabelKeys] = field(default_factory=dict)

    def keys_of(self, source: Source) -> LabelKeys:
        """Return the label keys of a file."""
        return self.keys_of_heads.get(source.head, self.keys)


@dataclass(frozen=True)
class Collected:
    """What was read.

    Attributes:
        spools: the structures by split, complete files.
        isolated: energies of isolated atoms, which are in no spool.
        counts: labels found in each source.
    """

    spools: Mapping[str, Spool]
    isolated: IsolatedAtoms
    counts: Mapping[Source, LabelCounts]


class _Portion(NamedTuple):
    """Some frames of a source that follow each other, from number ``first``."""

    source: Source
    choice: Choice
    first: int
    frames: list[Unparsed]


class _Read(NamedTuple):
    """What became of a portion.

    Attributes:
        blocks: structures by split, with their frames.
        isolated: atoms that only give E0s.
        counts: labels found.
    """

    blocks: dict[str, tuple[StructureBlock, list[int]]]
    isolated: list[Structure]
    counts: LabelCounts


class _Refused(NamedTuple):
    """A good frame that cannot be used, which ends everything."""

    error: DataError


def collect(
    sources: Sequence[Source],
    choice: Choice,
    folder: Path,
    provenance: dict[str, Any],
    processes: Processes,
    on_bad: OnBad | None = None,
) -> Collected:
    """Read ``sources`` into one file a split below ``folder``.

    Isolated atoms of the training data only give E0s, as in Torch MACE; elsewhere they stay.

    Args:
        sources: the files.
        choice: what is taken.
        folder: existing.
        provenance: record of ``make_provenance``.
        processes: that parse and check.
        on_bad: called for a frame that is wrong, which is then passed over.

    Raises:
        DataError, ArtifactError: a source is missing or damaged, or a frame is wrong.
    """
    isolated = IsolatedAtoms()
    counts: dict[Source, LabelCounts] = {}
    spools: dict[str, Spool] = {}
    with ExitStack() as stack:
        for number, source in enumerate(sources):
            counts[source] = LabelCounts()
            for read in _read_source(source, choice, processes, on_bad):
                counts[source].merge(read.counts)
                for atom in read.isolated:
                    isolated.add(atom)
                for split, (block, frames) in read.blocks.items():
                    if split not in spools:
                        spool = Spool(folder / f"{split}.h5", provenance)
                        spools[split] = stack.enter_context(spool)
                    spools[split].add(block, number, frames)
            report_source(source, choice.keys_of(source), counts[source])
    return Collected(spools, isolated, counts)


def _read_source(
    source: Source, choice: Choice, processes: Processes, on_bad: OnBad | None
) -> Iterator[_Read]:
    portions = _portions(source, choice)
    # structures of HDF5 need no parsing
    reads = (
        map(_read_portion, portions)
        if source.is_dataset
        else processes.map(_read_portion, portions)
    )
    for results in reads:
        for result in results:
            if isinstance(result, _Refused):
                raise result.error
            if isinstance(result, _Read):
                yield result
            elif on_bad is None:
                raise result
            else:
                on_bad(result)
                if isinstance(result, NothingFollowsError):
                    return


def _portions(source: Source, choice: Choice) -> Iterator[_Portion]:
    first, frames, size = 0, list[Unparsed](), 0
    for frame in unparsed_frames(source):
        frames.append(frame)
        size += len(frame.rows) if isinstance(frame, RawFrame) else 0
        if len(frames) == _FRAMES or size > _BYTES:
            yield _Portion(source, choice, first, frames)
            first, frames, size = first + len(frames), [], 0
    if frames:
        yield _Portion(source, choice, first, frames)


def _read_portion(portion: _Portion) -> list[_Read | _Refused | DataError]:
    """Read a portion all at once; where a frame is wrong, frame by frame up to what ends it."""
    try:
        return [_sorted_out(portion, *_parsed(portion))]
    except DataError:
        return list(_one_by_one(portion))


def _one_by_one(portion: _Portion) -> Iterator[_Read | _Refused | DataError]:
    for number, frame in enumerate(portion.frames, portion.first):
        one = portion._replace(first=number, frames=[frame])
        try:
            parsed = _parsed(one)
        except DataError as error:
            yield error
            if isinstance(error, NothingFollowsError):
                return
            continue
        try:
            yield _sorted_out(one, *parsed)
        except DataError as error:
            yield _Refused(error)
            return


def _parsed(portion: _Portion) -> tuple[list[Structure], StructureBlock, LabelCounts]:
    """Return the structures of a portion, checked, and what labels they have.

    Raises:
        DataError: one is wrong.
    """
    structures, keys = [], portion.choice.keys_of(portion.source)
    kinds: Counter[tuple[str, tuple[tuple[str, str], ...], frozenset[str]]] = Counter()
    for number, frame in enumerate(portion.frames, portion.first):
        place = f"{portion.source.name}: frame {number}"
        structure, found, seen = parse_structure(frame, keys, portion.source.head, place)
        kinds[structure.head, tuple(found.items()), frozenset(seen)] += 1
        structures.append(structure)
    counts = LabelCounts()
    for (head, labels, present), n_structures in kinds.items():
        counts.add(head, dict(labels), present, n_structures)
    block = StructureBlock.of(structures)
    check_block(block)
    if portion.choice.apart:
        block_pairs(block, _NEAR)
    return structures, block, counts


def _sorted_out(
    portion: _Portion, structures: Sequence[Structure], block: StructureBlock, counts: LabelCounts
) -> _Read:
    """Return which structures go where.

    Raises:
        DataError: one cannot be used.
    """
    choice, is_train = portion.choice, portion.source.split == "train"
    part, n_parts = choice.part
    isolated: list[Structure] = []
    members: dict[str, list[int]] = {}
    for k, structure in enumerate(structures):
        if (portion.first + k) % n_parts != part:
            continue
        split: str = portion.source.split
        if is_train and is_isolated_atom(structure):
            isolated.append(structure)
            continue
        if is_train and choice.split_of:
            split = choice.split_of(structure)
        members.setdefault(split, []).append(k)
    blocks = {}
    for split, numbers in members.items():
        chosen = block.take(np.array(numbers))
        adapted = choice.adapt(chosen) if choice.adapt else chosen
        blocks[split] = adapted, [portion.first + k for k in numbers]
    return _Read(blocks, isolated, counts)
