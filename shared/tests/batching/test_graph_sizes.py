import itertools
import re
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from mace_jax.artifacts.dataset import Dataset, DatasetWriter, write_dataset_file
from mace_jax.artifacts.index import IndexWriter, index_row
from mace_jax.artifacts.provenance import file_sha256
from mace_jax.batching.graph_sizes import GraphSizes, graph_sizes, size_files, size_index
from mace_jax.errors import ConfigError, DataError, IncompatibleError
from mace_jax.structures.neighbor_list import neighbor_list, pair_list
from mace_jax.structures.structure import Structure

LENGTHS = [2, 3, 5, 2, 4, 1, 3]


def chain(n):
    """``n`` atoms 1 Å apart: 2 (n - 1) edges at a cutoff of 1.5 Å."""
    positions = np.zeros((n, 3))
    positions[:, 0] = np.arange(n)
    return Structure(np.ones(n, dtype=int), positions, np.zeros((3, 3)), np.zeros(3, dtype=bool))


@pytest.fixture
def path(tmp_path, provenance):
    path = tmp_path / "train.h5"
    write_dataset_file(path, [chain(n) for n in LENGTHS], provenance)
    return path


def write_index(path, structures, provenance, r_max=1.5):
    with IndexWriter(path, provenance, r_max=r_max, dataset_name="train.h5") as writer:
        for frame, structure in enumerate(structures):
            receivers = neighbor_list(structure, r_max).receivers
            counts = np.bincount(receivers, minlength=len(structure))
            writer.write([index_row(structure, counts, "a.xyz", frame)])
        writer.dataset_sha256 = "0123456789abcdef" * 4
    return path


def check_lengths(sizes, lengths):
    assert sizes.n_node.tolist() == lengths
    assert sizes.n_edge.tolist() == [2 * (n - 1) for n in lengths]
    expected = [[1, *[2] * (n - 2), 1] if n > 1 else [0] for n in lengths]
    assert sizes.n_neighbors.tolist() == list(itertools.chain(*expected))
    assert (sizes.n_node.dtype, sizes.n_edge.dtype) == (np.int64, np.int64)


def test_sizes_are_counted(path):
    with Dataset(path) as dataset:
        check_lengths(graph_sizes(dataset, 1.5), LENGTHS)
        assert graph_sizes(dataset, 2.5).n_edge.tolist() == [2, 6, 14, 2, 10, 0, 6]


def test_the_progress_is_that_of_structures(path):
    seen = []

    def track(items, description, total):
        for item in items:
            seen.append((description, total))
            yield item

    with Dataset(path) as dataset:
        graph_sizes(dataset, 1.5, track)
    assert seen == [("counting edges", 7)] * 7


@pytest.fixture
def stored(tmp_path, crystal, provenance):
    """A dataset whose pairs are those of a shorter cutoff than it says, to tell them apart."""
    path = tmp_path / "flat.h5"
    structures = [crystal, chain(4)]
    with DatasetWriter(path, provenance, layout="flat", r_max=4.0) as writer:
        writer.write(structures, [pair_list(neighbor_list(one, 2.5)) for one in structures])
    return path


def test_pairs_that_are_stored_are_not_searched_again(stored, crystal):
    with Dataset(stored) as dataset:
        found = graph_sizes(dataset, 4.0)
        searched = graph_sizes(dataset, 2.5)
    np.testing.assert_array_equal(found.n_neighbors, searched.n_neighbors)
    assert found.n_edge.tolist() == [len(neighbor_list(crystal, 2.5).senders), 10]


def test_the_cutoff_of_stored_pairs_is_the_default(stored):
    with ExitStack() as stack:
        (sized,) = size_files([stored], None, stack)
    assert sized.r_max == 4.0


def test_sums_over_the_atoms_of_each_graph():
    sizes = GraphSizes.from_lists([np.array([1, 2]), np.array([5]), np.array([0, 0, 7])])
    assert sizes.sums(sizes.n_neighbors).tolist() == [3, 5, 7] == sizes.n_edge.tolist()
    assert sizes.sums(np.full(6, 200, np.uint8)).tolist() == [400, 200, 600]


# --- from an index


def test_an_index_says_the_same_as_the_data(tmp_path, provenance):
    path = write_index(tmp_path / "a.parquet", [chain(n) for n in LENGTHS], provenance)
    sized = size_index(path)
    check_lengths(sized.sizes, LENGTHS)
    assert (sized.dataset.name, sized.dataset.n_structures, sized.r_max) == ("train.h5", 7, 1.5)
    assert sized.dataset.sha256 == "0123456789abcdef" * 4
    assert sized.place(3) == "a.xyz: frame 3"
    assert (sized.input.kind, sized.input.sha256) == ("index", file_sha256(path))


@pytest.mark.parametrize("r_max", [1.0, 5.0])
def test_an_index_of_another_cutoff_is_refused(tmp_path, provenance, r_max):
    path = write_index(tmp_path / "a.parquet", [chain(3)], provenance)
    expected = rf"a\.parquet: counts edges at r_max 1\.5 Å, expected {r_max} Å; give the dataset"
    with pytest.raises(IncompatibleError, match=expected):
        size_index(path, r_max)


def test_datasets_and_indices_are_numbered_through(tmp_path, path, provenance):
    index = write_index(tmp_path / "a.parquet", [chain(9), chain(8)], provenance)
    with ExitStack() as stack:
        several = size_files([index, path], None, stack)
        joined = GraphSizes.joined([sized.sizes for sized in several])
        assert re.search(r"train\.h5: .*2", several[1].place(2))
    check_lengths(joined, [9, 8, *LENGTHS])
    assert [sized.r_max for sized in several] == [1.5, 1.5]


def test_all_must_have_the_cutoff_of_the_first(tmp_path, provenance):
    paths = [
        write_index(tmp_path / f"{r_max}.parquet", [chain(9)], provenance, r_max)
        for r_max in (1.5, 2.5)
    ]
    with ExitStack() as stack, pytest.raises(IncompatibleError, match=r"2\.5\.parquet: counts"):
        size_files(paths, None, stack)


def test_a_cutoff_is_needed(path):
    with ExitStack() as stack, pytest.raises(ConfigError, match=r"train\.h5: .*give --r-max"):
        size_files([path], None, stack)


def test_empty_data_are_an_error(tmp_path, provenance):
    write_dataset_file(tmp_path / "none.h5", [], provenance, layout="flat")
    index = write_index(tmp_path / "none.parquet", [], provenance)
    for path in (tmp_path / "none.h5", index):
        with ExitStack() as stack, pytest.raises(DataError, match=r"none.*: holds no structures"):
            size_files([Path(path)], 1.5, stack)
