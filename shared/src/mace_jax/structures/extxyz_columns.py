"""The columns of extended XYZ: what ``Properties`` says, and reading them without the C parser."""

from collections import Counter
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.errors import DataError

_WORDS = {"S": "text", "R": "a number", "I": "an integer", "L": "T or F"}
_TRUTH = {
    **dict.fromkeys(("T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("F", "false", "False", "FALSE"), False),
}


class Column(NamedTuple):
    """Columns of one property: its name, kind (S, R, I or L) and how many columns it has."""

    name: str
    kind: str
    width: int


@lru_cache
def parse_properties(text: str) -> tuple[Column, ...]:
    """Return what ``Properties=`` says, such as ``species:S:1:pos:R:3:forces:R:3``.

    Raises:
        ValueError: it is malformed, or elements or positions are missing.
    """
    parts = text.split(":")
    if len(parts) % 3:
        message = f"{len(parts)} parts, expected name:kind:width for each property"
        raise ValueError(message)
    columns = []
    for name, kind, width in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if not name or kind not in _WORDS or not (width.isdecimal() and 0 < int(width) < 10**6):
            message = f"{name}:{kind}:{width}, expected a name, one of S, R, I, L, and a width"
            raise ValueError(message)
        columns.append(Column(name, kind, int(width)))
    _require_geometry(columns)
    return tuple(columns)


def _require_geometry(columns: list[Column]) -> None:
    counts = Counter(column.name for column in columns)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        message = f"{twice[0]} is named {counts[twice[0]]} times, expected once"
        raise ValueError(message)
    if not (counts["species"] or counts["Z"]):
        message = "no species:S:1 and no Z:I:1, expected the elements of the atoms"
        raise ValueError(message)
    if not counts["pos"]:
        message = "no pos:R:3, expected the positions of the atoms"
        raise ValueError(message)
    for name, kinds, width in (("species", "S", 1), ("Z", "I", 1), ("pos", "RI", 3)):
        for column in columns:
            if column.name == name and (column.kind not in kinds or column.width != width):
                message = f"{':'.join(map(str, column))}, expected {name}:{kinds[0]}:{width}"
                raise ValueError(message)


def read_columns(
    rows: list[bytes], columns: tuple[Column, ...], place: str, number: int
) -> dict[str, NDArray[Any]]:
    """Return the columns by name, ``[n]`` or ``[n, width]``.

    Args:
        rows: a line for each atom.
        columns: what they hold.
        place: ``file: frame k``, for messages.
        number: of the first row in the file, from 1.

    Raises:
        DataError: a row has more or fewer columns or a value of another kind; names the atom.
    """
    width = sum(column.width for column in columns)
    names = ", ".join(column.name for column in columns)
    values: dict[str, list[Any]] = {column.name: [] for column in columns}
    for atom, row in enumerate(rows):
        where = f"{place}: atom {atom} (line {number + atom})"
        fields = row.decode().split()
        if len(fields) != width:
            message = f"{where}: {len(fields)} columns, expected {width} ({names}); correct it"
            raise DataError(message)
        rest = iter(fields)
        for column in columns:
            values[column.name] += [_value(next(rest), column, where) for _ in range(column.width)]
    return {
        column.name: np.array(values[column.name]).reshape(
            (-1, column.width) if column.width > 1 else -1
        )
        for column in columns
    }


def _value(field: str, column: Column, where: str) -> Any:
    try:
        if "_" in field and column.kind in "RI":  # Python's own digit separator
            raise ValueError
        match column.kind:
            case "R":
                return float(field.upper().replace("D", "E"))
            case "I":
                return int(np.int64(int(field)))
            case "L":
                return _TRUTH[field]
        return field
    except (ValueError, KeyError, OverflowError) as error:
        message = f"{where}: {column.name} {field!r}, expected {_WORDS[column.kind]}; correct it"
        raise DataError(message) from error
