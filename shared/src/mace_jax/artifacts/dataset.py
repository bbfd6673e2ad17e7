"""HDF5 datasets: a file, or a folder or glob of files that are read as one list of structures."""

import glob
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.atomic_write import atomic_file
from mace_jax.artifacts.dataset_attributes import (
    KIND,
    check_one_layout,
    check_one_set,
    read_attributes,
    write_attributes,
)
from mace_jax.artifacts.dataset_flat_layout import FlatFile
from mace_jax.artifacts.dataset_flat_writer import BLOCK, FlatWriter
from mace_jax.artifacts.dataset_mace_layout import MaceFile, MaceWriter
from mace_jax.artifacts.provenance import Input, files_sha256
from mace_jax.artifacts.versioned import Document, check_document, tag
from mace_jax.errors import ArtifactError, ConfigError
from mace_jax.structures.neighbor_list import PairList
from mace_jax.structures.structure import Structure

SUFFIXES = (".h5", ".hdf5")
Layout = Literal["mace", "flat"]
_FORMAT = ("v108", "v110")  # of HDF5 itself: half as large as the earliest, and read everywhere


class DatasetWriter:
    """Writes one HDF5 file of a dataset, structure by structure, in constant memory.

    A context manager: the file appears, whole, when it is left without an error.
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
        self._structures: list[Structure] = []
        self._pairs: list[PairList] = []

    def write(
        self, structures: Sequence[Structure], pairs: Sequence[PairList] | None = None
    ) -> None:
        """Append structures, and their pairs if the file stores pairs.

        Raises:
            ValueError: pairs are missing, or there are some that are not asked for.
            DataError: a structure cannot be stored.
        """
        stored = "r_max" in self._attributes
        if stored != (pairs is not None) or (pairs is not None and len(pairs) != len(structures)):
            message = f"{self.path}: pairs of every structure with r_max, and only then"
            raise ValueError(message)
        self._structures += structures
        self._pairs += pairs or ()
        while len(self._structures) >= BLOCK:
            self._write_block()

    def _write_block(self) -> None:
        structures, pairs = self._structures[:BLOCK], self._pairs[:BLOCK]
        del self._structures[:BLOCK], self._pairs[:BLOCK]
        if isinstance(self._layout, FlatWriter):
            self._layout.write(structures, pairs)
        else:
            self._layout.write(structures)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with atomic_file(self.path) as temporary, h5py.File(temporary, "w", libver=_FORMAT) as file:
            flat, with_pairs = self._attributes["layout"] == "flat", "r_max" in self._attributes
            self._layout: FlatWriter | MaceWriter = (
                FlatWriter(file, with_pairs=with_pairs) if flat else MaceWriter(file)
            )
            yield
            if self._structures:
                self._write_block()
            self._finish()
            n = self._layout.n_structures
            write_attributes(file, {**self._attributes, "n_structures": n})

    def _finish(self) -> None:
        if isinstance(self._layout, FlatWriter):
            self._layout.finish()
        else:
            self._layout.finish(self._n_in_set)

    def __enter__(self) -> "DatasetWriter":
        """Open a temporary file beside the target."""
        self._context: AbstractContextManager[None] = self._writing()
        self._context.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the file and put it in its place; after an error remove it."""
        self._context.__exit__(kind, error, traceback)


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


def dataset_files(path: Path) -> list[Path]:
    """Expand a file, folder or glob into its HDF5 files, sorted by name.

    Raises:
        ArtifactError: nothing is there.
    """
    if path.is_dir():
        files = [entry for entry in path.iterdir() if entry.suffix in SUFFIXES]
    elif path.exists():
        files = [path]
    else:
        files = [Path(name) for name in glob.glob(str(path))]  # noqa: PTH207 - absolute patterns
    if not files:
        message = f"{path}: no HDF5 file there, expected *.h5; create it with mace-jax-preprocess"
        raise ArtifactError(message)
    return sorted(files, key=_natural_key)


def _natural_key(path: Path) -> tuple[str, int, str]:
    """Sort ``train_10.h5`` after ``train_9.h5``."""
    stem, _, number = path.stem.rpartition("_")
    return (stem, int(number), "") if number.isdigit() else (path.stem, -1, path.name)


class Dataset:
    """Random access to the structures of one or several HDF5 files, whatever their layout.

    Structure ``i`` keeps its number whatever the order of reading: files by name, then the order
    inside the file. Use it as a context manager, or call ``close``.

    Attributes:
        r_max: cutoff of the pairs that are stored with the structures, Å; None unless every file
            has them at the same cutoff.
    """

    def __init__(self, path: Path) -> None:
        """Open every file and check what it says about itself.

        Args:
            path: file, folder or glob.

        Raises:
            ArtifactError: a file is missing, damaged, of another kind, or a shard is absent.
        """
        self.path = Path(path)
        self.paths = dataset_files(self.path)
        self._sha256: str | None = None
        self._files: list[h5py.File] = []
        self._parts: list[MaceFile | FlatFile] = []
        try:
            tags = [self._open(file) for file in self.paths]
        except BaseException:
            self.close()
            raise
        if self.path.is_dir():
            check_one_set(self.path, tags)
        check_one_layout(self.path, [part.layout for part in self._parts])
        self._ends = np.cumsum([len(part) for part in self._parts])
        cutoffs = {part.r_max for part in self._parts}
        self.r_max = cutoffs.pop() if len(cutoffs) == 1 else None

    def _open(self, path: Path) -> Document | None:
        try:
            file = h5py.File(path, "r", rdcc_nbytes=0)
        except OSError as error:
            message = f"{path}: not a complete HDF5 file ({error}); create it again"
            raise ArtifactError(message) from error
        self._files.append(file)
        attributes = read_attributes(file, path)
        if attributes and attributes["layout"] == "flat":
            self._parts.append(FlatFile(file, attributes))
        else:
            self._parts.append(MaceFile(file, attributes))
        return attributes

    def __len__(self) -> int:
        """Return the number of structures."""
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Structure:
        """Read structure ``index``.

        Raises:
            ArtifactError, DataError: it is damaged or holds an impossible number.
        """
        return self.read([index])[0]

    def __iter__(self) -> Iterator[Structure]:
        """Read all structures in order."""
        for start in range(0, len(self), BLOCK):
            yield from self.read(range(start, min(start + BLOCK, len(self))))

    def read(self, indices: Sequence[int]) -> list[Structure]:
        """Read structures in the given order.

        Raises:
            ArtifactError, DataError: one is damaged or holds an impossible number.
        """
        return self._collect(indices, lambda part, numbers: part.read(numbers))

    def read_pairs(self, indices: Sequence[int]) -> list[PairList]:
        """Read the stored pairs of structures in the given order.

        Raises:
            ArtifactError: they are damaged, or not stored at one cutoff.
        """
        if self.r_max is None:
            message = f"{self.path}: stores no pairs, expected some; create it with --store-edges"
            raise ArtifactError(message)
        return self._collect(indices, lambda part, numbers: part.read_pairs(numbers))

    def _collect(self, indices: Sequence[int], read: Any) -> list[Any]:
        """Read from each file what lies there, and put it in the order of ``indices``."""
        wanted = self._checked(indices)
        parts = np.searchsorted(self._ends, wanted, side="right")
        found: list[Any] = [None] * len(wanted)
        for part in np.unique(parts).tolist():
            places = np.flatnonzero(parts == part)
            start = self._ends[part] - len(self._parts[part])
            items = read(self._parts[part], wanted[places] - start)
            for place, item in zip(places.tolist(), items, strict=True):
                found[place] = item
        return found

    def _checked(self, indices: Sequence[int]) -> NDArray[np.int64]:
        wanted = np.asarray(indices, np.int64)
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            message = f"{self.path}: index {wanted.max()}, expected below {len(self)}"
            raise IndexError(message)
        return wanted

    def place(self, index: int) -> str:
        """Return where structure ``index`` stands, for messages."""
        (wanted,) = self._checked([index])
        part = int(np.searchsorted(self._ends, wanted, side="right"))
        return self._parts[part].place(int(wanted - self._ends[part]) + len(self._parts[part]))

    def sha256(self) -> str:
        """Return the digest of all files, which names the data a plan was made for.

        It is computed once: the files may be large.
        """
        if self._sha256 is None:
            self._sha256 = files_sha256(self.paths)
        return self._sha256

    def as_input(self, role: str) -> Input:
        """Describe this dataset in a provenance record."""
        return Input(role, self.path, KIND, tag(KIND)["version"], self.sha256())

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()

    def __enter__(self) -> "Dataset":
        """Return the dataset itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close all files."""
        self.close()
