"""A first pass over the data: which structures may be chosen, at a few bytes each."""

import logging
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import gcd

import numpy as np
from numpy.typing import NDArray

from mace_jax.elements import sorted_elements
from mace_jax.errors import DataError
from mace_jax.preparation.skipped import Skipped
from mace_jax.preparation.sources import Source, report_source, unparsed_frames
from mace_jax.structures.isolated_atoms import is_isolated_atom
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.read_structures import parse_frames
from mace_jax.structures.structure import Structure
from mace_jax_preprocess.choosing import ElementMeans
from mace_jax_preprocess.element_filter import ElementFilter, symbols
from mace_jax_preprocess.model_descriptors import Describe

log = logging.getLogger(__name__)

_BLOCK = 1024  # structures that are described at once


@dataclass(frozen=True)
class Reading:
    """How files are read.

    Attributes:
        keys: where labels are.
        inputs: names of further entries or columns that are kept.
        skipped: told of frames that are wrong.
    """

    keys: LabelKeys
    inputs: Sequence[str]
    skipped: Skipped


@dataclass
class Candidates:
    """Structures that may be chosen, in the order of the files.

    Attributes:
        source, frame: which file each is from, and its number there.
        composition: number of the composition of each; supercells share one.
        means: what the model sees of each, if it was asked.
        n_read: structures that were read.
        n_isolated: of these, isolated atoms, which only give E0s.
        elements: that occur in any structure.
    """

    source: "array[int]" = field(default_factory=lambda: array("i"))
    frame: "array[int]" = field(default_factory=lambda: array("q"))
    composition: "array[int]" = field(default_factory=lambda: array("i"))
    means: ElementMeans = field(default_factory=ElementMeans)
    n_read: int = 0
    n_isolated: int = 0
    elements: set[int] = field(default_factory=set)
    _compositions: dict[bytes, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.frame)

    @property
    def n_compositions(self) -> int:
        """Return how many compositions they have."""
        return len(self._compositions)

    def counts(self) -> dict[str, int]:
        """Return how many structures there were, and how many of them are left."""
        return {
            "read": self.n_read,
            "isolated_atoms": self.n_isolated,
            "candidates": len(self),
        }

    def add(self, source: int, frame: int, structure: Structure) -> None:
        """Append a structure."""
        self.source.append(source)
        self.frame.append(frame)
        name = reduced_composition(structure.atomic_numbers)
        self.composition.append(self._compositions.setdefault(name, len(self._compositions)))


def reduced_composition(atomic_numbers: NDArray[np.int64]) -> bytes:
    """Return what all structures have in common that hold the same elements in the same ratio.

    Args:
        atomic_numbers: of one structure, ``[n_atoms]``.
    """
    elements, counts = np.unique(atomic_numbers, return_counts=True)
    return np.stack([elements, counts // gcd(*counts.tolist())]).tobytes()


def find_candidates(
    sources: Sequence[Source],
    element_filter: ElementFilter,
    reading: Reading,
    describe: Describe | None,
) -> Candidates:
    """Read everything once.

    Args:
        sources: the files.
        element_filter: what a candidate is like.
        reading: how files are read.
        describe: what the model sees, if that is wanted.

    Raises:
        DataError, ArtifactError: a file is missing or damaged, a frame is wrong, or the model does
            not know it.
    """
    found = Candidates()
    for number, source in enumerate(sources):
        passing = _passing(source, element_filter, reading, found)
        while block := list(islice(passing, _BLOCK)):
            for frame, structure in block:
                found.add(number, frame, structure)
            if describe:
                structures = [structure for _, structure in block]
                for one, features in zip(structures, describe(structures), strict=True):
                    found.means.add(one.atomic_numbers, features)
    if found.n_isolated:
        log.info("%d isolated atoms are left out: they only give E0s", found.n_isolated)
    return found


def _passing(
    source: Source, element_filter: ElementFilter, reading: Reading, found: Candidates
) -> Iterator[tuple[int, Structure]]:
    counts = LabelCounts()
    structures = parse_frames(
        unparsed_frames(source),
        source.name,
        reading.keys,
        counts,
        inputs=reading.inputs,
        on_bad=reading.skipped.add,
    )
    for frame, structure in structures:
        found.n_read += 1
        elements = set(np.unique(structure.atomic_numbers).tolist())
        if is_isolated_atom(structure):
            found.n_isolated += 1
            continue
        found.elements |= elements
        if element_filter.passes(elements):
            yield frame, structure
    report_source(source, reading.keys, counts)


def elements_of(source: Source, skipped: Skipped) -> frozenset[int]:
    """Return the elements that occur in a file.

    Raises:
        DataError, ArtifactError: it is missing or damaged, or a frame is wrong.
    """
    found = Candidates()
    for _ in _passing(source, ElementFilter(), Reading(LabelKeys(), (), skipped), found):
        pass
    log.info("%s: elements %s", source.name, symbols(found.elements))
    return frozenset(found.elements)


def require_elements(element_filter: ElementFilter, found: Candidates, names: str) -> None:
    """Check that every element that the user named occurs.

    Raises:
        DataError: one does not.
    """
    missing = element_filter.elements - found.elements
    if missing:
        message = (
            f"{names}: no structure has {symbols(missing)}, which --elements names, elements "
            f"present: {symbols(sorted_elements(found.elements))}; leave it out or give other data"
        )
        raise DataError(message)
