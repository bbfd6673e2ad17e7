"""Items of different lengths, end to end in one array."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def offsets_of(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Return where items of so many rows start, and where the last one ends, ``[n + 1]``."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def rows_of(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of ``counts[0]`` rows from ``starts[0]``, then those of the next item."""
    offsets = offsets_of(counts)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
