"""Write a split from its spool: files of a dataset by several processes, and its index."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.dataset import Dataset, DatasetWriter, dataset_files
from mace_jax.artifacts.index import IndexWriter, index_rows, merge_indices
from mace_jax.artifacts.provenance import file_sha256, joined_sha256
from mace_jax.preparation.processes import Processes
from mace_jax.preparation.spool import read_origins
from mace_jax.structures.block_neighbors import block_pairs
from mace_jax.structures.structure_block import StructureBlock
from mace_jax.structures.training_sums import TrainingSums

Layout = Literal["mace", "flat"]


@dataclass(frozen=True)
class Form:
    """How a split is written.

    Attributes:
        layout: of the HDF5 files.
        r_max: cutoff of the neighbours that are counted, Å.
        store_edges: whether the pairs of neighbours are stored, too; layout ``flat`` only.
        block: structures at a time.
    """

    layout: Layout
    r_max: float
    store_edges: bool = False
    block: int = 256


class Spooled(NamedTuple):
    """Structures that wait to be written.

    Attributes:
        path: of their spool.
        sources: the files that were read, as messages call them.
    """

    path: Path
    sources: tuple[str, ...]


class _Job(NamedTuple):
    """One file of a dataset and its part of the index, written by one process."""

    spooled: Spooled
    order: NDArray[np.int64]
    target: Path
    index_part: Path
    n_in_set: int
    shard: tuple[int, int]
    provenance: dict[str, Any]
    form: Form


def write_split(
    spooled: Spooled,
    files: Mapping[str, NDArray[np.int64]],
    folder: Path,
    indices: Path,
    provenance: dict[str, Any],
    form: Form,
    processes: Processes,
) -> tuple[TrainingSums, str]:
    """Write the files of a split, each with an index of its own for ``join_indices``.

    Args:
        spooled: the structures.
        files: name of each file -> numbers of its structures, in order.
        folder: of the dataset; nothing else is in it.
        indices: folder of the indices.
        provenance: record of ``make_provenance``.
        form: how to write.
        processes: that write, a file at a time each.

    Returns: the sums over all structures, for statistics, and the digest of the dataset.

    Raises:
        DataError: a structure is impossible; any failure of a writer is raised here.
    """
    for made in (folder, indices):
        made.mkdir(parents=True)
    n_in_set = sum(map(len, files.values()))
    jobs = [
        _Job(
            spooled,
            order,
            folder / name,
            _index_of(indices, folder / name),
            n_in_set,
            (number, len(files)),
            provenance,
            form,
        )
        for number, (name, order) in enumerate(files.items())
    ]
    sums = TrainingSums(form.r_max)
    digests = {}
    for job, (part, sha256) in zip(jobs, processes.map(_write_file, jobs), strict=True):
        sums.merge(part)
        digests[job.target] = sha256
    return sums, joined_sha256([digests[file] for file in dataset_files(folder)])


def join_indices(
    folder: Path, indices: Path, target: Path, provenance: dict[str, Any], sha256: str
) -> None:
    """Write the index of a dataset from those of its files.

    Args:
        folder: of the dataset.
        indices: folder with the index of each file.
        target: the Parquet file.
        provenance: record of ``make_provenance``.
        sha256: digest of the dataset.
    """
    files = dataset_files(folder)
    target.parent.mkdir(exist_ok=True)
    merge_indices(
        [_index_of(indices, file) for file in files],
        target,
        provenance,
        sha256,
        folder.name,
    )


def _index_of(indices: Path, file: Path) -> Path:
    return indices / f"{file.stem}.parquet"


def _write_file(job: _Job) -> tuple[TrainingSums, str]:
    form, sums = job.form, TrainingSums(job.form.r_max)
    name_of_set = job.target.parent.name
    with IndexWriter(
        job.index_part, job.provenance, r_max=form.r_max, dataset_name=name_of_set
    ) as index:
        with (
            Dataset(job.spooled.path) as spool,
            DatasetWriter(
                job.target,
                job.provenance,
                layout=form.layout,
                n_in_set=job.n_in_set,
                shard=job.shard,
                r_max=form.r_max if form.store_edges else None,
            ) as writer,
        ):
            for block, sources, frames in _blocks(job, spool):
                pairs = block_pairs(block, form.r_max)
                n_neighbors = pairs.count_neighbors(block.n_atoms)
                sums.add_block(block, n_neighbors)
                index.write_rows(index_rows(block, n_neighbors, sources, frames))
                writer.write_block(replace(block, pairs=pairs) if form.store_edges else block)
        index.dataset_sha256 = file_sha256(job.target)
    return sums, index.dataset_sha256


def _blocks(
    job: _Job, spool: Dataset
) -> Iterator[tuple[StructureBlock, list[str], NDArray[np.int64]]]:
    """Yield some structures at a time, with the name of the file and the frame of each."""
    names = job.spooled.sources
    files = [Path(name).name for name in names]
    for first in range(0, len(job.order), job.form.block):
        numbers = job.order[first : first + job.form.block]
        origins = read_origins(job.spooled.path, numbers)
        sources, frames = origins["source"].tolist(), origins["frame"]
        places = [
            f"{names[source]}: frame {frame}"
            for source, frame in zip(sources, frames.tolist(), strict=True)
        ]
        block = replace(spool.read_block(numbers), places=places)
        yield block, [files[source] for source in sources], frames


def split_evenly(order: NDArray[np.int64], n: int) -> list[NDArray[np.int64]]:
    """Cut an order into at most ``n`` contiguous, non-empty parts of nearly equal length."""
    n = min(n, len(order))
    return np.split(order, [len(order) * i // n for i in range(1, n)])
