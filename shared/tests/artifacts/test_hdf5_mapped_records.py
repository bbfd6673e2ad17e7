"""What is read from the mapped file is what HDF5 reads, and what is unlike it is left to HDF5."""

import dataclasses
import shutil

import h5py
import numpy as np
import pytest
from h5py import h5g

from mace_jax.artifacts import dataset_mace_layout
from mace_jax.artifacts.dataset import Dataset, write_dataset_file
from mace_jax.artifacts.hdf5_items import read_item, read_item_if_present
from mace_jax.artifacts.hdf5_mapped_records import MappedRecords
from mace_jax.errors import DataError
from mace_jax.structures.structure import Structure

BATCH = "config_batch_0"


def random_structures(n, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for number in range(n):
        n_atoms = int(rng.integers(1, 5))
        properties = {
            "energy": rng.normal(size=()),
            "forces": rng.normal(size=(n_atoms, 3)),
            "stress": np.eye(3) * rng.normal(),
            "dipole": rng.normal(size=3),
        }
        kept = {name: value for name, value in properties.items() if rng.random() < 0.7}
        periodic = bool(rng.random() < 0.5)
        found.append(
            Structure(
                rng.integers(1, 90, n_atoms),
                rng.normal(size=(n_atoms, 3)),
                np.eye(3) * (5 if periodic else 0),
                np.full(3, periodic),
                kept,
                {name: float(rng.random()) for name in kept},
                float(rng.random()),
                config_type=f"type {'Ü' * (number % 40)}",
                head=f"head {number % 3}",
            )
        )
    return found


@pytest.fixture
def path(tmp_path, provenance):
    path = tmp_path / "a.h5"
    write_dataset_file(path, random_structures(200), provenance)
    return path


def read_by_hdf5(path):
    """Return the structures of a copy that does not say that it is ours."""
    copy = path.with_name("copy.h5")
    shutil.copy(path, copy)
    with h5py.File(copy, "a") as file:
        for name in list(file.attrs):
            del file.attrs[name]
    with Dataset(copy) as dataset:
        return list(dataset)


def assert_equal(found, expected):
    for field in dataclasses.fields(expected):
        if field.name != "place":
            one, other = getattr(found, field.name), getattr(expected, field.name)
            np.testing.assert_equal(one, other)
            assert getattr(one, "dtype", None) == getattr(other, "dtype", None)


def test_every_structure_is_what_hdf5_reads(path):
    expected = read_by_hdf5(path)
    with Dataset(path) as dataset:
        for order in (range(200), np.random.default_rng(1).permutation(200)):
            for number, found in zip(order, dataset.read(order), strict=True):
                assert_equal(found, expected[number])
                found.positions[:] = 0.0  # it is the caller's own


def group_and_address(file, number):
    batch = h5g.open(file.id, BATCH.encode())
    name = f"config_{number}".encode()
    return h5g.open(batch, name), batch.links.get_info(name).u


@pytest.fixture
def alike(tmp_path, provenance):
    """A file of structures of one kind."""
    path = tmp_path / "alike.h5"
    (one,) = random_structures(1)
    structures = [dataclasses.replace(one, weight=float(number)) for number in range(5)]
    write_dataset_file(path, structures, provenance)
    return path


def test_one_of_a_kind_is_enough_to_read_the_others(alike):
    records = MappedRecords(alike)
    with h5py.File(alike) as file:
        (first, at_first), (_, at_other) = (group_and_address(file, n) for n in (2, 3))
        addresses = [at_other, at_first, at_other + 1, 1 << 40]
        assert list(records.read(addresses)) == []
        records.learn(first, at_first)
        ((which, columns),) = records.read(addresses)
        assert which == [0, 1]
        assert columns["weight"].tolist() == [3.0, 2.0]
        items = {}
        group = file[f"{BATCH}/config_3"]
        group.visititems(lambda path, item: items.update({path: item}))
        assert columns.keys() == {p for p, item in items.items() if isinstance(item, h5py.Dataset)}
        for path, column in columns.items():
            np.testing.assert_array_equal(column[0], read_item(group.id, path))


def test_datasets_leave_to_hdf5_only_what_is_like_nothing_before(alike, monkeypatch):
    read_by_hdf5 = []

    def counted(group, path):
        read_by_hdf5.append(path)
        return read_item_if_present(group, path)

    monkeypatch.setattr(dataset_mace_layout, "read_item_if_present", counted)
    with Dataset(alike) as dataset:
        dataset.read([2])
        assert "positions" in read_by_hdf5
        read_by_hdf5.clear()
        assert [one.weight for one in dataset.read([4, 1, 3, 1])] == [4.0, 1.0, 3.0, 1.0]
        assert read_by_hdf5 == []
        dataset.read([0])
        assert "positions" in read_by_hdf5


def test_an_impossible_number_in_a_record_is_named(alike):
    with h5py.File(alike, "a") as file:
        file[f"{BATCH}/config_3/weight"][()] = -1.0
    with Dataset(alike) as dataset:
        dataset.read([2, 4])
        with pytest.raises(DataError, match=rf"{BATCH}/config_3: weight -1\.0"):
            dataset.read([2, 3, 4])


def test_the_first_of_a_kind_which_was_written_item_by_item_is_no_record(alike):
    records = MappedRecords(alike)
    with h5py.File(alike) as file:
        first, at_first = group_and_address(file, 0)
        records.learn(first, at_first)
        assert list(records.read([at_first])) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("properties/energy", np.float32(-0.5)),
        ("properties/energy", np.array(-0.5, ">f8")),
        ("atomic_numbers", np.array([1, 6, 8], np.int32)),
        ("atomic_numbers", np.array([1, 6, 8], ">i8")),
        ("pbc", np.array([0, 1, 0])),
        ("config_type", np.bytes_(b"slab")),
        ("weight", 0.125),
        ("properties/head", "of another length"),
    ],
)
def test_an_item_that_was_replaced_is_read_as_what_it_is(tmp_path, provenance, name, value):
    path = tmp_path / "a.h5"
    (one,) = [s for s in random_structures(50) if len(s) == 3 and "energy" in s.properties][:1]
    one = dataclasses.replace(one, pbc=np.zeros(3, bool))
    write_dataset_file(path, [one] * 6, provenance)
    with h5py.File(path, "a") as file:
        del file[f"{BATCH}/config_4/{name}"]
        file[f"{BATCH}/config_4/{name}"] = value
    expected = read_by_hdf5(path)
    with Dataset(path) as dataset:
        for number in (1, 2, 3, 4, 5, 4):
            assert_equal(dataset[number], expected[number])


def test_flipped_bytes_are_unknown_or_another_value_and_never_a_crash(alike):
    """They are flipped behind the back of HDF5, which may read a damaged heap for ever."""
    content, rng = alike.read_bytes(), np.random.default_rng(0)
    outcomes = set()
    with h5py.File(alike) as file, alike.open("r+b", buffering=0) as damaged:
        (first, at_first), (_, at_other) = (group_and_address(file, number) for number in (2, 3))
        (intact,) = learned(alike, first, at_first).read([at_other])
        for position in rng.integers(512, len(content), 500).tolist():
            records = learned(alike, first, at_first)
            damaged.seek(position)
            damaged.write(bytes([content[position] ^ int(rng.integers(1, 256))]))
            found = list(records.read([at_other]))
            assert [which for which, _ in found] in ([], [[0]])
            same = found and all(
                np.array_equal(column, intact[1][path]) for path, column in found[0][1].items()
            )
            outcomes.add("same" if same else "another value" if found else "unknown")
            damaged.seek(position)
            damaged.write(content[position : position + 1])
    assert outcomes == {"same", "another value", "unknown"}


def learned(path, group, address):
    records = MappedRecords(path)
    records.learn(group, address)
    return records
