"""The neighbours of many structures at once.

Small molecules, which most training sets are made of, are searched all together by comparing every
two atoms of each; that costs a tenth of one search a structure.
"""

import numpy as np

from mace_jax.structures.neighbor_list import SAME_PLACE, neighbor_pairs
from mace_jax.structures.pair_block import PairBlock
from mace_jax.structures.ragged import offsets_of, rows_of
from mace_jax.structures.structure_block import StructureBlock, check_block

# Atoms of the largest molecule for which comparing all is faster than a search.
_SMALL = 64


def block_pairs(block: StructureBlock, r_max: float) -> PairBlock:
    """Return what ``neighbor_pairs`` does, of every structure.

    Raises:
        DataError: as ``neighbor_pairs``, or a position is no finite number.
    """
    is_small = (block.n_atoms <= _SMALL) & ~block.pbc.any(axis=1)
    if is_small.all():
        return _compared(block, r_max)
    small = np.flatnonzero(is_small)
    pairs = dict(zip(small.tolist(), _compared(block.take(small), r_max).one_by_one(), strict=True))
    large = np.flatnonzero(~is_small)
    for number, structure in zip(large.tolist(), block.take(large).structures(), strict=True):
        pairs[number] = neighbor_pairs(structure, r_max)
    return PairBlock.of([pairs[number] for number in range(len(block))])


def _compared(block: StructureBlock, r_max: float) -> PairBlock:
    """Compare each atom with those after it in the same molecule."""
    if not np.isfinite(block.positions).all():
        check_block(block)  # no number is near another
    starts = offsets_of(block.n_atoms)
    atoms = np.arange(starts[-1])
    n_after = np.repeat(starts[1:], block.n_atoms) - atoms - 1
    receivers, senders = np.repeat(atoms, n_after), rows_of(atoms + 1, n_after)
    x, y, z = (column[receivers] - column[senders] for column in block.positions.T.copy())
    squares = x * x + y * y + z * z
    if squares.size and squares.min() < SAME_PLACE**2:
        for structure in block.structures():
            neighbor_pairs(structure, r_max)
    near = np.flatnonzero(squares < r_max * r_max)
    receivers, senders = receivers[near], senders[near]
    n_pairs = np.diff(np.searchsorted(receivers, starts))
    first = np.repeat(starts[:-1], n_pairs)
    return PairBlock(
        n_pairs,
        (senders - first).astype(np.int32),
        (receivers - first).astype(np.int32),
        np.zeros((len(near), 3), np.int32),
    )
