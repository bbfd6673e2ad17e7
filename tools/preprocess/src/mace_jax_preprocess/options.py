"""What the command line asks for, in the words of the library."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mace_jax.elements import sorted_elements, species_index
from mace_jax.preparation.sources import Source
from mace_jax.preparation.splits import ByGeometry, ByGroup, Fractions, SplitName
from mace_jax.preparation.write_split import Form, Layout
from mace_jax.structures.label_keys import LabelKeys
from mace_jax.structures.statistics import Scaling
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure
from mace_jax.structures.structure_block import StructureBlock

TOOL = "mace-jax-preprocess"
_SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class Options:
    """The flags; names as there. ``part`` is (i, n) with i counted from 0."""

    train_file: tuple[Path, ...]
    valid_file: tuple[Path, ...]
    test_file: tuple[Path, ...]
    valid_fraction: float
    test_fraction: float
    split: Literal["random", "hash", "group"]
    h5_prefix: Path
    layout: Layout
    store_edges: bool
    r_max: float
    compute_statistics: bool
    scaling: Scaling
    atomic_numbers: tuple[int, ...] | None
    e0s: str | None
    shuffle: bool
    seed: int
    num_process: int
    batch_size: int
    work_dir: Path | None
    config_type_weights: Mapping[str, float]
    keys: LabelKeys
    heads: Mapping[str, Mapping[str, Any]]
    skip_bad: int
    close_fraction: float
    part: tuple[int, int] | None
    force: bool
    reproducible: bool

    @property
    def folder(self) -> Path:
        """Return where the output goes: the prefix, or the folder of a part of several below it."""
        if self.part is None:
            return self.h5_prefix
        return self.h5_prefix / "parts" / f"{self.part[0] + 1}of{self.part[1]}"

    def e0s_of_heads(self) -> str | None:
        """Return ``e0s``, or those of each head as one dict literal."""
        of_heads = {head: files["E0s"] for head, files in self.heads.items() if "E0s" in files}
        return repr(of_heads) if of_heads else self.e0s

    def keys_of_heads(self) -> dict[str, LabelKeys]:
        """Return the label keys of the files of each head that has some of its own."""
        own = {
            head: {name: files[f"{name}_key"] for name in PROPERTY_SHAPES if f"{name}_key" in files}
            for head, files in self.heads.items()
        }
        return {
            head: replace(self.keys, given={**self.keys.given, **given})
            for head, given in own.items()
            if given
        }

    def sources(self) -> list[Source]:
        """Return the files to read, those of heads after those of none."""
        sources = [
            Source(path, split) for split in _SPLITS for path in getattr(self, f"{split}_file")
        ]
        for head, files in self.heads.items():
            sources += [
                Source(path, split, head)
                for split in _SPLITS
                for path in files.get(f"{split}_file", ())
            ]
        return sources

    def given_splits(self) -> set[str]:
        """Return the splits that have files of their own."""
        return {source.split for source in self.sources()}

    def fractions(self) -> Fractions:
        """Return what is taken from the training data; nothing where a file is given."""
        given = self.given_splits()
        return Fractions(
            0.0 if "valid" in given else self.valid_fraction,
            0.0 if "test" in given else self.test_fraction,
        )

    def split_of(self) -> Callable[[Structure], SplitName] | None:
        """Return the rule that each structure is divided by; None if that is by chance."""
        match self.split:
            case "hash":
                return ByGeometry(self.fractions())
            case "group":
                return ByGroup(self.fractions())
        return None

    def adapted(self, block: StructureBlock) -> StructureBlock:
        """Return structures with the weights of their config types.

        Raises:
            DataError: one has an element that is not among ``atomic_numbers``.
        """
        if self.atomic_numbers and not np.isin(block.atomic_numbers, self.atomic_numbers).all():
            for structure in block.structures():
                elements = sorted_elements(self.atomic_numbers)
                species_index(structure.atomic_numbers, elements, structure.place)
        factors = [self.config_type_weights.get(name, 1.0) for name in block.config_types]
        return replace(block, weights=block.weights * factors)

    def form(self) -> Form:
        """Return how splits are written."""
        return Form(self.layout, self.r_max, self.store_edges, self.batch_size)
