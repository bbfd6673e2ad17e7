"""Input files: named by patterns, opened plain or compressed; standard input."""

import bz2
import glob
import gzip
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

from mace_jax.errors import DataError

STANDARD_INPUT = Path("-")

# What the readers of compressed data raise when it is damaged.
READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)


def expand_inputs(patterns: Sequence[Path]) -> list[Path]:
    """Return the files that ``patterns`` name, in that order, those of one pattern by name.

    Args:
        patterns: paths, glob patterns (``**`` descends into folders), or ``-`` for standard input.

    Raises:
        DataError: a pattern names no file, or a file is named twice.
    """
    named_by: dict[Path, Path] = {}
    paths = []
    for pattern in patterns:
        for path in _matches(pattern):
            file = path.resolve()
            if file in named_by:
                message = f"{path}: named twice, by {named_by[file]} and {pattern}; name it once"
                raise DataError(message)
            named_by[file] = pattern
            paths.append(path)
    return paths


def _matches(pattern: Path) -> list[Path]:
    if pattern == STANDARD_INPUT or pattern.exists():  # a name may hold brackets of its own
        return [pattern]
    found = sorted(Path(name) for name in glob.glob(str(pattern), recursive=True))  # noqa: PTH207
    if not found:
        kind = "no file matches" if glob.has_magic(str(pattern)) else "no such file"
        message = f"{pattern}: {kind}; check the path"
        raise DataError(message)
    return found


def input_name(path: Path) -> str:
    """Return what messages call ``path``."""
    return "standard input" if path == STANDARD_INPUT else str(path)


@contextmanager
def open_input(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading from its start to its end, and unpack it if it is compressed.

    A file is unpacked as its suffix says; standard input and pipes, which have none, as their first
    bytes say.

    Raises:
        DataError: there is no such file, or it cannot be opened.
    """
    if path == STANDARD_INPUT:
        yield _unpacked(cast(BufferedReader, sys.stdin.buffer))
        return
    require_file(path)
    try:
        file = path.open("rb")
    except OSError as error:
        message = f"{path}: cannot be opened ({error.strerror}); check the path and its permissions"
        raise DataError(message) from error
    with file:
        unpack = _UNPACKERS.get(path.suffix)
        if unpack:
            yield unpack(file)
        else:
            yield file if path.is_file() else _unpacked(file)


def require_file(path: Path) -> None:
    """Check that ``path`` is there and no folder.

    Raises:
        DataError: it is not.
    """
    if path.is_dir():
        message = f"{path}: is a folder, expected a file; name the files in it"
        raise DataError(message)
    if not path.exists():
        message = f"{path}: no such file; check the path"
        raise DataError(message)


def without_compression(path: Path) -> Path:
    """Return ``path`` without the suffix of its compression."""
    return path.with_suffix("") if path.suffix in _UNPACKERS else path


def _unpacked(file: BufferedReader) -> BinaryIO:
    start = file.peek(8)
    for magic, suffix in _MAGIC.items():
        if start.startswith(magic):
            return _UNPACKERS[suffix](file)
    return file


def _zstd(file: BinaryIO) -> BinaryIO:
    import pyarrow as pa

    unpacked = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
    return BufferedReader(cast(Any, unpacked))


_UNPACKERS: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    ".gz": lambda file: cast(BinaryIO, gzip.GzipFile(fileobj=file)),
    ".bz2": lambda file: cast(BinaryIO, bz2.BZ2File(file)),
    ".xz": lambda file: cast(BinaryIO, lzma.LZMAFile(file)),  # noqa: SIM115
    ".zst": _zstd,
}
_MAGIC = {
    b"\x1f\x8b": ".gz",
    b"BZh": ".bz2",
    b"\xfd7zXZ\x00": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
}
