"""Structures and labels from files, one frame after the other.

Extended XYZ is read by ``extxyz_frames``, everything else by ASE; memory doesn't grow with the
number of frames.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path

from mace_jax.errors import DataError
from mace_jax.structures.extxyz_frames import (
    NothingFollowsError,
    RawFrame,
    parse_raw_frame,
    raw_frames,
)
from mace_jax.structures.frame import Frame, to_structure
from mace_jax.structures.input_files import (
    STANDARD_INPUT,
    input_name,
    open_input,
    require_file,
    without_compression,
)
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.structure import Structure, check_structure

EXTXYZ_SUFFIXES = (".xyz", ".extxyz")

OnBad = Callable[[DataError], None]
# What is read of a file in a cheap first step; the second, parsing, may be done elsewhere.
Unparsed = RawFrame | Frame | Structure | DataError


def stream_structures(
    path: Path,
    keys: LabelKeys,
    counts: LabelCounts,
    *,
    head: str = "Default",
    inputs: Sequence[str] = (),
    on_bad: OnBad | None = None,
) -> Iterator[Structure]:
    """Read a file frame by frame; memory is constant in the number of frames.

    Args:
        path: extended XYZ, plain or compressed (``.gz``, ``.bz2``, ``.xz``, ``.zst``), an ASE
            database, any other file that ASE reads, or ``-``: extended XYZ on standard input.
        keys: where labels, head and config type are.
        counts: what was found where is added here, as structures are yielded.
        head: head of the frames that don't name one.
        inputs: names of further columns or entries to keep as ``Structure.inputs``.
        on_bad: called for a bad frame instead of raising; reading goes on with the next frame.
            Where the end of the bad one cannot be told, the rest of the file is one bad frame.

    Yields: the structures in file order; ``place`` is ``file: frame k``, k counted from 0.

    Raises:
        DataError: the file cannot be opened or holds no structures; without ``on_bad`` a bad frame.
    """
    name = input_name(path)
    frames = unparsed_frames(path, name)
    reading = parse_frames(frames, name, keys, counts, head=head, inputs=inputs, on_bad=on_bad)
    for _, structure in reading:
        yield structure


def parse_frames(
    frames: Iterable[Unparsed],
    name: str,
    keys: LabelKeys,
    counts: LabelCounts,
    *,
    head: str = "Default",
    inputs: Sequence[str] = (),
    on_bad: OnBad | None = None,
) -> Iterator[tuple[int, Structure]]:
    """Yield the structure of each frame with the frame's number.

    Args:
        frames: those of a file.
        name: of the file, for messages.
        keys, counts, head, inputs, on_bad: as of ``stream_structures``.

    Raises:
        DataError: a frame is bad, without ``on_bad``.
    """
    for index, frame in enumerate(frames):
        try:
            structure, found, seen = parse_structure(
                frame, keys, head, f"{name}: frame {index}", inputs
            )
            check_structure(structure)
        except DataError as error:
            if on_bad is None:
                raise
            on_bad(error)
            if isinstance(error, NothingFollowsError):
                return
        else:
            counts.add(structure.head, found, seen)
            yield index, structure


def parse_structure(
    frame: Unparsed, keys: LabelKeys, head: str, place: str, inputs: Sequence[str] = ()
) -> tuple[Structure, dict[str, str], Set[str]]:
    """Return the structure of a frame, unchecked.

    Args:
        frame: what was read.
        keys, head, inputs: as of ``stream_structures``.
        place: where it was read, for messages.

    Returns: the structure, the key of each label found, and all keys that might be of labels.

    Raises:
        DataError: the frame is wrong.
    """
    if isinstance(frame, Structure):
        return frame, dict.fromkeys(frame.properties, "HDF5"), set()
    parsed = frame if isinstance(frame, Frame) else parse_raw_frame(frame, place)
    structure, found = to_structure(parsed, keys, head, inputs, place)
    return structure, found, parsed.keys()


def read_structures(
    path: Path,
    keys: LabelKeys | None = None,
    *,
    head: str = "Default",
    inputs: Sequence[str] = (),
) -> tuple[list[Structure], LabelCounts]:
    """Read every frame of a file.

    Args:
        path, keys, head, inputs: as in ``stream_structures``.

    Returns: the structures in file order, and what was found where.

    Raises:
        DataError: the file is missing, empty or unreadable, or a frame is wrong.
    """
    counts = LabelCounts()
    stream = stream_structures(Path(path), keys or LabelKeys(), counts, head=head, inputs=inputs)
    return list(stream), counts


def unparsed_frames(path: Path, name: str) -> Iterator[Unparsed]:
    """Yield frames as they are in the file; an error in the place of one that cannot be read.

    Args:
        path: as of ``stream_structures``.
        name: of the file, for messages.

    Raises:
        DataError: the file cannot be opened or holds no structures.
    """
    frame = None
    for frame in _frames(path, name):
        yield frame
    if frame is None:
        message = f"{name}: holds no structures, expected at least one; check the file"
        raise DataError(message)


def _frames(path: Path, name: str) -> Iterator[RawFrame | Frame | DataError]:
    if path != STANDARD_INPUT:
        require_file(path)
    if path == STANDARD_INPUT or not path.is_file() or _is_extxyz(path):
        with open_input(path) as file:
            yield from raw_frames(file, name)
        return
    from mace_jax.structures.ase_frames import ase_frames

    yield from ase_frames(path)


def _is_extxyz(path: Path) -> bool:
    if without_compression(path).suffix in EXTXYZ_SUFFIXES:
        return True
    from mace_jax.structures.ase_frames import ase_format

    return ase_format(path) in ("xyz", "extxyz")
