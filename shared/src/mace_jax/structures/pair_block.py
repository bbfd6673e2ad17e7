"""Pairs of neighbours of many structures, end to end."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.structures.neighbor_list import PairList
from mace_jax.structures.ragged import offsets_of, rows_of


class PairBlock(NamedTuple):
    """The pairs of each structure as in ``PairList``, end to end.

    Attributes:
        n_pairs: int64 ``[n]``.
        senders, receivers: int32 ``[n_pair]``, atoms of the structure from 0.
        shifts: int32 ``[n_pair, 3]``.
    """

    n_pairs: NDArray[np.int64]
    senders: NDArray[np.int32]
    receivers: NDArray[np.int32]
    shifts: NDArray[np.int32]

    @classmethod
    def of(cls, pairs: Sequence[PairList]) -> "PairBlock":
        """Return the pairs of each structure as a block."""
        nothing = PairList(np.empty(0, np.int32), np.empty(0, np.int32), np.empty((0, 3), np.int32))
        columns = map(np.concatenate, zip(nothing, *pairs, strict=True))
        return cls(np.array([len(one.senders) for one in pairs], np.int64), *columns)

    def one_by_one(self) -> list[PairList]:
        """Return the pairs of each structure; views of this block's arrays."""
        ends = offsets_of(self.n_pairs).tolist()
        return [
            PairList(*(column[start:end] for column in self[1:])) for start, end in pairwise(ends)
        ]

    def count_neighbors(self, n_atoms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the edges that each atom of each structure receives, ``[sum of n_atoms]``."""
        first = np.repeat(offsets_of(n_atoms)[:-1], self.n_pairs)
        ends = np.concatenate([self.receivers + first, self.senders + first])
        return np.bincount(ends, minlength=int(n_atoms.sum()))

    def take(self, numbers: NDArray[np.int64]) -> "PairBlock":
        """Return the pairs of some of the structures, in the order of ``numbers``."""
        rows = rows_of(offsets_of(self.n_pairs)[numbers], self.n_pairs[numbers])
        return PairBlock(self.n_pairs[numbers], *(column[rows] for column in self[1:]))
