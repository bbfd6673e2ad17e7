"""The structures of a split: those of one dataset, or of several that follow each other."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.provenance import Input
from mace_jax.errors import DataError
from mace_jax.structures.structure import Structure
from mace_jax_train.run_heads import HEAD

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitData:
    """The datasets of a split; structures are numbered through them in order.

    Attributes:
        name: ``train``, ``valid`` or ``test``.
        datasets: open ones.
        heads: of all structures of each dataset; None: each structure's own.
        digests: of the data of each path that was named, converted or not.
    """

    name: str
    datasets: tuple[Dataset, ...]
    heads: tuple[str | None, ...]
    digests: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of structures."""
        return sum(map(len, self.datasets))

    def __iter__(self) -> Iterator[Structure]:
        """Read all structures in order."""
        for number in range(len(self.datasets)):
            yield from self.of_dataset(number)

    def of_dataset(self, number: int) -> Iterator[Structure]:
        """Read the structures of one dataset, each of the head that it has in the run."""
        head, dataset = self.heads[number], self.datasets[number]
        others: Counter[str] = Counter()
        for structure in dataset:
            if head in (None, structure.head):
                yield structure
                continue
            others[structure.head] += structure.head != HEAD
            yield replace(structure, head=head)
        for other, count in (+others).items():
            text = "%s: %d structures say that they are of head %s; their file is of head %s"
            log.warning(text, dataset.name, count, other, head)

    def __str__(self) -> str:
        """Return the files, for messages."""
        return ", ".join(dataset.name for dataset in self.datasets)

    def inputs(self, role: str) -> list[Input]:
        """Describe the datasets in a provenance record."""
        return [dataset.as_input(role) for dataset in self.datasets]


def require_distinct(split: str, given: Sequence[tuple[Path, str, Sequence[Path]]]) -> None:
    """Check that no data would be read twice.

    Args:
        split: whose data they are.
        given: what was named, the digest of its data, and the files that it stands for.

    Raises:
        DataError: two paths name the same file, or files of the same content.
    """
    named_by: dict[str, Path] = {}
    for path, digest, files in given:
        for key in (digest, *(str(file.resolve()) for file in files)):
            if key in named_by:
                message = (
                    f"{path}: holds data that {named_by[key]} holds, too, so that {split} would "
                    f"read them twice; name them once in datasets.{split}_path"
                )
                raise DataError(message)
        named_by |= dict.fromkeys((digest, *(str(file.resolve()) for file in files)), path)
