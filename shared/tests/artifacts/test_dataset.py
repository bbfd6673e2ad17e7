import dataclasses
import json
import pickle
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mace_jax.artifacts.dataset import (
    Dataset,
    DatasetWriter,
    dataset_files,
    write_dataset_file,
)
from mace_jax.errors import ArtifactError, ConfigError, DataError
from mace_jax.structures.neighbor_list import PairList, neighbor_list, pair_list
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure

PROVENANCE = {"tool": "t", "tool_version": "0", "command": [], "seed": None, "inputs": []}
finite = st.floats(-1e6, 1e6)
names = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=8).filter(
    lambda name: name != "None"
)


@st.composite
def random_structures(draw):
    n = draw(st.integers(1, 4))
    shapes = {
        name: tuple(n if size == "n" else size for size in shape)
        for name, shape in PROPERTY_SHAPES.items()
    }
    labels = draw(st.sets(st.sampled_from(sorted(shapes))))
    return Structure(
        draw(arrays(np.int64, n, elements=st.integers(1, 118))),
        draw(arrays(np.float64, (n, 3), elements=finite)),
        draw(arrays(np.float64, (3, 3), elements=finite)) + 4e6 * np.eye(3),  # has a volume
        draw(arrays(np.bool_, 3)),
        {name: draw(arrays(np.float64, shapes[name], elements=finite)) for name in labels},
        {name: draw(st.floats(0, 10)) for name in labels},
        draw(st.floats(0, 10)),
        draw(names),
        draw(names),
    )


def assert_equal(found, expected):
    for name in ("atomic_numbers", "positions", "cell", "pbc"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert found.properties.keys() == expected.properties.keys()
    for name, value in expected.properties.items():
        np.testing.assert_array_equal(found.properties[name], value)
        assert found.properties[name].shape == value.shape
    assert found.property_weights == {
        name: expected.property_weights.get(name, 1.0) for name in expected.properties
    }
    for name in ("weight", "config_type", "head"):
        assert getattr(found, name) == getattr(expected, name)


def read(path):
    with Dataset(path) as dataset:
        return list(dataset)


def write(path, structures, **kwargs):
    write_dataset_file(path, structures, PROVENANCE, **kwargs)
    return path


@pytest.fixture
def path(tmp_path, water, crystal):
    return write(tmp_path / "train.h5", [water, crystal])


LAYOUTS = pytest.mark.parametrize("layout", ["mace", "flat"])


# --- round trip


def write_files(folder, structures, layout, n_files):
    """Write several files, each a contiguous part of the structures, which may be empty."""
    bounds = [len(structures) * i // n_files for i in range(n_files + 1)]
    for index in range(n_files):
        part = structures[bounds[index] : bounds[index + 1]]
        write(folder / f"train_{index}.h5", part, layout=layout, shard=(index, n_files))
    return folder


@settings(max_examples=40, deadline=None)
@given(
    st.lists(random_structures(), min_size=1, max_size=5),
    st.sampled_from(["mace", "flat"]),
    st.integers(1, 3),
    st.data(),
)
def test_what_is_written_is_read_in_any_order(structures, layout, n_files, data):
    number = st.integers(-len(structures), len(structures) - 1)
    order = data.draw(st.lists(number, max_size=8))
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), structures, layout, n_files)
        with Dataset(Path(folder)) as dataset:
            assert len(dataset) == len(structures)
            for found, expected in zip(dataset, structures, strict=True):
                assert_equal(found, expected)
            for found, index in zip(dataset.read(order), order, strict=True):
                assert_equal(found, structures[index])
                assert found.place == dataset.place(index)
                assert_equal(dataset[index], structures[index])


@settings(max_examples=20, deadline=None)
@given(st.lists(random_structures(), min_size=1, max_size=4))
def test_conversion_between_layouts_changes_nothing(structures):
    with tempfile.TemporaryDirectory() as folder:
        first = write(Path(folder) / "a.h5", structures, layout="flat")
        mace = write(Path(folder) / "b.h5", read(first), layout="mace")
        again = write(Path(folder) / "c.h5", read(mace), layout="flat")
        assert again.read_bytes() == first.read_bytes()
        for found, expected in zip(read(mace), structures, strict=True):
            assert_equal(found, expected)


@LAYOUTS
def test_an_empty_file_is_a_dataset_of_no_structures(tmp_path, layout):
    with Dataset(write(tmp_path / "a.h5", [], layout=layout)) as dataset:
        assert len(dataset) == 0
        assert list(dataset) == dataset.read([]) == []
        with pytest.raises(IndexError, match=r"a\.h5: structure 0, expected a number below 0"):
            dataset[0]


@LAYOUTS
@pytest.mark.parametrize("index", [2, -3])
def test_an_index_beyond_the_end(tmp_path, water, layout, index):
    path = write(tmp_path / "a.h5", [water, water], layout=layout)
    with Dataset(path) as dataset, pytest.raises(IndexError, match="number below 2"):
        dataset.read([0, index])


# --- streaming


def many(water, n):
    return [dataclasses.replace(water, weight=float(index)) for index in range(n)]


@LAYOUTS
@pytest.mark.parametrize("portion", [1, 100, 256, 300])
def test_bytes_do_not_depend_on_the_portions_of_writing(tmp_path, water, layout, portion):
    structures = many(water, 300)
    whole = write(tmp_path / "whole.h5", structures, layout=layout)
    with DatasetWriter(tmp_path / "parts.h5", PROVENANCE, layout=layout) as writer:
        for start in range(0, len(structures), portion):
            writer.write(structures[start : start + portion])
            assert not writer.path.exists()
        assert writer.n_structures == 300
    assert writer.path.read_bytes() == whole.read_bytes()
    assert [structure.weight for structure in read(whole)] == list(range(300))


@LAYOUTS
def test_a_label_may_appear_late(tmp_path, water, layout):
    late = dataclasses.replace(water, properties={**water.properties, "dipole": np.arange(3.0)})
    structures = [*[water] * 300, late, water]
    found = read(write(tmp_path / "a.h5", structures, layout=layout))
    assert ["dipole" in s.properties for s in found] == [False] * 300 + [True, False]
    np.testing.assert_array_equal(found[300].properties["dipole"], [0, 1, 2])


@LAYOUTS
@pytest.mark.parametrize("n", [1, 300])
@pytest.mark.parametrize(
    ("broken", "what"),
    [
        ({"config_type": "a\0b"}, r"config_type 'a\\x00b', expected text"),
        ({"head": "\ud800"}, r"head '\\ud800', expected text"),
        ({"positions": np.full((3, 3), np.nan)}, "positions of atom 0 is nan"),
        ({"properties": {"forces": np.zeros((2, 3))}}, "forces: shape"),
    ],
)
def test_a_failed_write_leaves_the_old_file(tmp_path, water, layout, n, broken, what):
    path = write(tmp_path / "train.h5", [water], layout=layout)
    before = path.read_bytes()
    broken = dataclasses.replace(water, **broken, place="a.xyz: frame 3")
    with pytest.raises(DataError, match=rf"a\.xyz: frame 3: {what}"):
        write(path, [*[water] * n, broken, *[water] * n], layout=layout)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["train.h5"]


def go_on_after_an_error(path, structures, layout):
    with DatasetWriter(path, PROVENANCE, layout=layout) as writer:
        with pytest.raises(DataError, match="positions"):
            writer.write(structures)
        writer.write(structures[:1])


@LAYOUTS
def test_who_goes_on_after_an_error_gets_no_file(tmp_path, water, layout):
    broken = dataclasses.replace(water, positions=np.full((3, 3), np.nan))
    with pytest.raises(DataError, match="positions"):
        go_on_after_an_error(tmp_path / "a.h5", [water, broken] * 128, layout)
    assert not list(tmp_path.iterdir())


@LAYOUTS
def test_equal_content_gives_equal_bytes(tmp_path, water, crystal, layout):
    first = write(tmp_path / "a.h5", [water, crystal], layout=layout)
    time.sleep(1.1)  # HDF5 can store whole seconds
    again = write(tmp_path / "b.h5", [water, crystal], layout=layout)
    assert first.read_bytes() == again.read_bytes()


# --- pairs


def pairs_of(structures, r_max=4.0):
    return [pair_list(neighbor_list(structure, r_max)) for structure in structures]


def write_pairs(path, structures, r_max=4.0, **kwargs):
    with DatasetWriter(path, PROVENANCE, layout="flat", r_max=r_max, **kwargs) as writer:
        writer.write(structures, pairs_of(structures, r_max))
    return path


def atom():
    return Structure(np.array([18]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool))


def test_pairs_are_stored_and_read_in_any_order(tmp_path, water, crystal):
    structures = [water, atom(), crystal] * 100
    expected = pairs_of(structures)
    assert [len(pairs.senders) for pairs in expected[:2]] == [3, 0]
    assert expected[2].shifts.any()
    with Dataset(write_pairs(tmp_path / "a.h5", structures)) as dataset:
        assert dataset.r_max == 4.0
        for order in (range(300), [7], [2, 1, 1, 299, 0], [1, 4]):
            for found, index in zip(dataset.read_pairs(order), order, strict=True):
                for array, wanted in zip(found, expected[index], strict=True):
                    np.testing.assert_array_equal(array, wanted)
                    assert (array.dtype, array.shape) == (np.int32, wanted.shape)


def test_cutoffs_that_differ_are_no_cutoff(tmp_path, water):
    write_pairs(tmp_path / "a_0.h5", [water], 4.0, shard=(0, 2))
    write_pairs(tmp_path / "a_1.h5", [water], 5.0, shard=(1, 2))
    with Dataset(tmp_path) as dataset:
        assert dataset.r_max is None
        with pytest.raises(ArtifactError, match="stores no pairs"):
            dataset.read_pairs([0])


@LAYOUTS
def test_no_pairs(tmp_path, water, layout):
    with Dataset(write(tmp_path / "a.h5", [water], layout=layout)) as dataset:
        assert dataset.r_max is None
        with pytest.raises(ArtifactError, match=r"a\.h5: stores no pairs"):
            dataset.read_pairs([0])


def test_layout_mace_has_no_place_for_pairs(tmp_path):
    with pytest.raises(ConfigError, match="choose layout flat"):
        DatasetWriter(tmp_path / "a.h5", PROVENANCE, r_max=4.0)


@pytest.mark.parametrize(("r_max", "n_pairs"), [(4.0, None), (4.0, 1), (None, 2)])
def test_pairs_and_structures_must_match(tmp_path, water, r_max, n_pairs):
    with (
        pytest.raises(ValueError, match="pairs of every structure"),
        DatasetWriter(tmp_path / "a.h5", PROVENANCE, layout="flat", r_max=r_max) as writer,
    ):
        writer.write([water, water], None if n_pairs is None else pairs_of([water] * n_pairs))


@pytest.mark.parametrize(
    ("senders", "receivers", "shifts"),
    [
        ([0], [1], [0, 128, 0]),
        ([0], [1], [0, 0, -129]),
        ([3], [1], [0, 0, 0]),
        ([0], [-1], [0] * 3),
    ],
)
def test_pairs_that_do_not_fit_are_refused_and_never_wrapped(
    tmp_path, water, senders, receivers, shifts
):
    pairs = PairList(*(np.array(x, np.int32) for x in (senders, receivers, [shifts])))
    named = dataclasses.replace(water, place="a.xyz: frame 7")
    with (
        pytest.raises(DataError, match=r"a\.xyz: frame 7: a pair of atoms"),
        DatasetWriter(tmp_path / "a.h5", PROVENANCE, layout="flat", r_max=4.0) as writer,
    ):
        writer.write([water, named], [pairs_of([water])[0], pairs])
    assert not list(tmp_path.iterdir())


def test_shifts_at_the_edge_fit(tmp_path, crystal):
    shifts = np.array([[-128, 127, 0]], np.int32)
    pairs = PairList(np.zeros(1, np.int32), np.ones(1, np.int32), shifts)
    with DatasetWriter(tmp_path / "a.h5", PROVENANCE, layout="flat", r_max=4.0) as writer:
        writer.write([crystal], [pairs])
    with Dataset(writer.path) as dataset:
        np.testing.assert_array_equal(dataset.read_pairs([0])[0].shifts, shifts)


# --- threads and processes


def weights_of(dataset, start):
    return [structure.weight for structure in dataset.read(range(start, start + 50))]


@LAYOUTS
def test_threads_share_a_dataset(tmp_path, water, layout):
    path = write(tmp_path / "a.h5", many(water, 100), layout=layout)
    with Dataset(path) as dataset, ThreadPoolExecutor(4) as pool:
        starts = [0, 30, 50, 10] * 3
        results = pool.map(lambda start: weights_of(dataset, start), starts)
        for start, found in zip(starts, results, strict=True):
            assert found == list(range(start, start + 50))


@LAYOUTS
def test_a_process_opens_its_own(tmp_path, water, layout):
    path = write(tmp_path / "a.h5", many(water, 60), layout=layout)
    with Dataset(path) as dataset:
        digest = dataset.sha256()
        with pickle.loads(pickle.dumps(dataset)) as copy:
            assert weights_of(copy, 0) == list(range(50))
            path.unlink()  # the digest came along
            assert copy.sha256() == digest


# --- the tree of Torch MACE


def test_the_tree_is_torch_maces_and_nothing_extra(path):
    with h5py.File(path) as file:
        assert list(file) == ["config_batch_0"]
        assert sorted(file["config_batch_0"]) == ["config_0", "config_1"]
        assert file.attrs["drop_last"].dtype == np.bool_
        config = file["config_batch_0/config_0"]
        items = "atomic_numbers cell config_type pbc positions properties property_weights weight"
        assert sorted(config) == items.split()
        eight = sorted([*PROPERTY_SHAPES, "head"])
        assert sorted(config["properties"]) == sorted(config["property_weights"]) == eight
        assert config["properties/stress"][()] == b"None"
        assert config["property_weights/stress"][()] == 0.0
        assert config["property_weights/energy"][()] == 1.0
        assert config["atomic_numbers"].dtype == np.int64
        assert config["pbc"].dtype == np.bool_
        assert config["weight"].dtype == np.float64
        assert config["positions"].chunks is None
        assert json.loads(file.attrs["schema"]) == {"kind": "dataset", "version": 2}
        assert json.loads(file.attrs["provenance"]) == PROVENANCE


@pytest.mark.parametrize(("n_in_set", "drop_last"), [(None, False), (7, True), (8, False)])
def test_drop_last_says_whether_the_whole_set_is_odd(tmp_path, water, n_in_set, drop_last):
    path = write(tmp_path / "a.h5", [water, water], n_in_set=n_in_set)
    with h5py.File(path) as file:
        assert file.attrs["drop_last"] == drop_last


# --- several files


def shards(folder, structures, count):
    folder.mkdir()
    for index in range(count):
        part = structures[index::count]
        write(folder / f"train_{index}.h5", part, n_in_set=len(structures), shard=(index, count))
    return folder


def test_shards_are_read_in_natural_order(tmp_path, water, crystal):
    folder = shards(tmp_path / "train", [water, crystal] * 6, 12)
    expected = [f"train_{index}.h5" for index in range(12)]
    assert [file.name for file in dataset_files(folder)] == expected
    with Dataset(folder) as dataset:
        assert len(dataset) == 12
        assert [len(structure) for structure in dataset] == [3, 2] * 6
        assert "train_10.h5: config_batch_0/config_0" in dataset.place(10)


def test_a_glob_may_name_some_of_the_files(tmp_path, water):
    folder = shards(tmp_path / "train", [water] * 3, 3)
    assert len(read(folder / "train_[01].h5")) == 2
    assert len(read(folder / "train_2.h5")) == 1


def test_a_missing_shard_is_refused(tmp_path, water):
    folder = shards(tmp_path / "train", [water] * 3, 3)
    (folder / "train_1.h5").unlink()
    with pytest.raises(ArtifactError, match=r"holds shards \[0, 2\] of 3"):
        Dataset(folder)


@pytest.mark.parametrize("shard", [(0, 1), (2, 3), (3, 4)])
def test_an_extra_file_is_refused(tmp_path, water, shard):
    folder = shards(tmp_path / "train", [water] * 3, 3)
    write(folder / "zzz.h5", [water], shard=shard)
    with pytest.raises(ArtifactError, match="expected all of one set and nothing else"):
        Dataset(folder)


def test_shards_of_two_different_sets_are_refused(tmp_path, water):
    folder = shards(tmp_path / "train", [water] * 2, 2)
    write(folder / "train_1.h5", [water], shard=(1, 3))
    with pytest.raises(ArtifactError, match="expected all of one set"):
        Dataset(folder)


def test_files_of_both_layouts_are_refused(tmp_path, water):
    write(tmp_path / "train_0.h5", [water], layout="mace", shard=(0, 2))
    write(tmp_path / "train_1.h5", [water], layout="flat", shard=(1, 2))
    with pytest.raises(ArtifactError, match="files of layouts flat and mace, expected one"):
        Dataset(tmp_path)
    with Dataset(tmp_path / "train_1.h5") as dataset:
        assert dataset.layout == "flat"


def test_the_digest_names_content_and_order(tmp_path, water, crystal):
    one = shards(tmp_path / "one", [water, crystal], 2)
    two = shards(tmp_path / "two", [crystal, water], 2)
    again = shards(tmp_path / "again", [water, crystal], 2)
    digests = []
    for folder in (one, two, again):
        with Dataset(folder) as dataset:
            digests.append(dataset.sha256())
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize("name", ["absent.h5", "absent/*.h5", "empty"])
def test_nothing_there(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="no HDF5 file there"):
        Dataset(tmp_path / name)


# --- files of Torch MACE


def torch_style(path, n=2, n_batches=1):
    """A file as mace_prepare_data 0.3.16 writes it: no tag, Voigt stress, missing as 'None'."""
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        file.attrs["drop_last"] = False
        for number in range(n * n_batches):
            group = file.create_group(f"config_batch_{number // n}/config_{number % n}")
            group["atomic_numbers"] = np.array([6, 8])
            group["positions"] = np.array([[0.0, 0, 0], [0, 0, 1 + number]])
            group["cell"] = np.eye(3) * 9
            group["pbc"] = np.array([True, True, True])
            group["weight"] = 1.0
            group["config_type"] = "Default"
            properties = group.create_group("properties")
            weights = group.create_group("property_weights")
            known = {"energy": -3.5, "forces": np.ones((2, 3)), "stress": np.arange(1.0, 7)}
            for name in (*PROPERTY_SHAPES, "head"):
                weights[name] = 1.0 if name in known or name == "head" else 0.0
                if name in known:
                    properties[name] = known[name]
                else:
                    value = "" if name == "head" else "None"
                    properties.create_dataset(name, data=value, dtype=text)
    return path


def test_a_file_of_torch_mace(tmp_path):
    first, second = read(torch_style(tmp_path / "a.h5"))
    assert first.properties.keys() == {"energy", "forces", "stress"}
    assert first.properties["energy"] == -3.5
    expected = [[1, 6, 5], [6, 2, 4], [5, 4, 3]]
    np.testing.assert_array_equal(first.properties["stress"], expected)
    assert (first.head, first.config_type, first.weight) == ("Default", "Default", 1.0)
    assert second.positions[1, 2] == 2


def test_several_batch_groups_are_read_in_numeric_order(tmp_path):
    path = torch_style(tmp_path / "a.h5", 1, 12)
    assert [s.positions[1, 2] for s in read(path)] == list(range(1, 13))


def test_a_folder_of_torch_mace(tmp_path):
    for shard in range(2):
        torch_style(tmp_path / f"train_{shard}.h5")
    assert len(read(tmp_path)) == 4


def test_an_absent_cell_and_pbc_mean_a_molecule(tmp_path):
    path = torch_style(tmp_path / "a.h5", 1)
    with h5py.File(path, "a") as file:
        for name in ("cell", "pbc"):
            del file[f"config_batch_0/config_0/{name}"]
            file[f"config_batch_0/config_0/{name}"] = "None"
    (structure,) = read(path)
    assert not structure.cell.any()
    assert not structure.pbc.any()


# --- damaged files


def test_a_truncated_file_is_refused_wherever_it_is_cut(path):
    content = path.read_bytes()
    for length in [0, 1, 8, 100, *range(512, len(content), len(content) // 40), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"train\.h5: not a complete HDF5 file"):
            read(path)


@pytest.mark.parametrize("content", [b"not HDF5", b"\x89HDF\r\n\x1a\n" + b"\xff" * 4000])
def test_random_bytes_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        read(path)


def edit(path, name, value):
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("atomic_numbers", None),
        ("positions", None),
        ("positions", np.zeros((2, 3))),
        ("positions", np.full((3, 3), np.nan)),
        ("positions", "text"),
        ("cell", np.zeros(9)),
        ("pbc", np.zeros(2, dtype=bool)),
        ("properties", None),
        ("properties/energy", np.nan),
        ("properties/energy", np.zeros(1)),
        ("properties/forces", np.zeros((2, 3))),
        ("properties/stress", np.zeros(5)),
        ("property_weights/energy", None),
        ("weight", None),
        ("weight", np.nan),
        ("config_type", None),
    ],
)
def test_a_damaged_structure_is_named(path, name, value):
    edit(path, f"config_batch_0/config_0/{name}", value)
    with pytest.raises((ArtifactError, DataError), match=r"train\.h5: config_batch_0/config_0"):
        read(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schema", "{"),
        ("schema", 3),
        ("schema", json.dumps({"kind": "dataset", "version": 3})),
        ("schema", json.dumps({"kind": "batch_plan", "version": 1})),
        ("provenance", "{}"),
        ("layout", "flat"),
        ("layout", 1),
        ("layout", np.zeros(3)),
        ("n_structures", 3),
        ("n_structures", -1),
        ("n_structures", "two"),
        ("n_structures", np.zeros(3)),
        ("shard_count", 0),
        ("shard_index", None),
    ],
)
def test_wrong_root_attributes_are_refused(path, name, value):
    with h5py.File(path, "a") as file:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value
    with pytest.raises(ArtifactError, match=r"train\.h5"):
        Dataset(path)


def test_a_structure_less_than_promised_is_refused(path):
    with h5py.File(path, "a") as file:
        del file["config_batch_0/config_1"]
    with pytest.raises(ArtifactError, match="holds 1 structures, expected 2"):
        Dataset(path)


@pytest.mark.parametrize("tree", ["other/config_0", "config_batch_x/config_0", "config_batch_0/a"])
def test_a_foreign_tree_is_refused(tmp_path, tree):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_group(tree)
    with pytest.raises(ArtifactError, match=r"a\.h5"):
        Dataset(path)


def test_a_batch_that_is_no_group_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["config_batch_0"] = 1.0
    with pytest.raises(ArtifactError, match=r"a\.h5"):
        Dataset(path)
