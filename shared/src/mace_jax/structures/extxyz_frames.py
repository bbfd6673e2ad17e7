"""Extended XYZ as a stream: where each frame begins and ends.

A frame is a line with the number of atoms, a comment line, and one line an atom. That it ends where
its count says is checked on the line after it, so that a wrong count never makes a good frame.
"""

from collections.abc import Iterator
from itertools import count, islice
from typing import BinaryIO, NamedTuple

from mace_jax.errors import DataError
from mace_jax.structures.extxyz_parser import lines_of, parse_frame, quoted
from mace_jax.structures.frame import Frame
from mace_jax.structures.input_files import READ_ERRORS

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_DIGITS = 18
# A count is a few bytes; in a file that is no text the first line may be all of it.
_MAX_COUNT_LINE = 1000
# Of a longer frame every line is looked at, so that a wrong count doesn't swallow the file.
_MAX_UNCHECKED = 100_000


class RawFrame(NamedTuple):
    """The lines of one frame, which end where its count says.

    Attributes:
        number: of its first line, the count, in the file, from 1.
        n_atoms: what the count says.
        comment: the comment line.
        rows: a line for each atom, end to end.
        n_rows: how many; fewer than ``n_atoms`` where a very long frame breaks off.
        following: the next line that is not blank if that is no count; else empty.
        following_number: of that line.
    """

    number: int
    n_atoms: int
    comment: bytes
    rows: bytes
    n_rows: int
    following: bytes
    following_number: int


class NothingFollowsError(DataError):
    """A frame is wrong, and where the next one begins cannot be told."""


def raw_frames(file: BinaryIO, name: str) -> Iterator[RawFrame | DataError]:
    """Yield the lines of each frame, or the error in its place, up to where no other is found.

    What follows a frame for which ``parse_raw_frame`` raises ``NothingFollowsError`` means nothing.

    Args:
        file: at its start; never sought in.
        name: of the file, for messages.
    """
    reader = _LineReader(file)
    for index in count():
        raw = reader.next_frame(f"{name}: frame {index}")
        if raw is None:
            return
        yield raw


def parse_raw_frame(raw: RawFrame | DataError, place: str) -> Frame:
    """Return what a frame holds, once what follows it is the next frame or the end of the file.

    Raises:
        DataError: it is no extended XYZ, or ``raw`` is an error.
    """
    if isinstance(raw, DataError):
        raise raw
    try:
        frame = parse_frame(raw.comment, raw.rows, raw.n_rows, place, raw.number)
    except DataError as error:
        if raw.following:
            raise _last_error(str(error)) from error
        raise
    if raw.following and len(raw.following.split()) == len(lines_of(raw.rows)[-1].split()):
        message = (
            f"{place}: line {raw.following_number}: {quoted(raw.following)} follows its "
            f"{raw.n_atoms} atoms, expected the next frame; correct the count (line {raw.number})"
        )
        raise _last_error(message)
    return frame


def _last_error(message: str) -> NothingFollowsError:
    return NothingFollowsError(f"{message} (nothing after it can be read)")


class _LineReader:
    """Reads the lines of frames, with the count line of the next one always at hand."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._number = 0  # of the count line, from 1
        self._count_line = b""
        self._damage: Exception | None = None
        self._find_count_line()

    def next_frame(self, place: str) -> RawFrame | DataError | None:
        """Return the next frame or the error in its place, None at the end."""
        if self._damage:
            return self._damaged(place)
        if not self._count_line:
            return None
        n_atoms, number = _n_atoms(self._count_line), self._number
        if n_atoms is None:
            return self._stop(place)
        try:
            comment, rows = self._file.readline(), _read_rows(self._file, n_atoms)
        except READ_ERRORS as error:
            self._damage = error
            return self._damaged(place)
        self._number += 1 + len(rows)
        self._find_count_line()
        if len(rows) < n_atoms and not self._count_line:
            return DataError(
                f"{place}: the file ends after {len(rows)} of {n_atoms} atoms; get it again, or "
                f"correct the count (line {number})"
            )
        following = b"" if _n_atoms(self._count_line) is not None else self._count_line
        return RawFrame(
            number, n_atoms, comment, b"".join(rows), len(rows), following, self._number
        )

    def _find_count_line(self) -> None:
        """Go to the next line that is not blank."""
        self._count_line = b""
        try:
            for line in iter(lambda: self._file.readline(_MAX_COUNT_LINE), b""):
                self._number += 1
                if line.strip():
                    self._count_line = line
                    return
        except READ_ERRORS as error:
            self._damage = error

    def _stop(self, place: str) -> DataError:
        """Read nothing more; what follows cannot be told apart."""
        found, self._count_line = self._count_line, b""
        return _last_error(
            f"{place}: line {self._number}: {quoted(found)}, expected the number of atoms; "
            "correct it"
        )

    def _damaged(self, place: str) -> DataError:
        reason = self._damage or type(self._damage).__name__
        self._damage, self._count_line = None, b""
        return DataError(f"{place}: the file is damaged or cut off: {reason}; get it again")


def _n_atoms(line: bytes) -> int | None:
    """Return the number on a count line, None if it is no such line."""
    digits = line.removeprefix(_BYTE_ORDER_MARK).strip()
    return int(digits) if digits.isdigit() and len(digits) <= _MAX_DIGITS else None


def _read_rows(file: BinaryIO, n_atoms: int) -> list[bytes]:
    """Return the next ``n_atoms`` lines, fewer where the file or a very long frame ends before."""
    rows = list(islice(file, min(n_atoms, _MAX_UNCHECKED)))
    if len(rows) == _MAX_UNCHECKED:
        width = len(rows[0].split())
        for row in islice(file, n_atoms - len(rows)):
            rows.append(row)
            if len(row.split()) != width:
                break
    return rows
