"""One frame of extended XYZ: the values on its comment line and the columns of its atoms.

The C parser of the ``extxyz`` package reads what it understands, which is nearly all. A comment
line that it refuses is read as ASE reads it; columns that it refuses are read number by number:
they hold a NaN, or the error says which atom and column is wrong.
"""

import ctypes
import json
import re
from functools import cache
from typing import Any

import numpy as np

from mace_jax.errors import DataError
from mace_jax.structures.extxyz_columns import Column, parse_properties, read_columns
from mace_jax.structures.extxyz_geometry import atomic_numbers, cell_and_pbc
from mace_jax.structures.frame import Frame, shown

_PROPERTIES = re.compile(rb'(?:^|\s)Properties\s*=\s*(?:"([^"]*)"|(\S+))')
_QUOTED = re.compile(rb'"(?:\\.|[^"\\])*"|\{[^}]*\}|\[[^\]]*\]')
_KEY = re.compile(rb"([^\s=]+)\s*=")
# The C parser's integers have 32 bits.
_LONG_INTEGER = re.compile(rb"(?<![\w.])\d{10,}(?![\w.])")
_CLOSING = {'"': '"', "'": "'", "{": "}", "[": "]"}


class _NotUnderstoodError(Exception):
    """The C parser refuses a line."""


def parse_frame(comment: bytes, rows: bytes, n_rows: int, place: str, number: int) -> Frame:
    """Return what a frame holds.

    Args:
        comment: its comment line.
        rows: a line for each atom, end to end.
        n_rows: how many.
        place: ``file: frame k``, for messages.
        number: of its first line, the count, in the file, from 1.

    Raises:
        DataError: it is no extended XYZ; names the first thing that is wrong.
    """
    if not n_rows:
        message = f"{place}: has no atoms (line {number}), expected at least one; remove the frame"
        raise DataError(message)
    data = b"%d\n%b%b" % (n_rows, comment, rows)
    if not data.isascii() or b"\0" in data:
        _require_text([comment, *lines_of(rows)], place, number)
    columns = _columns(comment, place)
    try:
        info, arrays = _read_fast(data, comment, rows, columns)
    except _NotUnderstoodError:
        info = _read_comment(comment, place)
        arrays = read_columns(lines_of(rows), columns, place, number + 2)
    if len(info) != comment.count(b"="):
        _require_distinct_keys(comment, place)
    info.pop("Properties", None)
    cell, pbc = cell_and_pbc(info, place)
    _decode_json(info, place)
    numbers = atomic_numbers(arrays, place)
    if "charge" in arrays:
        arrays.setdefault("charges", arrays["charge"])  # what ASE calls charges
    positions = arrays.pop("pos").reshape(-1, 3).astype(np.float64)
    return Frame(numbers, positions, cell, pbc, info, arrays, {})


def lines_of(rows: bytes) -> list[bytes]:
    """Return the lines of which the last one may lack its end."""
    return rows.removesuffix(b"\n").split(b"\n")


def quoted(line: bytes) -> str:
    """Return the start of a line for a message."""
    text = line.decode(errors="replace").strip()
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def _require_text(lines: list[bytes], place: str, number: int) -> None:
    for at, line in enumerate(lines, number + 1):
        try:
            if "\0" not in line.decode():
                continue
            what = "a NUL byte"
        except UnicodeDecodeError as error:
            what = f"byte {line[error.start]:#x} at column {error.start + 1}"
        message = f"{place}: line {at}: {what}, expected UTF-8 text; get or save the file again"
        raise DataError(message)


def _columns(comment: bytes, place: str) -> tuple[Column, ...]:
    found = _PROPERTIES.findall(comment)
    if len(found) > 1:
        message = f"{place}: Properties is given {len(found)} times, expected once; correct it"
        raise DataError(message)
    text = b"".join(found[0]).decode() if found else "species:S:1:pos:R:3"
    try:
        return parse_properties(text)
    except ValueError as error:
        message = f"{place}: Properties {text!r}: {error}; correct the comment line"
        raise DataError(message) from error


def _read_fast(
    data: bytes, comment: bytes, rows: bytes, columns: tuple[Column, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    kinds = {column.kind for column in columns}
    if (
        "L" in kinds  # the C parser takes "true" for false
        or len(rows.partition(b"\n")[0].split()) != sum(column.width for column in columns)
        or _LONG_INTEGER.search(data if "I" in kinds else comment)
    ):
        raise _NotUnderstoodError
    if b"=" in comment:
        return _c_parser(data)
    return {}, _c_parser(data, comment="")[1]  # plain XYZ: the comment is a text


def _c_parser(data: bytes, comment: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the C parser finds in one frame, on the comment line and in the columns."""
    from extxyz import cextxyz

    file = _memory_file()(data, len(data), b"r")
    try:
        _, info, arrays = cextxyz.read_frame_dicts(file, comment=comment)
    except (cextxyz.ExtXYZError, EOFError) as error:
        raise _NotUnderstoodError from error
    finally:
        cextxyz.cfclose(file)
    return info, arrays


@cache
def _memory_file() -> Any:
    """Return C's ``fmemopen``: the parser reads from a ``FILE *`` alone."""
    from extxyz import cextxyz

    fmemopen = ctypes.CDLL(None).fmemopen
    fmemopen.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p]
    fmemopen.restype = cextxyz.FILE_ptr
    return fmemopen


def _read_comment(comment: bytes, place: str) -> dict[str, Any]:
    """Return the values of a comment line alone."""
    if b"=" not in comment:
        return {}
    if not _LONG_INTEGER.search(comment):
        try:
            return _c_parser(b"1\n%b\nH 0 0 0\n" % _PROPERTIES.sub(b" ", comment).strip())[0]
        except _NotUnderstoodError:
            pass
    from ase.io.extxyz import key_val_str_to_dict

    text = comment.decode().strip()
    _require_closed_quotes(text, place)
    try:
        return dict(key_val_str_to_dict(text))
    except Exception as error:  # ASE raises whatever comes
        message = f"{place}: comment line: {' '.join(str(error).split())}; correct it"
        raise DataError(message) from error


def _require_closed_quotes(text: str, place: str) -> None:
    """Check that whatever opens is closed; ASE would take the rest of the line for one value."""
    closing, opened = "", 0
    at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif closing:
            closing = "" if text[at] == closing else closing
        elif text[at] in _CLOSING:
            closing, opened = _CLOSING[text[at]], at
        at += 1
    if closing:
        message = (
            f"{place}: comment line: {text[opened : opened + 20]!r} is never closed, expected "
            f"{closing}; close it"
        )
        raise DataError(message)


def _require_distinct_keys(comment: bytes, place: str) -> None:
    keys = _KEY.findall(_QUOTED.sub(b"_", comment))
    for key in keys:
        if keys.count(key) > 1:
            message = (
                f"{place}: {key.decode()} is given {keys.count(key)} times, expected once; "
                "correct the comment line"
            )
            raise DataError(message)


def _decode_json(info: dict[str, Any], place: str) -> None:
    """Replace what ASE wrote as JSON, and the C parser left as text."""
    for key, value in info.items():
        if not (isinstance(value, str) and value.startswith("_JSON")):
            continue
        try:
            info[key] = json.loads(value.removeprefix("_JSON"))
        except ValueError as error:
            message = f"{place}: {key} {shown(value)} is no JSON ({error}); correct or remove it"
            raise DataError(message) from error
