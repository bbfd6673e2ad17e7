"""HDF5 datasets: a file, or a folder or glob of files that are read as one list of structures."""

import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py

from mace_jax.artifacts.atomic_write import atomic_file
from mace_jax.artifacts.dataset_mace_layout import (
    read_structure,
    structure_paths,
    write_structures,
)
from mace_jax.artifacts.provenance import Input, files_sha256
from mace_jax.artifacts.versioned import check_document, tag
from mace_jax.errors import ArtifactError
from mace_jax.structures.structure import Structure, check_structure

SUFFIXES = (".h5", ".hdf5")
KIND = "dataset"


def write_dataset_file(
    path: Path,
    structures: list[Structure],
    provenance: dict[str, Any],
    *,
    n_in_set: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> None:
    """Write one HDF5 file of a dataset atomically.

    Args:
        path: target.
        structures: the structures of this file.
        provenance: record of ``make_provenance``.
        n_in_set: structures in the whole set, if this is one of several files.
        shard: (index of this file, number of files in the set).
    """
    attributes = {
        "schema": tag(KIND),
        "provenance": provenance,
        "layout": "mace",
        "n_structures": len(structures),
        "shard_index": shard[0],
        "shard_count": shard[1],
    }
    check_document(attributes, KIND, path)
    n_in_set = len(structures) if n_in_set is None else n_in_set
    with atomic_file(path) as temporary, h5py.File(temporary, "w", track_order=False) as file:
        write_structures(file, structures, drop_last=n_in_set % 2 == 1)
        for name, value in attributes.items():
            file.attrs[name] = json.dumps(value) if isinstance(value, dict) else value


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
    """Random access to the structures of one or several HDF5 files.

    Structure ``i`` keeps its number whatever the order of reading: files by name, then the order
    inside the file. Use it as a context manager, or call ``close``.
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
        self._index: list[tuple[h5py.File, str]] = []
        try:
            tags = [self._open(file) for file in self.paths]
        except BaseException:
            self.close()
            raise
        if self.path.is_dir():
            _check_shards(self.path, tags)

    def _open(self, path: Path) -> dict[str, Any] | None:
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            message = f"{path}: not a complete HDF5 file ({error}); create it again"
            raise ArtifactError(message) from error
        self._files.append(file)
        attributes = _read_attributes(file, path)
        groups = structure_paths(file)
        if attributes and attributes["n_structures"] != len(groups):
            message = (
                f"{path}: holds {len(groups)} structures, expected "
                f"{attributes['n_structures']}; create it again"
            )
            raise ArtifactError(message)
        self._index += [(file, group) for group in groups]
        return attributes

    def __len__(self) -> int:
        """Return the number of structures."""
        return len(self._index)

    def __getitem__(self, index: int) -> Structure:
        """Read structure ``index``.

        Raises:
            ArtifactError, DataError: it is damaged or holds an impossible number.
        """
        file, group = self._index[index]
        structure = replace(read_structure(file, group), place=self.place(index))
        check_structure(structure)
        return structure

    def __iter__(self) -> Iterator[Structure]:
        """Read all structures in order."""
        return (self[index] for index in range(len(self)))

    def place(self, index: int) -> str:
        """Return where structure ``index`` stands, for messages."""
        file, group = self._index[index]
        return f"{file.filename}: {group}"

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


def _read_attributes(file: h5py.File, path: Path) -> dict[str, Any] | None:
    """Return the checked root attributes; None for a file written by Torch MACE, which has none."""
    if "schema" not in file.attrs:
        return None
    try:
        attributes = {
            "schema": json.loads(file.attrs["schema"]),
            "provenance": json.loads(file.attrs["provenance"]),
            "layout": str(file.attrs["layout"]),
            **{
                name: int(file.attrs[name])
                for name in ("n_structures", "shard_index", "shard_count")
            },
        }
    except (KeyError, ValueError, TypeError) as error:
        message = f"{path}: root attributes: {error}; create it again with mace-jax-preprocess"
        raise ArtifactError(message) from error
    return check_document(attributes, KIND, path)


def _check_shards(folder: Path, tags: Sequence[dict[str, Any] | None]) -> None:
    known = [attributes for attributes in tags if attributes]
    if not known:
        return
    count = known[0]["shard_count"]
    found = sorted(attributes["shard_index"] for attributes in known)
    counts = {attributes["shard_count"] for attributes in known}
    if len(known) != len(tags) or len(counts) > 1 or found != list(range(count)):
        message = (
            f"{folder}: holds shards {found} of {count}, expected all of one set and nothing else; "
            "copy the missing files or create the set again"
        )
        raise ArtifactError(message)
