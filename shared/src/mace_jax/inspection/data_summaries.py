"""What data hold: structures, atoms of each element, heads and labels, counted in blocks."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.index import atoms_of_elements, read_index
from mace_jax.elements import symbol
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.read_structures import stream_structures
from mace_jax.structures.structure import PROPERTY_SHAPES
from mace_jax.structures.structure_block import StructureBlock

Summary = dict[str, Any]
_STRIDE = 1024


def dataset_summary(path: Path, *, quick: bool) -> Summary:
    """Return what HDF5 of either layout holds."""
    with Dataset(path) as dataset:
        summary: Summary = {"structures": len(dataset), "layout": dataset.layout}
        if dataset.r_max is not None:
            summary["pairs within, Å"] = dataset.r_max
        return summary if quick else summary | _content_of(dataset)


def _content_of(dataset: Dataset) -> Summary:
    counts = _Counts()
    for start in range(0, len(dataset), _STRIDE):
        counts.add(dataset.read_block(range(start, min(start + _STRIDE, len(dataset)))))
    return counts.summary()


def extxyz_summary(path: Path, *, quick: bool) -> Summary:
    """Return what extended XYZ holds, as tools read it without further flags."""
    if quick:
        return {}
    keys, counts = LabelCounts(), _Counts()
    structures = stream_structures(path, LabelKeys(), keys)
    while block := list(islice(structures, _STRIDE)):
        counts.add(StructureBlock.of(block))
    found: dict[str, list[str]] = {}
    for name, key in sorted(keys.found):
        found.setdefault(name, []).append(key)
    return {"structures": keys.n_structures, **counts.summary(), "label keys": found}


@dataclass
class _Counts:
    """Atoms of each element, structures of each head and with each label."""

    atoms: Counter[int] = field(default_factory=Counter)
    heads: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, block: StructureBlock) -> None:
        numbers, counts = np.unique(block.atomic_numbers, return_counts=True)
        self.atoms.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
        self.heads.update(block.heads)
        self.labels.update({name: int(block.label(name).present.sum()) for name in PROPERTY_SHAPES})

    def summary(self) -> Summary:
        return {
            "atoms": self.atoms.total(),
            "elements": _of_symbols(self.atoms),
            "heads": dict(self.heads),
            "labels": _not_zero(self.labels),
        }


def _of_symbols(atoms: Mapping[int, int]) -> dict[str, int]:
    return {symbol(number): count for number, count in sorted(atoms.items())}


def _not_zero(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def index_summary(path: Path) -> Summary:
    """Return what an index says of its dataset."""
    index = read_index(path)
    table = index.table
    labels = {name: int(np.sum(table[name].to_numpy())) for name in PROPERTY_SHAPES}
    return {
        "structures": index.n_structures,
        "of dataset": index.dataset_name,
        "dataset sha256": index.dataset_sha256,
        "r_max, Å": index.r_max,
        "atoms": int(np.sum(table["n_atoms"].to_numpy())),
        "elements": _of_symbols(atoms_of_elements(index)),
        "edges": int(np.sum(table["n_edges"].to_numpy())),
        "formulas": len(table["formula"].unique()),
        "heads": dict(Counter(table["head"].to_pylist())),
        "labels": _not_zero(labels),
    }
