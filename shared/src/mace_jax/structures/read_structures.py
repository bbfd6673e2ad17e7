"""Structures and labels from files, one frame after the other.

Extended XYZ is read by ``extxyz_frames``, everything else by ASE; memory doesn't grow with the
number of frames.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mace_jax.errors import DataError
from mace_jax.structures.extxyz_frames import extxyz_frames
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


def stream_structures(
    path: Path,
    keys: LabelKeys,
    counts: LabelCounts,
    *,
    head: str = "Default",
    inputs: Sequence[str] = (),
    on_bad: Callable[[DataError], None] | None = None,
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
    index = -1
    for index, frame in enumerate(_frames(path)):
        place = f"{input_name(path)}: frame {index}"
        try:
            if isinstance(frame, DataError):
                raise frame
            structure, found = to_structure(frame, keys, head, inputs, place)
            check_structure(structure)
        except DataError as error:
            if on_bad is None:
                raise
            on_bad(error)
        else:
            counts.add(structure.head, found, frame.keys())
            yield structure
    if index < 0:
        message = f"{input_name(path)}: holds no structures, expected at least one; check the file"
        raise DataError(message)


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


def _frames(path: Path) -> Iterator[Frame | DataError]:
    """Yield frames; an error in the place of one that cannot be read."""
    if path != STANDARD_INPUT:
        require_file(path)
    if path == STANDARD_INPUT or not path.is_file() or _is_extxyz(path):
        with open_input(path) as file:
            yield from extxyz_frames(file, input_name(path))
        return
    from mace_jax.structures.ase_frames import ase_frames

    yield from ase_frames(path)


def _is_extxyz(path: Path) -> bool:
    if without_compression(path).suffix in EXTXYZ_SUFFIXES:
        return True
    from mace_jax.structures.ase_frames import ase_format

    return ase_format(path) in ("xyz", "extxyz")
