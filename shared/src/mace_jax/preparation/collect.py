"""Read all sources once, and put every structure into the spool of its split."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mace_jax.preparation.sources import OnBad, Source, stream_source
from mace_jax.preparation.splits import SplitName
from mace_jax.preparation.spool import Spool
from mace_jax.structures.isolated_atoms import IsolatedAtoms, is_isolated_atom
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.structure import Structure
from mace_jax.structures.structure_block import StructureBlock


@dataclass(frozen=True)
class Choice:
    """Which structures are taken, and what becomes of them.

    Attributes:
        keys: the user's own label keys.
        split_of: split of a structure of the training data; all are ``train`` without it.
        adapt: changes a structure, or raises if it can't be used.
        part: (i, n): only frames i, i + n, … of every source.
        on_bad: called for a frame that is wrong, which is then passed over.
    """

    keys: LabelKeys
    split_of: Callable[[Structure], SplitName] | None = None
    adapt: Callable[[Structure], Structure] = lambda structure: structure
    part: tuple[int, int] = (0, 1)
    on_bad: OnBad | None = None


@dataclass(frozen=True)
class Collected:
    """What was read.

    Attributes:
        spools: the structures by split, complete files.
        isolated: energies of isolated atoms, which are in no spool.
        counts: labels found in each source.
    """

    spools: Mapping[str, Spool]
    isolated: IsolatedAtoms
    counts: Mapping[Source, LabelCounts]


def collect(
    sources: Sequence[Source], choice: Choice, folder: Path, provenance: dict[str, Any]
) -> Collected:
    """Read ``sources`` into one file a split below ``folder``.

    Isolated atoms of the training data only give E0s, as in Torch MACE; elsewhere they stay.

    Raises:
        DataError, ArtifactError: a source is missing or damaged, or a frame is wrong.
    """
    isolated = IsolatedAtoms()
    counts: dict[Source, LabelCounts] = {}
    spools: dict[str, Spool] = {}
    with ExitStack() as stack:
        for number, source in enumerate(sources):
            counts[source] = LabelCounts()
            frames = stream_source(source, choice.keys, counts[source], choice.on_bad)
            for frame, structure in frames:
                if frame % choice.part[1] != choice.part[0]:
                    continue
                split: str = source.split
                if split == "train":
                    if is_isolated_atom(structure):
                        isolated.add(structure)
                        continue
                    split = choice.split_of(structure) if choice.split_of else split
                if split not in spools:
                    spool = Spool(folder / f"{split}.h5", provenance)
                    spools[split] = stack.enter_context(spool)
                spools[split].add(StructureBlock.of([choice.adapt(structure)]), number, [frame])
    return Collected(spools, isolated, counts)
