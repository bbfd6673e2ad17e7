"""HDF5 datasets: a file, or a folder or glob of files that are read as one list of structures."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.dataset_attributes import (
    KIND,
    check_one_set,
    one_layout,
    read_attributes,
)
from mace_jax.artifacts.dataset_flat_layout import FRAME, FRAMES, FlatFile
from mace_jax.artifacts.dataset_mace_layout import MaceFile
from mace_jax.artifacts.dataset_writer import DatasetWriter, Layout, write_dataset_file
from mace_jax.artifacts.hdf5_items import limit_metadata_cache
from mace_jax.artifacts.provenance import Input, files_sha256
from mace_jax.artifacts.versioned import Document, tag
from mace_jax.errors import ArtifactError
from mace_jax.structures.neighbor_list import PairList
from mace_jax.structures.structure import Structure
from mace_jax.structures.structure_block import StructureBlock

__all__ = ["SUFFIXES", "Dataset", "DatasetWriter", "Layout", "dataset_files", "write_dataset_file"]

SUFFIXES = (".h5", ".hdf5")
_STRIDE = 256  # structures that are read at once in iteration


def renumber_file(path: Path, shard: tuple[int, int], n_in_set: int) -> None:
    """Make a file one of another set; arguments as of ``DatasetWriter``.

    The file is changed in place, so it should be a copy that nobody knows of yet.
    """
    with h5py.File(path, "r+") as file:
        file.attrs["shard_index"], file.attrs["shard_count"] = shard
        if "drop_last" in file.attrs:
            file.attrs["drop_last"] = n_in_set % 2 == 1


def keep_frames(path: Path, frames: NDArray[np.integer]) -> None:
    """Write into a file of layout flat which frame of another file each structure was.

    The file is changed in place, so it should be one that nobody knows of yet.
    """
    with h5py.File(path, "r+") as file:
        file.create_dataset(FRAMES, data=frames.astype(FRAME))


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


def dataset_input(role: str, path: Path, sha256: str) -> Input:
    """Describe a dataset of known digest in a provenance record."""
    return Input(role, path, KIND, tag(KIND)["version"], sha256)


def _natural_key(path: Path) -> tuple[str, int, str]:
    """Sort ``train_10.h5`` after ``train_9.h5``."""
    stem, _, number = path.stem.rpartition("_")
    return (stem, int(number), "") if number.isdigit() else (path.stem, -1, path.name)


class Dataset:
    """Random access to the structures of one or several HDF5 files, whatever their layout.

    Structure ``i`` keeps its number whatever the order of reading: files by name, then the order
    inside the file. Use it as a context manager, or call ``close``.

    Threads may share a dataset; they take turns, as HDF5 lets one in at a time. A process needs its
    own: pickling takes the path along and opens the files again. After a fork do the same by hand.

    Attributes:
        path: what was given: a file, folder or glob.
        name: what messages call it: the path, or the file that it was converted from.
        paths: the files, in order.
        layout: of all files, ``mace`` or ``flat``.
        r_max: cutoff of the pairs that are stored with the structures, Å; None unless every file
            has them at the same cutoff.
    """

    def __init__(self, path: Path, converted_from: str | None = None) -> None:
        """Open every file and check what it says about itself.

        Args:
            path: file, folder or glob.
            converted_from: the file whose frames the structures are, by ``keep_frames``, if
                messages are to speak of that one.

        Raises:
            ArtifactError: a file is missing, damaged, of another kind, or a shard is absent.
        """
        self.path = Path(path)
        self.converted_from = converted_from
        self.name = converted_from or str(path)
        self.paths = dataset_files(self.path)
        self._sha256: str | None = None
        self._lock = Lock()
        self._files: list[h5py.File] = []
        self._parts: list[MaceFile | FlatFile] = []
        try:
            tags = [self._open(file) for file in self.paths]
            if self.path.is_dir():
                check_one_set(self.path, tags)
            self.layout = one_layout(self.path, [part.layout for part in self._parts])
        except BaseException:
            self.close()
            raise
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
        limit_metadata_cache(file)
        try:
            attributes = read_attributes(file, path)
            if attributes and attributes["layout"] == "flat":
                self._parts.append(FlatFile(file, attributes, self.converted_from))
            else:
                self._parts.append(MaceFile(file, attributes))
        except (OSError, KeyError, RuntimeError) as error:  # of h5py, wherever it meets damage
            message = f"{path}: damaged ({error}); create it again"
            raise ArtifactError(message) from error
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
        for start in range(0, len(self), _STRIDE):
            yield from self.read(range(start, min(start + _STRIDE, len(self))))

    def read(self, indices: Sequence[int]) -> list[Structure]:
        """Read structures in the given order.

        Raises:
            ArtifactError, DataError: one is damaged or holds an impossible number.
        """
        return self._collect(indices, lambda part, numbers: part.read(numbers))

    def read_block(self, indices: Sequence[int] | NDArray[np.int64]) -> StructureBlock:
        """Read structures as ``read`` does, as one block."""
        wanted = self._checked(indices)
        if len(self._parts) > 1:
            return StructureBlock.of(self.read(wanted.tolist()))
        with self._lock:
            return self._parts[0].read_block(wanted)

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
            with self._lock:
                items = read(self._parts[part], wanted[places] - start)
            for place, item in zip(places.tolist(), items, strict=True):
                found[place] = item
        return found

    def _checked(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        wanted, n = np.asarray(indices, np.int64), len(self)
        outside = wanted[(wanted < -n) | (wanted >= n)]
        if outside.size:
            message = f"{self.path}: structure {outside[0]}, expected a number below {n}"
            raise IndexError(message)
        return np.where(wanted < 0, wanted + n, wanted)

    def place(self, index: int) -> str:
        """Return where structure ``index`` stands, for messages."""
        number = int(self._checked([index])[0])
        part = int(np.searchsorted(self._ends, number, side="right"))
        start = int(self._ends[part]) - len(self._parts[part])
        return self._parts[part].place(number - start)

    def sha256(self) -> str:
        """Return the digest of all files, which names the data a plan was made for.

        It is computed once: the files may be large.
        """
        if self._sha256 is None:
            self._sha256 = files_sha256(self.paths)
        return self._sha256

    def as_input(self, role: str) -> Input:
        """Describe this dataset in a provenance record."""
        return dataset_input(role, self.path, self.sha256())

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Take the path along and the digest, if it is known."""
        return Dataset, (self.path, self.converted_from), {"_sha256": self._sha256}

    def __enter__(self) -> "Dataset":
        """Return the dataset itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close all files."""
        self.close()
