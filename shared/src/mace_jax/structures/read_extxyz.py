"""Read structures and labels from extended XYZ.

The C parser of the ``extxyz`` package reads the files it understands, many times faster than ASE;
ASE reads the rest, and every other format that it knows.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.errors import DataError
from mace_jax.structures.label_keys import LabelCounts, LabelKeys, find_label
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure, check_structure
from mace_jax.units import symmetric_matrix

EXTXYZ_SUFFIXES = (".xyz", ".extxyz")


class _Frame(NamedTuple):
    """A frame as its parser left it, before labels are told from other columns."""

    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    info: dict[str, Any]
    arrays: dict[str, Any]
    calculated: dict[str, Any]


def read_structures(
    path: Path,
    keys: LabelKeys | None = None,
    *,
    head: str = "Default",
    inputs: Sequence[str] = (),
) -> tuple[list[Structure], LabelCounts]:
    """Read every frame of a file.

    Args:
        path: extended XYZ, or any file that ASE reads.
        keys: the user's own label keys.
        head: head of the frames that don't name one.
        inputs: names of further columns or entries to keep as ``Structure.inputs``.

    Returns: the structures in file order, and what was found where.

    Raises:
        DataError: the file is missing, empty or unreadable, or a frame is wrong.
    """
    path = Path(path)
    keys = keys or LabelKeys()
    if not path.is_file():
        message = f"{path}: no such file; check the path"
        raise DataError(message)
    structures, counts = [], LabelCounts()
    for index, frame in enumerate(_read_frames(path)):
        place = f"{path}: frame {index}"
        structure = _to_structure(frame, keys, counts, head, place)
        structure = replace(structure, inputs=_inputs(frame, inputs, place))
        check_structure(structure)
        structures.append(structure)
    if not structures:
        message = f"{path}: holds no structures, expected at least one; check the file"
        raise DataError(message)
    return structures, counts


def _read_frames(path: Path) -> list[_Frame]:
    if path.suffix in EXTXYZ_SUFFIXES:
        from extxyz.cextxyz import ExtXYZError

        try:
            return list(_c_parser_frames(path))
        except (ExtXYZError, _NotExtxyzError, UnicodeDecodeError):
            pass  # plain XYZ, or an extension the strict grammar lacks: ASE decides
    return list(_ase_frames(path))


class _NotExtxyzError(Exception):
    """The C parser read the file but cannot say what its columns are."""


def _c_parser_frames(path: Path) -> Iterator[_Frame]:
    from extxyz import cextxyz

    handle = cextxyz.cfopen(str(path), "r")
    try:
        for index in itertools.count():
            rest = _rest_of_file(path, cextxyz.cftell(handle))
            if rest.startswith(b"0"):  # the parser crashes on a frame of no atoms
                message = f"{path}: frame {index}: has no atoms, expected at least one; remove it"
                raise DataError(message)
            try:
                _, info, arrays = cextxyz.read_frame_dicts(handle)
            except EOFError as error:
                if rest:  # the parser doesn't tell the end of the file from the end inside a frame
                    message = f"{path}: frame {index}: the file ends inside it; get the file again"
                    raise DataError(message) from error
                return
            if not {"species", "pos"} <= arrays.keys() or _has_json(info):
                raise _NotExtxyzError
            numbers = _numbers_of(arrays.pop("species"), f"{path}: frame {index}")
            lattice = info.pop("Lattice", None)
            cell, pbc = _cell_and_pbc(lattice, info.pop("pbc", None))
            info.pop("Properties", None)
            yield _Frame(
                numbers,
                np.array(arrays.pop("pos"), dtype=np.float64).reshape(-1, 3),
                cell,
                pbc,
                info,
                arrays,
                {},
            )
    finally:
        cextxyz.cfclose(handle)


def _numbers_of(species: NDArray[Any], place: str) -> NDArray[np.int64]:
    """Return atomic numbers of chemical symbols, capitals or not, as ASE reads them.

    Raises:
        DataError: one is no symbol.
    """
    from ase.data import atomic_numbers

    symbols = [str(name).capitalize() for name in np.atleast_1d(species)]
    for atom, name in enumerate(symbols):
        if name not in atomic_numbers:
            message = (
                f"{place}: atom {atom}: unknown element {name!r}, expected a chemical symbol; "
                "correct it"
            )
            raise DataError(message)
    return np.array([atomic_numbers[name] for name in symbols], dtype=np.int64)


def _rest_of_file(path: Path, start: int) -> bytes:
    """Return the first bytes, blanks left out, of what follows ``start``."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(80).strip()


def _has_json(info: dict[str, Any]) -> bool:
    """Whether a value is ASE's JSON, which the C parser leaves as text."""
    return any(isinstance(value, str) and value.startswith("_JSON") for value in info.values())


def _cell_and_pbc(
    lattice: NDArray[np.float64] | None, pbc: Any
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return cell (rows are vectors) and pbc by ASE's rule: a lattice alone means periodic."""
    if lattice is None:
        cell = np.zeros((3, 3))
    elif isinstance(lattice, str):
        raise _NotExtxyzError
    elif lattice.shape == (9,):
        cell = lattice.reshape(3, 3).astype(np.float64)
    elif lattice.shape == (3, 3):
        cell = lattice.T.astype(np.float64)  # the nested form lists the vectors as columns
    else:
        raise _NotExtxyzError
    if pbc is None:
        pbc = [lattice is not None] * 3
    return cell, np.broadcast_to(np.asarray(pbc, dtype=bool), (3,)).copy()


def _ase_frames(path: Path) -> Iterator[_Frame]:
    from ase.io import iread

    format_name = "extxyz" if path.suffix in EXTXYZ_SUFFIXES else None
    if path.stat().st_size == 0:
        return
    frames = iread(path, index=":", format=format_name)
    for index in itertools.count():
        try:
            atoms = next(frames)
        except StopIteration:
            if format_name == "extxyz":
                _require_all_read(path, index)
            return
        except Exception as error:  # ASE's readers raise whatever the format's author chose
            message = (
                f"{path}: frame {index}: cannot be read ({type(error).__name__}: {error}); "
                "expected extended XYZ; correct the frame"
            )
            raise DataError(message) from error
        results = dict(atoms.calc.results) if atoms.calc is not None else {}
        if format_name == "extxyz":  # ASE moved these columns of the file into a calculator
            atoms.info.update(results)
            results = {}
        yield _Frame(
            atoms.numbers.astype(np.int64),
            atoms.positions,
            np.array(atoms.cell),
            atoms.pbc.copy(),
            atoms.info,
            atoms.arrays,
            results,
        )


def _require_all_read(path: Path, n_frames: int) -> None:
    """Check that nothing follows the last frame; ASE stops at a blank line."""
    with path.open("rb") as file:
        for _ in range(n_frames):
            n_atoms = int(file.readline())
            for _ in range(n_atoms + 1):
                file.readline()
        if file.read().strip():
            message = f"{path}: frame {n_frames}: a blank line stands before it; remove the line"
            raise DataError(message)


def _to_structure(
    frame: _Frame, keys: LabelKeys, counts: LabelCounts, head: str, place: str
) -> Structure:
    counts.n_structures += 1
    counts.seen_keys.update({*frame.info, *frame.arrays, *frame.calculated})
    properties = {}
    for name in PROPERTY_SHAPES:
        label = find_label(name, keys, (frame.info, frame.arrays), frame.calculated)
        if label is None:
            continue
        key, value = label
        properties[name] = _label_array(name, value, f"{place}: {key}")
        counts.found[name, key] += 1
    return Structure(
        frame.atomic_numbers,
        frame.positions,
        frame.cell,
        frame.pbc,
        properties,
        {name: _number(frame.info.get(f"config_{name}_weight", 1.0), place) for name in properties},
        _number(frame.info.get("config_weight", 1.0), place),
        str(frame.info.get("config_type", "Default")),
        str(frame.info.get("head", head)),
        place,
    )


def _inputs(frame: _Frame, names: Sequence[str], place: str) -> dict[str, NDArray[np.float64]]:
    columns = {**frame.arrays, **frame.info}
    found = {}
    for name in names:
        if name not in columns:
            continue
        try:
            found[name] = np.asarray(columns[name], dtype=np.float64)
        except (TypeError, ValueError) as error:
            message = f"{place}: {name} cannot be used: {error}; correct or remove it"
            raise DataError(message) from error
    return found


def _label_array(name: str, value: Any, place: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(value, dtype=np.float64)
        if name in ("stress", "virials", "polarizability"):
            array = symmetric_matrix(array)
    except (TypeError, ValueError) as error:
        message = f"{place}: {name} cannot be used: {error}; correct or remove the label"
        raise DataError(message) from error
    return array


def _number(value: Any, place: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not (np.isfinite(number) and number >= 0):
        message = f"{place}: weight {value!r}, expected a number ≥ 0; correct the weight"
        raise DataError(message)
    return number
