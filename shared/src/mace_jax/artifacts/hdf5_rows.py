"""Rows of HDF5 arrays: appended in chunks, read in runs of any length from the mapped file.

HDF5 takes ten times as long to read some rows as the rows take to copy, so it is asked once where
they are.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from mace_jax.errors import ArtifactError
from mace_jax.structures.ragged import rows_of

_CHUNK_BYTES = 1 << 18  # HDF5 takes more than 1 kB of memory for each chunk


class GrowingArrays:
    """The arrays of a file, appended to until ``finish``; each grows along its first axis.

    Whole chunks go to the file as they are, without the calls that find and cache them; an array
    of less than one chunk is stored in one piece.
    """

    def __init__(self, file: h5py.File) -> None:
        """Start without arrays in ``file``, which is open for writing."""
        self._file = file
        self._arrays: dict[str, _Growing] = {}

    def append(self, name: str, rows: NDArray[Any]) -> None:
        """Append ``rows`` to array ``name``, which is created the first time."""
        if name not in self._arrays:
            self._arrays[name] = _Growing(self._file, name, rows)
        self._arrays[name].append(rows)

    def finish(self) -> None:
        """Write what is left."""
        for array in self._arrays.values():
            array.finish()


class _Growing:
    """One array, and its rows that do not fill a chunk yet."""

    def __init__(self, file: h5py.File, name: str, like: NDArray[Any]) -> None:
        self._file, self._name = file, name
        self._rest = like[:0]
        self._chunk = _CHUNK_BYTES // (like.dtype.itemsize * math.prod(like.shape[1:]))
        self._array: h5py.Dataset | None = None

    def append(self, rows: NDArray[Any]) -> None:
        rows = np.concatenate([self._rest, rows])
        whole = len(rows) // self._chunk * self._chunk
        for start in range(0, whole, self._chunk):
            self._write_chunk(rows[start : start + self._chunk])
        self._rest = rows[whole:]

    def _write_chunk(self, rows: NDArray[Any]) -> None:
        if self._array is None:
            shape = rows.shape[1:]
            self._array = self._file.create_dataset(
                self._name, (0, *shape), rows.dtype, maxshape=(None, *shape), chunks=rows.shape
            )
        array = self._array.id
        start = array.shape[0]
        array.set_extent((start + len(rows), *rows.shape[1:]))
        array.write_direct_chunk((start, *[0] * (rows.ndim - 1)), rows.tobytes())

    def finish(self) -> None:
        if self._array is None:
            self._file.create_dataset(self._name, data=self._rest)
        elif len(self._rest):
            start = len(self._array)
            self._array.resize(start + len(self._rest), axis=0)
            self._array[start:] = self._rest


class Rows:
    """Reads rows of one array."""

    def __init__(
        self,
        file: h5py.File,
        mapped: NDArray[np.uint8],
        name: str,
        dtype: np.dtype[Any],
        *shape: int,
    ) -> None:
        """Check what the array is and find out where its chunks are.

        Args:
            file: open for reading.
            mapped: its bytes.
            name: of the array.
            dtype: what it must hold.
            shape: what a row must be.

        Raises:
            ArtifactError: it is missing or something else.
        """
        array = file.get(name)
        if not isinstance(array, h5py.Dataset):
            message = f"{file.filename}: {name}: missing, expected an array; create it again"
            raise ArtifactError(message)
        if array.dtype != dtype or array.shape[1:] != shape or array.ndim != 1 + len(shape):
            message = (
                f"{file.filename}: {name}: {array.dtype} {array.shape}, expected {dtype} "
                f"{('n', *shape)}; create it again"
            )
            raise ArtifactError(message)
        self._place = f"{file.filename}: {name}"
        self._dtype, self._shape, self._len = array.dtype, shape, len(array)
        self._row_bytes = dtype.itemsize * math.prod(shape)
        self._chunk_rows, self._addresses = _chunks(array, self._place)
        places = len(mapped) - self._row_bytes + 1
        row = np.dtype((np.void, self._row_bytes))
        self._row_at = np.ndarray((places,), row, mapped, strides=(1,))  # at every address

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._len

    def require_length(self, expected: int) -> None:
        """Check the number of rows.

        Raises:
            ArtifactError: it is another one.
        """
        if self._len != expected:
            message = f"{self._place}: {self._len} rows, expected {expected}; create it again"
            raise ArtifactError(message)

    def read(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[Any]:
        """Return rows ``starts[0]:stops[0]``, then ``starts[1]:stops[1]``, … as one array.

        Raises:
            ArtifactError: the file is damaged there.
        """
        numbers = rows_of(starts, stops - starts)
        chunks, inside = np.divmod(numbers, self._chunk_rows)
        try:
            rows = self._row_at[self._addresses[chunks] + inside * self._row_bytes]
        except IndexError as error:
            message = f"{self._place}: {error}; create the dataset again"
            raise ArtifactError(message) from error
        return rows.view(self._dtype).reshape(-1, *self._shape)

    def read_all(self) -> NDArray[Any]:
        """Return every row, a chunk at a time; errors as of ``read``."""
        found = np.empty(self._len, self._row_at.dtype)
        for first, address in enumerate(self._addresses.tolist()):
            rows = found[first * self._chunk_rows :][: self._chunk_rows]
            stored = self._row_at[address :: self._row_bytes][: len(rows)]
            if len(stored) < len(rows):
                message = f"{self._place}: ends before its last row; create the dataset again"
                raise ArtifactError(message)
            rows[:] = stored
        return found.view(self._dtype).reshape(-1, *self._shape)


def _chunks(array: h5py.Dataset, place: str) -> tuple[int, NDArray[np.int64]]:
    """Return the rows of a chunk, and the address of each chunk in the file.

    Raises:
        ArtifactError: the array is compressed, or a part of it was never written.
    """
    found = {}
    if array.chunks is None:
        rows = max(len(array), 1)
        if array.id.get_offset() is not None:
            found[0] = array.id.get_offset()
    else:
        rows = array.chunks[0]
        array.id.chunk_iter(
            lambda chunk: found.update({chunk.chunk_offset[0] // rows: chunk.byte_offset})
        )
    expected = -(-len(array) // rows)
    if array.id.get_create_plist().get_nfilters() or sorted(found) != list(range(expected)):
        message = (
            f"{place}: {len(found)} chunks, expected {expected} that are neither compressed nor "
            "missing; create it again"
        )
        raise ArtifactError(message)
    return rows, np.array([found[index] for index in range(expected)], np.int64)


class Ragged(NamedTuple):
    """An array with some rows for each item: from ``offsets[i]`` to ``offsets[i + 1]``.

    Without offsets every item has one row.
    """

    rows: Rows
    offsets: NDArray[np.int64] | None

    def counts(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many rows each item has."""
        starts, stops = self._ends(numbers)
        return stops - starts

    def read(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Return the rows of items, end to end; errors as of ``Rows.read``."""
        return self.rows.read(*self._ends(numbers))

    def _ends(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self.offsets is None:
            return numbers, numbers + 1
        return self.offsets[numbers], self.offsets[numbers + 1]


def read_names(file: h5py.File, name: str) -> list[str]:
    """Return an array of texts.

    Raises:
        ArtifactError: it is missing or something else.
    """
    try:
        (n,) = file[name].shape
        return [str(text) for text in file[name].asstr()[:n]]
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        message = f"{file.filename}: {name}: {error}; create the dataset again"
        raise ArtifactError(message) from error


def write_names(file: h5py.File, name: str, codes: Mapping[str, int]) -> None:
    """Write the keys of ``codes``, whose values count from 0."""
    file.create_dataset(name, data=list(codes), shape=(len(codes),), dtype=h5py.string_dtype())
