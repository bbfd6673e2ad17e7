"""Writing one file of a dataset, in either layout."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

import h5py

from mace_jax.artifacts.atomic_write import FileWriter, atomic_file
from mace_jax.artifacts.dataset_attributes import KIND, write_attributes
from mace_jax.artifacts.dataset_flat_writer import FlatWriter
from mace_jax.artifacts.dataset_mace_layout import MaceWriter
from mace_jax.artifacts.hdf5_items import limit_metadata_cache
from mace_jax.artifacts.versioned import Document, check_document, tag
from mace_jax.errors import ConfigError, DataError
from mace_jax.structures.neighbor_list import PairList
from mace_jax.structures.structure import Structure, check_structure
from mace_jax.structures.structure_block import StructureBlock, check_block, joined

BLOCK = 256  # structures that are written at once, whatever the portions in which they come

Layout = Literal["mace", "flat"]
_FORMAT = ("v108", "v110")  # of HDF5 itself: smaller than the earliest, and read everywhere

_CACHE_BYTES = 1 << 18  # of each array: its last chunk, which the next block goes on with


class DatasetWriter(FileWriter):
    """Writes one HDF5 file of a dataset, structure by structure, in constant memory.

    A context manager: the file appears, whole, when it is left without an error.

    Attributes:
        path: target.
        n_structures: how many were given so far.
    """

    def __init__(
        self,
        path: Path,
        provenance: dict[str, Any],
        *,
        layout: Layout = "mace",
        n_in_set: int | None = None,
        shard: tuple[int, int] = (0, 1),
        r_max: float | None = None,
    ) -> None:
        """Say what is going to be written.

        Args:
            path: target.
            provenance: record of ``make_provenance``.
            layout: ``mace``, which Torch MACE reads, or ``flat``, which is smaller and faster.
            n_in_set: structures in the whole set, if this is one of several files.
            shard: (index of this file, number of files in the set).
            r_max: cutoff of the pairs that are stored with the structures, Å; layout flat only.

        Raises:
            ArtifactError: the file would not be valid.
            ConfigError: pairs in layout mace.
        """
        self.path = path
        self.n_structures = 0
        self._n_in_set = n_in_set
        self._attributes: Document = {
            "schema": tag(KIND),
            "provenance": provenance,
            "layout": layout,
            "n_structures": 0,
            "shard_index": shard[0],
            "shard_count": shard[1],
            **({} if r_max is None else {"r_max": float(r_max)}),
        }
        if layout == "mace" and r_max is not None:
            message = f"{path}: layout mace has no place for pairs; choose layout flat"
            raise ConfigError(message)
        check_document(self._attributes, KIND, path)
        self._waiting: list[StructureBlock] = []
        self._error: DataError | None = None

    def write(
        self, structures: Sequence[Structure], pairs: Sequence[PairList] | None = None
    ) -> None:
        """Append structures, and their pairs if the file stores pairs.

        Raises:
            ValueError: pairs are missing, or there are some that are not asked for.
            DataError: a structure cannot be stored; then the file cannot be completed.
        """
        if pairs is not None and len(pairs) != len(structures):
            self._refuse_pairs()
        with self._remembering_errors():
            for structure in structures:
                check_structure(structure)
        self.write_block(StructureBlock.of(structures, pairs))

    def write_block(self, block: StructureBlock) -> None:
        """Append structures as ``write`` does; errors as there."""
        if ("r_max" in self._attributes) != (block.pairs is not None):
            self._refuse_pairs()
        with self._remembering_errors():
            check_block(block)
            _check_names(block)
        self._waiting.append(block)
        self.n_structures += len(block)
        if sum(map(len, self._waiting)) >= BLOCK:
            self._write_waiting()

    def _refuse_pairs(self) -> NoReturn:
        message = f"{self.path}: pairs of every structure with r_max, and only then"
        raise ValueError(message)

    @contextmanager
    def _remembering_errors(self) -> Iterator[None]:
        """Let an error of the data be raised again at the end if the caller goes on regardless."""
        try:
            yield
        except DataError as error:
            self._error = error
            raise

    def _write_waiting(self) -> None:
        """Write whole blocks; what remains goes on waiting."""
        block = joined(self._waiting)
        whole = len(block) // BLOCK * BLOCK
        for start in range(0, whole, BLOCK):
            self._layout.write(block.take(slice(start, start + BLOCK)))
        self._waiting = [block.take(slice(whole, None))]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with (
            atomic_file(self.path) as temporary,
            h5py.File(temporary, "w", libver=_FORMAT, rdcc_nbytes=_CACHE_BYTES) as file,
        ):
            limit_metadata_cache(file)
            flat, with_pairs = self._attributes["layout"] == "flat", "r_max" in self._attributes
            self._layout: FlatWriter | MaceWriter = (
                FlatWriter(file, with_pairs=with_pairs) if flat else MaceWriter(file)
            )
            yield
            if self._error:
                raise self._error
            rest = joined([StructureBlock.of([]), *self._waiting])
            if len(rest):
                self._layout.write(rest)
            if isinstance(self._layout, FlatWriter):
                self._layout.finish()
            else:
                self._layout.finish(self._n_in_set)
            write_attributes(file, {**self._attributes, "n_structures": self.n_structures})


def _check_names(block: StructureBlock) -> None:
    for what, names in (("config_type", block.config_types), ("head", block.heads)):
        for name in set(names):
            if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
                message = (
                    f"{block.places[names.index(name)]}: {what} {name!r}, expected text of Unicode "
                    "characters other than zero; correct it"
                )
                raise DataError(message)


def write_dataset_file(
    path: Path,
    structures: Sequence[Structure],
    provenance: dict[str, Any],
    *,
    n_in_set: int | None = None,
    shard: tuple[int, int] = (0, 1),
    layout: Layout = "mace",
) -> None:
    """Write one HDF5 file of a dataset atomically; arguments as of ``DatasetWriter``."""
    with DatasetWriter(path, provenance, layout=layout, n_in_set=n_in_set, shard=shard) as writer:
        writer.write(structures)
