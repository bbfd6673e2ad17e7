"""Pack graphs of many sizes into batches under caps on edges, nodes and graphs.

Online best-fit over a shuffled order: every graph goes into the fullest open batch that still
takes it. It comes within a few per cent of the lower bound on edges without tying graph size to
batch, which sorting by size would do.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

_OPEN_BATCHES = 64


def pack_best_fit(
    sizes: NDArray[np.int64], caps: Sequence[int], order: Iterable[int]
) -> list[list[int]]:
    """Pack items into as few bins as best-fit finds.

    Args:
        sizes: ``[n_items, n_kinds]``; the first kind (edges) decides which bin is fullest.
        caps: most of each kind a bin may hold, ``[n_kinds]``; every single item must fit.
        order: in which order items are placed.

    Returns: item ids of each bin, in the order in which bins were opened.
    """
    limits = np.asarray(caps)
    bins: list[list[int]] = []
    used = np.zeros((_OPEN_BATCHES, sizes.shape[1]), dtype=np.int64)
    open_bins = np.full(_OPEN_BATCHES, -1)
    for item in order:
        size = sizes[item]
        fits = (open_bins >= 0) & (used + size <= limits).all(axis=1)
        if fits.any():
            slot = int(np.where(fits, used[:, 0], -1).argmax())
        else:
            slot = _slot_for_new_bin(open_bins, used)
            open_bins[slot] = len(bins)
            used[slot] = 0
            bins.append([])
        bins[open_bins[slot]].append(int(item))
        used[slot] += size
    return bins


def _slot_for_new_bin(open_bins: NDArray[np.int64], used: NDArray[np.int64]) -> int:
    """Return a free slot, or that of the fullest bin, which is closed."""
    free = np.flatnonzero(open_bins < 0)
    return int(free[0]) if free.size else int(used[:, 0].argmax())
