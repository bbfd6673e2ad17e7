"""Rows of HDF5 arrays: appended in blocks, read in runs of any length, both with few calls."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mace_jax.errors import ArtifactError

_CHUNK_BYTES = 1 << 16


class GrowingArrays:
    """The arrays of a file that is written in blocks; each grows along its first axis."""

    def __init__(self, file: h5py.File, *, only_block: bool) -> None:
        """Start without arrays.

        Args:
            file: open for writing.
            only_block: nothing is appended after the first time, so nothing is kept to grow into.
        """
        self._file = file
        self._only_block = only_block
        self._arrays: dict[str, h5py.Dataset] = {}

    def append(self, name: str, rows: NDArray[Any]) -> None:
        """Append ``rows`` to array ``name``, which is created the first time."""
        if name not in self._arrays:
            self._arrays[name] = self._create(name, rows)
        elif len(rows):
            array = self._arrays[name]
            end = len(array)
            array.resize(end + len(rows), axis=0)
            array[end:] = rows

    def _create(self, name: str, rows: NDArray[Any]) -> h5py.Dataset:
        if self._only_block:
            return self._file.create_dataset(name, data=rows)
        shape = rows.shape[1:]
        row_bytes = rows.dtype.itemsize * int(np.prod(shape))
        chunks = (_CHUNK_BYTES // row_bytes, *shape)
        return self._file.create_dataset(name, data=rows, maxshape=(None, *shape), chunks=chunks)


class Rows:
    """Reads rows of one array; not for several threads at once."""

    def __init__(self, file: h5py.File, name: str, dtype: np.dtype[Any], *shape: int) -> None:
        """Check what the array is.

        Args:
            file: open for reading.
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
        self._id = array.id
        self._space = array.id.get_space()
        self._type = array.id.get_type()  # the file's own, so that nothing is converted
        self._dtype, self._shape = array.dtype, shape
        self._zeros = (0,) * len(shape)
        self._len = len(array)

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
        counts = stops - starts
        rows = np.empty((int(counts.sum()), *self._shape), self._dtype)
        end = 0
        try:
            for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
                if count:
                    block = (count, *self._shape)
                    self._space.select_hyperslab((start, *self._zeros), block)
                    self._id.read(_space(block), self._space, rows[end : end + count], self._type)
                    end += count
        except (OSError, RuntimeError, ValueError) as error:
            message = f"{self._place}: row {start}: {error}; create the dataset again"
            raise ArtifactError(message) from error
        return rows

    def read_all(self) -> NDArray[Any]:
        """Return every row."""
        return self.read(np.zeros(1, np.int64), np.array([self._len]))


@lru_cache(maxsize=1024)
def _space(shape: tuple[int, ...]) -> h5py.h5s.SpaceID:
    return h5py.h5s.create_simple(shape)


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
