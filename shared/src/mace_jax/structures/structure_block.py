"""Many structures as columns, atoms end to end: one step over a column costs less than many small.

It holds what a dataset stores; ``Structure.inputs`` and ``group`` are not part of it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.elements import MAX_ATOMIC_NUMBER
from mace_jax.structures.neighbor_list import PairList
from mace_jax.structures.pair_block import PairBlock
from mace_jax.structures.ragged import offsets_of, rows_of
from mace_jax.structures.structure import (
    LARGEST,
    PROPERTY_SHAPES,
    Structure,
    check_structure,
    has_shapes,
    possible_cells,
)

_COLUMN = {name: column for column, name in enumerate(PROPERTY_SHAPES)}


def is_per_atom(name: str) -> bool:
    """Return whether a label has a row for each atom, and not one for the structure."""
    return "n" in PROPERTY_SHAPES[name]


def row_shape(name: str) -> tuple[int, ...]:
    """Return the shape of a row of a label."""
    return tuple(size for size in PROPERTY_SHAPES[name] if isinstance(size, int))


class Label(NamedTuple):
    """One label of a block.

    Attributes:
        present: which structures have it, bool ``[n]``.
        values: of those, end to end: a row for each structure or atom.
    """

    present: NDArray[np.bool_]
    values: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StructureBlock:
    """Structures in order; fields as of ``Structure``, ``n`` structures and ``N`` atoms in all.

    Attributes:
        n_atoms: int64 ``[n]``.
        atomic_numbers: int64 ``[N]``.
        positions: Å, ``[N, 3]``.
        cells: Å, ``[n, 3, 3]``.
        pbc: bool ``[n, 3]``.
        labels: those that some structure has, in the order of ``PROPERTY_SHAPES``.
        property_weights: ``[n, 7]`` in the order of ``PROPERTY_SHAPES``; 0 where there is no label.
        weights: ``[n]``.
        config_types, heads, places: one a structure.
        pairs: of neighbours, where they are known.
    """

    n_atoms: NDArray[np.int64]
    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cells: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    labels: Mapping[str, Label]
    property_weights: NDArray[np.float64]
    weights: NDArray[np.float64]
    config_types: Sequence[str]
    heads: Sequence[str]
    places: Sequence[str]
    pairs: PairBlock | None = None

    def __len__(self) -> int:
        """Return the number of structures."""
        return len(self.n_atoms)

    @classmethod
    def of(
        cls, structures: Sequence[Structure], pairs: Sequence[PairList] | None = None
    ) -> "StructureBlock":
        """Return structures, whose arrays have the shapes that they must have, as a block."""
        names = {name for structure in structures for name in structure.properties}
        return cls(
            np.array([len(structure) for structure in structures], np.int64),
            _joined([s.atomic_numbers for s in structures], np.int64),
            _joined([s.positions for s in structures], np.float64, 3),
            np.array([s.cell for s in structures], np.float64).reshape(-1, 3, 3),
            np.array([s.pbc for s in structures], np.bool_).reshape(-1, 3),
            {name: _label(name, structures) for name in PROPERTY_SHAPES if name in names},
            _property_weights(structures),
            np.array([s.weight for s in structures], np.float64),
            [s.config_type for s in structures],
            [s.head for s in structures],
            [s.place for s in structures],
            None if pairs is None else PairBlock.of(pairs),
        )

    def label(self, name: str) -> Label:
        """Return a label, which perhaps no structure has."""
        nothing = Label(np.zeros(len(self), np.bool_), np.zeros((0, *row_shape(name))))
        return self.labels.get(name, nothing)

    def structures(self) -> list[Structure]:
        """Return the structures one by one; their arrays are views of this block's."""
        ends = offsets_of(self.n_atoms).tolist()
        labels = self._labels_one_by_one(ends)
        weights = self.property_weights.tolist()
        fields = zip(self.weights.tolist(), self.config_types, self.heads, self.places, strict=True)
        found = []
        for k, (weight, config_type, head, place) in enumerate(fields):
            atoms = slice(ends[k], ends[k + 1])
            found.append(
                Structure(
                    self.atomic_numbers[atoms],
                    self.positions[atoms],
                    self.cells[k],
                    self.pbc[k],
                    labels[k],
                    {name: weights[k][_COLUMN[name]] for name in labels[k]},
                    weight,
                    config_type,
                    head,
                    place,
                )
            )
        return found

    def _labels_one_by_one(self, ends: list[int]) -> list[dict[str, NDArray[np.float64]]]:
        found: list[dict[str, NDArray[np.float64]]] = [{} for _ in range(len(self))]
        for name, label in self.labels.items():
            row = 0
            for k in np.flatnonzero(label.present).tolist():
                if is_per_atom(name):
                    first, row = row, row + ends[k + 1] - ends[k]
                    found[k][name] = label.values[first:row]
                else:
                    found[k][name] = label.values[row, ...]
                    row += 1
        return found

    def take(self, numbers: NDArray[np.int64] | slice) -> "StructureBlock":
        """Return some of the structures, in the order of ``numbers``."""
        every = np.arange(len(self))
        numbers = every[numbers]
        if np.array_equal(numbers, every):
            return self
        atoms = rows_of(offsets_of(self.n_atoms)[numbers], self.n_atoms[numbers])
        labels = {name: self._take_label(name, numbers) for name in self.labels}
        picked = numbers.tolist()
        return StructureBlock(
            self.n_atoms[numbers],
            self.atomic_numbers[atoms],
            self.positions[atoms],
            self.cells[numbers],
            self.pbc[numbers],
            {name: label for name, label in labels.items() if label.present.any()},
            self.property_weights[numbers],
            self.weights[numbers],
            [self.config_types[k] for k in picked],
            [self.heads[k] for k in picked],
            [self.places[k] for k in picked],
            self.pairs and self.pairs.take(numbers),
        )

    def _take_label(self, name: str, numbers: NDArray[np.int64]) -> Label:
        label = self.labels[name]
        counts = label.present * (self.n_atoms if is_per_atom(name) else 1)
        rows = rows_of(offsets_of(counts)[numbers], counts[numbers])
        return Label(label.present[numbers], label.values[rows])


def joined(blocks: Sequence[StructureBlock]) -> StructureBlock:
    """Return all structures of some blocks; of each, or of none, pairs are known."""
    if len(blocks) == 1:
        return blocks[0]

    def rows(column: str) -> NDArray[Any]:
        return np.concatenate([getattr(block, column) for block in blocks])

    def texts(column: str) -> list[str]:
        return [text for block in blocks for text in getattr(block, column)]

    def label(name: str) -> Label:
        found = [block.label(name) for block in blocks]
        return Label(
            np.concatenate([one.present for one in found]),
            np.concatenate([one.values for one in found]),
        )

    names = {name for block in blocks for name in block.labels}
    known = [block.pairs for block in blocks if block.pairs is not None]
    return StructureBlock(
        rows("n_atoms"),
        rows("atomic_numbers"),
        rows("positions"),
        rows("cells"),
        rows("pbc"),
        {name: label(name) for name in PROPERTY_SHAPES if name in names},
        rows("property_weights"),
        rows("weights"),
        texts("config_types"),
        texts("heads"),
        texts("places"),
        PairBlock(*map(np.concatenate, zip(*known, strict=True))) if known else None,
    )


def blocks_of(structures: Iterable[Structure], size: int = 256) -> Iterator[StructureBlock]:
    """Yield ``size`` structures at a time."""
    rest = iter(structures)
    while some := list(islice(rest, size)):
        yield StructureBlock.of(some)


def check_block(block: StructureBlock) -> None:
    """Check what ``check_structure`` does, of all at once.

    Raises:
        DataError: as ``check_structure``, of the first structure that is wrong.
    """
    if not is_sound(block):
        for structure in block.structures():
            check_structure(structure)


def check_structures(structures: Sequence[Structure]) -> None:
    """Check each structure, all at once.

    Raises:
        DataError: as ``check_structure``, of the first structure that is wrong.
    """
    if not (all(map(has_shapes, structures)) and is_sound(StructureBlock.of(structures))):
        for structure in structures:
            check_structure(structure)


def block_digests(block: StructureBlock) -> list[str]:
    """Return ``structure_digest`` of each structure."""
    ends = offsets_of(block.n_atoms).tolist()
    numbers, positions, cells, pbc = (
        np.ascontiguousarray(array, kind)
        for array, kind in (
            (block.atomic_numbers, "<i8"),
            (block.positions + 0.0, "<f8"),  # -0.0 is 0.0
            (block.cells + 0.0, "<f8"),
            (block.pbc, "|b1"),
        )
    )
    found = []
    for k, (start, end) in enumerate(pairwise(ends)):
        digest = hashlib.blake2b(numbers[start:end].tobytes(), digest_size=16)
        for array in (positions[start:end], cells[k], pbc[k]):
            digest.update(array.tobytes())
        found.append(digest.hexdigest())
    return found


def is_sound(block: StructureBlock) -> bool:
    """Return whether all numbers and cells are as ``check_structure`` wants them."""
    reals = (block.positions, block.cells, *(label.values for label in block.labels.values()))
    weights = (block.weights, block.property_weights)
    return (
        bool((block.n_atoms > 0).all())
        and all(bool((np.abs(array) <= LARGEST).all()) for array in reals)
        and all(bool(((array >= 0) & (array <= LARGEST)).all()) for array in weights)
        and bool(((block.atomic_numbers > 0) & (block.atomic_numbers <= MAX_ATOMIC_NUMBER)).all())
        and bool(possible_cells(block.cells, block.pbc).all())
    )


def _joined(arrays: Sequence[NDArray[Any]], dtype: Any, *shape: int) -> NDArray[Any]:
    return np.concatenate([np.empty((0, *shape), dtype), *arrays], dtype=dtype, casting="unsafe")


def _label(name: str, structures: Sequence[Structure]) -> Label:
    values = [s.properties[name] for s in structures if name in s.properties]
    rows = values if is_per_atom(name) else [np.asarray(value)[None] for value in values]
    present = np.array([name in structure.properties for structure in structures])
    return Label(present, _joined(rows, np.float64, *row_shape(name)))


def _property_weights(structures: Sequence[Structure]) -> NDArray[np.float64]:
    weights = np.zeros((len(structures), len(PROPERTY_SHAPES)))
    for row, structure in zip(weights, structures, strict=True):
        for name in structure.properties:
            row[_COLUMN[name]] = structure.property_weights.get(name, 1.0)
    return weights
