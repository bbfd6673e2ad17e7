"""Rows read from the mapped file against the arrays that HDF5 reads."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.artifacts.hdf5_rows import GrowingArrays, Rows
from mace_jax.errors import ArtifactError

PAIR = np.dtype([("sender", "<u2"), ("shift", "i1", (3,))])
N = 60_000


@pytest.fixture(scope="module", params=["in one piece", "in chunks"])
def path(request, tmp_path_factory):
    """Arrays of rows of 5 and 24 bytes, both of several chunks, and an empty one."""
    path = tmp_path_factory.mktemp("rows") / "rows.h5"
    rng = np.random.default_rng(0)
    pairs = np.frombuffer(rng.bytes(N * PAIR.itemsize), PAIR)
    reals = rng.normal(size=(N, 3))
    with h5py.File(path, "w") as file:
        if request.param == "in one piece":
            file["pairs"], file["reals"], file["none"] = pairs, reals, reals[:0]
            return path
        arrays = GrowingArrays(file)
        for start in range(0, N, 1700):
            arrays.append("pairs", pairs[start : start + 1700])
            arrays.append("reals", reals[start : start + 1700])
        arrays.append("none", reals[:0])
        arrays.finish()
        for name, expected in (("pairs", pairs), ("reals", reals)):
            np.testing.assert_array_equal(file[name][()], expected)
            assert len(file[name]) > file[name].chunks[0]
    return path


def rows_of(file, name, dtype, *shape):
    return Rows(file, np.memmap(file.filename, np.uint8, "r"), name, np.dtype(dtype), *shape)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_runs_are_what_hdf5_reads(path, data):
    runs = data.draw(st.lists(st.tuples(st.integers(0, N), st.integers(0, 4000)), min_size=1))
    starts = np.array([start for start, _ in runs])
    stops = np.minimum(starts + [length for _, length in runs], N)
    with h5py.File(path) as file:
        for name, dtype, shape in (("pairs", PAIR, ()), ("reals", "<f8", (3,))):
            found = rows_of(file, name, dtype, *shape).read(starts, stops)
            whole = file[name][()]
            expected = np.concatenate([whole[a:b] for a, b in zip(starts, stops, strict=True)])
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, expected)


def test_all_rows(path):
    with h5py.File(path) as file:
        np.testing.assert_array_equal(rows_of(file, "pairs", PAIR).read_all(), file["pairs"][()])
        assert rows_of(file, "none", "<f8", 3).read_all().shape == (0, 3)


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"fletcher32": True}])
def test_filtered_arrays_are_refused(tmp_path, options):
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file.create_dataset("reals", data=np.zeros(100), chunks=(10,), **options)
        file.flush()
        with pytest.raises(ArtifactError, match=r"rows\.h5: reals: .* neither compressed"):
            rows_of(file, "reals", "<f8")


def test_a_part_that_was_never_written_is_refused(tmp_path):
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        array = file.create_dataset("reals", (100,), "<f8", chunks=(10,))
        array[:30] = 1.0
        file.flush()
        with pytest.raises(ArtifactError, match=r"rows\.h5: reals: 3 chunks, expected 10"):
            rows_of(file, "reals", "<f8")


def test_rows_beyond_the_file_are_an_error(path, tmp_path):
    with h5py.File(path) as file:
        mapped = np.memmap(file.filename, np.uint8, "r")[: file["pairs"].id.get_offset() or 4000]
        with pytest.raises(ArtifactError, match=r"rows\.h5: pairs: .*create the dataset again"):
            Rows(file, mapped, "pairs", PAIR).read_all()
