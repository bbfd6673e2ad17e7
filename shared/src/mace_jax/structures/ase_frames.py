"""Frames of what is no extended XYZ, read by ASE: its databases, trajectories, other codes."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from mace_jax.errors import DataError
from mace_jax.structures.frame import Frame

_DATABASE_SUFFIXES = (".db", ".json")
_ROWS_AT_ONCE = 1000


def ase_format(path: Path) -> str | None:
    """Return ASE's name for the format of a file, None if it knows none."""
    from ase.io.formats import UnknownFileTypeError, filetype

    try:
        return str(filetype(str(path), guess=False))
    except (UnknownFileTypeError, OSError):
        return None


def ase_frames(path: Path) -> Iterator[Frame | DataError]:
    """Yield each frame, or the error in its place; stop where ASE cannot go on."""
    if path.stat().st_size == 0:
        return
    frames = iter(_database_rows(path) if path.suffix in _DATABASE_SUFFIXES else _images(path))
    for index in count():
        try:
            frame = _next(frames, f"{path}: frame {index}")
        except DataError as error:
            yield error
            return
        if frame is None:
            return
        yield frame


def _next(frames: Iterator[Frame], place: str) -> Frame | None:
    try:
        return next(frames, None)
    except Exception as error:  # ASE's readers raise whatever the format's author chose
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        message = (
            f"{place}: ASE cannot read it ({reason}), expected a format of ASE's; correct the file "
            "or write it as extended XYZ"
        )
        raise DataError(message) from error


def _images(path: Path) -> Iterator[Frame]:
    from ase.io import iread

    for atoms in iread(path, index=":"):
        yield _frame(atoms, atoms.info, atoms.arrays)


def _database_rows(path: Path) -> Iterator[Frame]:
    """Yield the rows of an ASE database; what was stored with a row stands where info does."""
    from ase.db import connect

    database = connect(str(path), serial=True)
    for row in _rows_by_id(database) if path.suffix == ".db" else database.select():
        atoms = row.toatoms()
        yield _frame(atoms, {**row.data, **row.key_value_pairs}, atoms.arrays)


def _rows_by_id(database: Any) -> Iterator[Any]:
    """Select a few rows at a time, as ASE fetches all that are selected."""
    last, more = 0, True
    while more:
        more = False
        for row in database.select(f"id>{last}", sort="id", limit=_ROWS_AT_ONCE):
            last, more = row.id, True
            yield row


def _frame(atoms: Any, info: dict[str, Any], arrays: dict[str, Any]) -> Frame:
    return Frame(
        atoms.numbers.astype(np.int64),
        atoms.positions,
        np.array(atoms.cell),
        atoms.pbc.copy(),
        info,
        {name: value for name, value in arrays.items() if name not in ("numbers", "positions")},
        dict(atoms.calc.results) if atoms.calc is not None else {},
    )
