"""Extended XYZ as a stream: where each frame begins and ends.

A frame is a line with the number of atoms, a comment line, and one line an atom. That it ends where
its count says is checked on the line after it, so that a wrong count never makes a good frame.
"""

from collections.abc import Iterator
from itertools import count, islice
from typing import BinaryIO

from mace_jax.errors import DataError
from mace_jax.structures.extxyz_parser import parse_frame, quoted
from mace_jax.structures.frame import Frame
from mace_jax.structures.input_files import READ_ERRORS

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_DIGITS = 18
# A count is a few bytes; in a file that is no text the first line may be all of it.
_MAX_COUNT_LINE = 1000
# Of a longer frame every line is looked at, so that a wrong count doesn't swallow the file.
_MAX_UNCHECKED = 100_000


def extxyz_frames(file: BinaryIO, name: str) -> Iterator[Frame | DataError]:
    """Yield each frame, or the error in its place; stop where the next one cannot be found.

    Args:
        file: at its start; never sought in.
        name: of the file, for messages.
    """
    reader = _LineReader(file)
    for index in count():
        frame = reader.next_frame(f"{name}: frame {index}")
        if frame is None:
            return
        yield frame


class _LineReader:
    """Reads frames, with the count line of the next one always at hand."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._number = 0  # of the count line, from 1
        self._count_line = b""
        self._damage: Exception | None = None
        self._find_count_line()

    def next_frame(self, place: str) -> Frame | DataError | None:
        """Return the next frame or the error in its place, None at the end."""
        if self._damage:
            return self._damaged(place)
        if not self._count_line:
            return None
        n_atoms, number = _n_atoms(self._count_line), self._number
        if n_atoms is None:
            return self._stop(
                f"{place}: line {number}: {quoted(self._count_line)}, expected the number of "
                "atoms; correct it"
            )
        try:
            comment, rows = self._file.readline(), _read_rows(self._file, n_atoms)
        except READ_ERRORS as error:
            self._damage = error
            return self._damaged(place)
        self._number += 1 + len(rows)
        self._find_count_line()
        return self._checked(comment, rows, n_atoms, number, place)

    def _checked(
        self, comment: bytes, rows: list[bytes], n_atoms: int, number: int, place: str
    ) -> Frame | DataError:
        """Return the frame, once what follows it is the next frame or the end of the file."""
        following = self._count_line
        if len(rows) < n_atoms and not following:
            return DataError(
                f"{place}: the file ends after {len(rows)} of {n_atoms} atoms; get it again, or "
                f"correct the count (line {number})"
            )
        try:
            frame = parse_frame(comment, rows, place, number)
        except DataError as error:
            if following and _n_atoms(following) is None:
                return self._stop(str(error))
            return error
        if _n_atoms(following) is None and len(following.split()) == len(rows[-1].split()):
            return self._stop(
                f"{place}: line {self._number}: {quoted(following)} follows its {n_atoms} atoms, "
                f"expected the next frame; correct the count (line {number})"
            )
        return frame

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

    def _stop(self, message: str) -> DataError:
        """Read nothing more; what follows cannot be told apart."""
        self._count_line = b""
        return DataError(f"{message} (nothing after it can be read)")

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
