"""Files as Torch MACE writes them, and as people change them."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from mace_jax.artifacts.dataset import Dataset, write_dataset_file
from mace_jax.errors import ArtifactError
from mace_jax.structures.structure import PROPERTY_SHAPES

TEXT = h5py.string_dtype()
FIRST = "config_batch_0/config_0"


def write_config(file, path, **changes):
    """One structure as ``mace_prepare_data`` 0.3.16 writes it; ``None`` leaves an item out."""
    items = {
        "atomic_numbers": np.array([6, 8]),
        "positions": np.array([[0.0, 0, 0], [0, 0, 1.1]]),
        "cell": np.eye(3) * 9,
        "pbc": np.ones(3, dtype=bool),
        "weight": 1.0,
        "config_type": "Default",
        "properties/energy": -3.5,
        "properties/forces": np.ones((2, 3)),
        "properties/head": "",
        "property_weights/energy": 1.0,
        "property_weights/forces": 1.0,
        "property_weights/head": 1.0,
    }
    for name in PROPERTY_SHAPES.keys() - {"energy", "forces"}:
        items |= {f"properties/{name}": "None", f"property_weights/{name}": 0.0}
    group = file.create_group(path)
    for name, value in {**items, **changes}.items():
        if isinstance(value, str):
            group.create_dataset(name, data=value, dtype=TEXT)
        elif value is not None:
            group[name] = value


def read(path):
    with Dataset(path) as dataset:
        return list(dataset)


def read_one(tmp_path, **changes):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        write_config(file, FIRST, **changes)
    (structure,) = read(path)
    return structure


def test_batches_of_different_lengths(tmp_path):
    """mace-torch takes the first batch's length for all; nothing is to be lost or invented."""
    lengths = [2, 11, 1]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for batch, length in enumerate(lengths):
            for number in range(length):
                path = f"config_batch_{batch}/config_{number}"
                write_config(file, path, weight=batch + number / 100)
    with Dataset(tmp_path / "a.h5") as dataset:
        expected = [b + n / 100 for b, length in enumerate(lengths) for n in range(length)]
        assert [structure.weight for structure in dataset] == expected
        assert dataset.read([13])[0].weight == 2.0
        assert dataset.place(13).endswith("a.h5: config_batch_2/config_0")
        assert dataset.place(12).endswith("a.h5: config_batch_1/config_10")


def test_batches_and_structures_are_in_numeric_order(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for batch in (10, 2):
            for number in (0, 10, 9):
                write_config(file, f"config_batch_{batch}/config_{number}", weight=batch + number)
    assert [structure.weight for structure in read(tmp_path / "a.h5")] == [2, 11, 12, 10, 19, 20]


@pytest.mark.parametrize(
    ("stress", "expected"),
    [
        (np.arange(1.0, 7), [[1, 6, 5], [6, 2, 4], [5, 4, 3]]),
        (np.arange(9.0), np.arange(9.0).reshape(3, 3)),
        (np.arange(9.0).reshape(3, 3), np.arange(9.0).reshape(3, 3)),
    ],
)
def test_stress_in_all_shapes(tmp_path, stress, expected):
    changes = {"properties/stress": stress, "property_weights/stress": 1.0}
    np.testing.assert_array_equal(read_one(tmp_path, **changes).properties["stress"], expected)


@pytest.mark.parametrize(
    ("name", "head"),
    [("", "Default"), ("None", "Default"), (None, "Default"), ("pbe", "pbe"), ("Ü κ", "Ü κ")],
)
def test_heads(tmp_path, name, head):
    assert read_one(tmp_path, **{"properties/head": name}).head == head


@pytest.mark.parametrize("text", ["slab", np.bytes_(b"slab"), b"slab"])
def test_texts_of_all_kinds(tmp_path, text):
    assert read_one(tmp_path, config_type=text).config_type == "slab"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("energy", np.int64(-3)),
        ("energy", np.float32(-3)),
        ("energy", np.array(-3.0, ">f8")),
        ("forces", np.ones((2, 3), dtype=np.int32)),
    ],
)
def test_numbers_of_all_kinds(tmp_path, name, value):
    found = read_one(tmp_path, **{f"properties/{name}": value}).properties[name]
    np.testing.assert_array_equal(found, value)
    assert found.dtype == np.float64


@pytest.mark.parametrize("kind", ["<i4", "<u1", ">i8"])
def test_atomic_numbers_of_all_kinds(tmp_path, kind):
    found = read_one(tmp_path, atomic_numbers=np.array([6, 8], kind)).atomic_numbers
    np.testing.assert_array_equal(found, [6, 8])
    assert found.dtype == np.int64


def test_atomic_numbers_that_are_not_whole_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match=rf"a\.h5: {FIRST}: atomic_numbers of type float64"):
        read_one(tmp_path, atomic_numbers=np.array([6.5, 8]))


def test_pbc_of_integers(tmp_path):
    structure = read_one(tmp_path, pbc=np.array([1, 0, 2]))
    np.testing.assert_array_equal(structure.pbc, [True, False, True])


def test_labels_of_an_older_version_that_are_not_there(tmp_path):
    structure = read_one(tmp_path, **{"properties/polarizability": None, "properties/head": None})
    assert structure.properties.keys() == {"energy", "forces"}


def test_an_entry_that_is_not_a_label_is_left_alone(tmp_path):
    structure = read_one(tmp_path, **{"properties/total_charge": 1.0})
    assert structure.properties.keys() == {"energy", "forces"}


def test_compressed_arrays(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_config(file, FIRST, positions=None)
        positions = np.arange(6.0).reshape(2, 3)
        file.create_dataset(f"{FIRST}/positions", data=positions, compression="gzip", chunks=(1, 3))
    np.testing.assert_array_equal(read(tmp_path / "a.h5")[0].positions, positions)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config_type", 1.0),
        ("config_type", np.array(["a", "b", "c"], dtype=object)),
        ("properties/energy", "none"),
        ("properties/energy", 1j),
        ("properties/head", np.array(["a", "b"], dtype=object)),
        ("properties/forces", np.void(b"abc")),
        ("positions", "None"),
        ("cell", "nothing"),
        ("weight", "None"),
        ("weight", np.ones(2)),
    ],
)
def test_an_item_of_another_kind_is_refused(tmp_path, name, value):
    with pytest.raises(ArtifactError, match=rf"a\.h5: {FIRST}: "):
        read_one(tmp_path, **{name: value})


def test_a_group_in_the_place_of_an_array_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=rf"a\.h5: {FIRST}: "):
        read_one(tmp_path, **{"properties/energy": None, "properties/energy/x": 1.0})


def test_a_gap_in_a_file_of_ours_is_found(tmp_path, water):
    path = tmp_path / "a.h5"
    write_dataset_file(path, [water] * 3, {**PROVENANCE})
    with h5py.File(path, "a") as file:
        file.move("config_batch_0/config_1", "config_batch_0/config_7")
    with Dataset(path) as dataset:
        assert len(dataset.read([0, 2])) == 2
        with pytest.raises(ArtifactError, match=r"a\.h5: config_batch_0/config_1: .*create"):
            dataset.read([1])


PROVENANCE = {"tool": "t", "tool_version": "0", "command": [], "seed": None, "inputs": []}


def test_large_arrays_do_not_fit_beside_their_description(tmp_path, water):
    import dataclasses

    n = 3000
    positions = np.arange(3.0 * n).reshape(n, 3)
    large = dataclasses.replace(
        water, atomic_numbers=np.ones(n, dtype=int), positions=positions, properties={}
    )
    path = tmp_path / "a.h5"
    write_dataset_file(path, [large], PROVENANCE)
    np.testing.assert_array_equal(read(path)[0].positions, positions)


def test_arrays_in_any_memory_order(tmp_path, water):
    import dataclasses

    turned = dataclasses.replace(water, positions=np.asfortranarray(water.positions))
    assert not turned.positions.flags.c_contiguous
    path = tmp_path / "a.h5"
    write_dataset_file(path, [turned], PROVENANCE)
    np.testing.assert_array_equal(read(path)[0].positions, water.positions)


# --- groups that begin as copies

KINDS = [
    {},
    {"positions": np.ones((3, 3)), "atomic_numbers": np.array([8, 1, 9])},
    {"cell": np.eye(3) * 7, "pbc": np.array([True, False, True])},
    {"weight": 0.25, "config_type": "Ü κ, a longer name", "head": "x"},
    {"properties": {"energy": np.array(-1.0), "forces": np.zeros((3, 3))}},
    {"property_weights": {"energy": 0.0, "forces": 3.0}},
    {"properties": {"energy": np.array(2.0)}},
    {"properties": {"stress": np.eye(3)}},
    {"properties": {}},
]


@pytest.mark.parametrize("most_models", [1, 256])
def test_a_structure_takes_nothing_over_from_others_of_its_kind(
    tmp_path, monkeypatch, provenance, water, most_models
):
    monkeypatch.setattr("mace_jax.artifacts.dataset_mace_layout._MOST_MODELS", most_models)
    structures = [dataclasses.replace(water, **changes) for changes in [*KINDS, *KINDS[::-1]]]
    write_dataset_file(tmp_path / "a.h5", structures, provenance)
    for number, (found, expected) in enumerate(
        zip(read(tmp_path / "a.h5"), structures, strict=True)
    ):
        write_dataset_file(tmp_path / "alone.h5", [expected], provenance)
        (alone,) = read(tmp_path / "alone.h5")
        for name, value in vars(alone).items():
            if name != "place":
                np.testing.assert_equal(getattr(found, name), value)
        with h5py.File(tmp_path / "a.h5") as file, h5py.File(tmp_path / "alone.h5") as other:
            group, single = file[f"config_batch_0/config_{number}"], other[FIRST]
            assert items_of(group) == items_of(single)


ARCHIVE = Path(__file__).parents[3] / "tests" / "archives" / "dataset" / "v1" / "train.h5"


def test_a_file_of_the_first_version_written_again_is_the_same(tmp_path, provenance):
    """But for who wrote it, the version, and that arrays lie in their headers now: compact."""
    with Dataset(ARCHIVE) as dataset:
        structures = list(dataset)
    write_dataset_file(tmp_path / "again.h5", structures, provenance)
    with h5py.File(ARCHIVE) as archive, h5py.File(tmp_path / "again.h5") as again:
        assert items_of(again).keys() == items_of(archive).keys()
        for name, item in items_of(again).items():
            before, now = archive[name], again[name]
            assert type(now) is type(before)
            if item != "group":
                assert now.id.get_type() == before.id.get_type(), name
                assert (now.shape, now.chunks, now.compression) == (before.shape, None, None)
                np.testing.assert_array_equal(now[()], before[()], strict=True)
        assert again.attrs.keys() == archive.attrs.keys()
        for name in archive.attrs.keys() - {"schema", "provenance"}:
            assert type(again.attrs[name]) is type(archive.attrs[name])
            assert again.attrs[name] == archive.attrs[name]


def items_of(group):
    """What every item of a group is and holds, as HDF5 says."""
    found = {}
    group.visititems(lambda name, item: found.update({name: described(item)}))
    return found


def described(item):
    if isinstance(item, h5py.Group):
        return "group"
    kind = item.id.get_type().encode()
    layout = item.id.get_create_plist().get_layout()
    return item.shape, kind, layout, np.asarray(item[()]).tolist()
