"""What is in a flat file, and how damage shows."""

import contextlib
import pickle
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from mace_jax.artifacts.dataset import Dataset, DatasetWriter, keep_frames
from mace_jax.errors import ArtifactError, DataError
from mace_jax.structures.neighbor_list import neighbor_list, pair_list
from mace_jax.structures.structure import Structure

PROVENANCE = {"tool": "t", "tool_version": "0", "command": [], "seed": None, "inputs": []}


@pytest.fixture
def path(tmp_path, water, crystal):
    """Water (3 atoms, 3 pairs), a crystal (2 atoms, 13 pairs) that alone has a stress, water."""
    structures = [water, crystal, water]
    with DatasetWriter(tmp_path / "a.h5", PROVENANCE, layout="flat", r_max=4.0) as writer:
        writer.write(structures, [pair_list(neighbor_list(s, 4.0)) for s in structures])
    return writer.path


def read_everything(path):
    with Dataset(path) as dataset:
        return list(dataset), dataset.read_pairs(range(len(dataset)))


def test_what_is_in_the_file(path, water, crystal):
    with h5py.File(path) as file:
        assert file["n_node"][()].tolist() == [3, 2, 3]
        assert file["n_pair"][()].tolist() == [3, 13, 3]
        assert file["atomic_numbers"][()].tolist() == [8, 1, 1, 6, 14, 8, 1, 1]
        expected = np.concatenate([water.positions, crystal.positions, water.positions])
        np.testing.assert_array_equal(file["positions"], expected)
        names = file["names"].asstr()[()].tolist()
        table = file["structures"][()]
        assert [names[code] for code in table["head"]] == ["Default", "pbe", "Default"]
        assert [names[code] for code in table["config_type"]] == ["Default", "bulk", "Default"]
        assert table["weight"].tolist() == [1, 1.5, 1]
        np.testing.assert_array_equal(table["pbc"][1], crystal.pbc)
        np.testing.assert_array_equal(table["property_weights"][1], [2, 0.5, 3, 0, 0, 0, 0])
        assert sorted(file["properties"]) == ["energy", "forces", "stress"]
        assert file["properties/stress/present"][()].tolist() == [False, True, False]
        stress = crystal.properties["stress"]
        np.testing.assert_array_equal(file["properties/stress/values"], [stress])
        assert file["properties/energy/values"][()].tolist() == [-14.25, -9.5, -14.25]
        assert file["pairs"].dtype.itemsize == 7


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """16 000 structures of 50 atoms each, told by their energies, in a file of 40 MB."""
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path_factory.mktemp("many") / "a.h5", PROVENANCE, layout="flat") as to:
        for number in range(16_000):
            positions, cell, pbc = rng.normal(size=(50, 3)), np.zeros((3, 3)), np.zeros(3, bool)
            labels = {"energy": np.array(float(number)), "forces": positions - number}
            to.write([Structure(np.full(50, 6), positions, cell, pbc, labels)])
    assert to.path.stat().st_size > 38e6
    return to.path


def memory(name):
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux")
def test_scattered_structures_bring_little_of_the_file_into_memory(many):
    with Dataset(many) as dataset:
        dataset.read_block(np.arange(300))
        wanted = np.random.default_rng(1).permutation(16_000)[:300]
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        before = memory("VmRSS")
        block = dataset.read_block(wanted)
        assert memory("VmHWM") - before < 8e6
        np.testing.assert_array_equal(block.labels["energy"].values, wanted)
        shifts = block.positions - block.labels["forces"].values
        np.testing.assert_allclose(shifts, np.repeat(wanted, 50)[:, None] + np.zeros(3))


def test_a_missing_label_takes_no_room_and_is_no_zero(path):
    structures, _ = read_everything(path)
    assert ["stress" in structure.properties for structure in structures] == [False, True, False]


def test_a_converted_file_speaks_of_the_frames_that_it_was_made_of(path):
    keep_frames(path, np.array([2, 3, 7]))
    with Dataset(path, "water.xyz") as dataset:
        assert [structure.place for structure in dataset][1:] == [
            "water.xyz: frame 3",
            "water.xyz: frame 7",
        ]
        assert (dataset.place(0), dataset.name) == ("water.xyz: frame 2", "water.xyz")
        assert pickle.loads(pickle.dumps(dataset)).place(2) == "water.xyz: frame 7"
    with Dataset(path) as dataset:
        assert dataset[2].place == f"{path}: structure 2"


def test_as_many_frames_as_structures(path):
    keep_frames(path, np.array([2, 3]))
    with pytest.raises(ArtifactError, match="frames: 2 rows, expected 3"):
        Dataset(path, "water.xyz")


def test_opening_reads_counts_only(path):
    """Damaged coordinates are noticed when they are read, and then the place is named."""
    with h5py.File(path, "a") as file:
        file["positions"][4] = np.nan
    with Dataset(path) as dataset:
        assert len(dataset) == 3
        assert len(dataset.read([0, 2])) == 2
        with pytest.raises(DataError, match=r"a\.h5: structure 1: positions of atom 1 is nan"):
            dataset.read([0, 1])


def change(path, name, value):
    """Put another array into the place of ``name``, or nothing."""
    with h5py.File(path, "a") as file:
        value = value(file[name][()]) if callable(value) else value
        del file[name]
        if value is not None:
            file[name] = value


ARRAYS = [
    *("n_node", "n_pair", "structures", "atomic_numbers", "positions", "pairs"),
    *("properties/energy/present", "properties/energy/values", "properties/forces/values"),
]


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        lambda array: array[:-1],
        lambda array: array[:0],
        lambda array: np.concatenate([array, array[:1]]),
        lambda array: array[:, None],
        lambda array: array.view("u1"),
        lambda array: np.zeros(array.shape, "<f4"),
        lambda array: np.zeros(array.shape, ">i8"),
    ],
    ids=["missing", "text", "short", "empty", "long", "deep", "bytes", "float32", "swapped"],
)
def test_an_array_that_is_not_what_it_must_be_is_named(path, name, value):
    if name == "atomic_numbers" and callable(value) and value(np.zeros(1, "u1")).dtype == "u1":
        value = lambda array: array[:3].view("i1")  # noqa: E731 - bytes are what it holds anyhow
    change(path, name, value)
    with pytest.raises(ArtifactError, match=rf"a\.h5: {name.removesuffix('/values')}"):
        read_everything(path)


@pytest.mark.parametrize(
    "value", [None, "text", np.zeros(4), np.array([["a", "b"]], dtype=object), np.bytes_(b"ab")]
)
def test_names_that_are_none_are_refused(path, value):
    change(path, "names", value)
    with pytest.raises(ArtifactError, match=r"a\.h5: names"):
        read_everything(path)


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("n_node", 1, 0, "structure 1: n_node 0, expected at least 1"),
        ("n_node", 2, -3, "structure 2: n_node -3, expected at least 1"),
        ("n_node", 1, 3, "atomic_numbers: 8 rows, expected 9"),
        ("n_node", 0, 2**31 - 1, "atomic_numbers: 8 rows, expected 2147483652"),
        ("n_pair", 0, -1, "structure 0: n_pair -1, expected at least 0"),
        ("n_pair", 0, 4, "pairs: 19 rows, expected 20"),
        ("properties/stress/present", 0, True, "properties/stress/values: 1 rows, expected 2"),
        ("properties/forces/present", 1, False, "properties/forces/values: 8 rows, expected 6"),
    ],
)
def test_counts_that_do_not_add_up_are_found_on_opening(path, name, index, value, message):
    with h5py.File(path, "a") as file:
        file[name][index] = value
    with pytest.raises(ArtifactError, match=rf"a\.h5: {message}"):
        Dataset(path)


def test_counts_that_add_up_but_run_backwards_are_refused(path):
    with h5py.File(path, "a") as file:
        file["n_node"][:] = [9, -4, 3]
    with pytest.raises(ArtifactError, match=r"a\.h5: structure 1: n_node -4"):
        Dataset(path)


@pytest.mark.parametrize("column", ["head", "config_type"])
@pytest.mark.parametrize("code", [-1, 3, 2**31 - 1])
def test_a_name_out_of_range_is_refused(path, column, code):
    with h5py.File(path, "a") as file:
        table = file["structures"][()]
        table[column][1] = code
        file["structures"][()] = table
    with Dataset(path) as dataset:
        assert len(dataset.read([0, 2])) == 2
        with pytest.raises(ArtifactError, match=rf"a\.h5: structure 1: {column} is name {code}"):
            dataset.read([2, 1, 0])


@pytest.mark.parametrize(("column", "atom"), [("sender", 2), ("receiver", 65535)])
def test_a_pair_of_atoms_that_are_not_there_is_refused(path, column, atom):
    with h5py.File(path, "a") as file:
        pairs = file["pairs"][()]
        pairs[column][3] = atom
        file["pairs"][()] = pairs
    with Dataset(path) as dataset:
        assert len(dataset.read_pairs([0, 2])) == 2
        with pytest.raises(ArtifactError, match=r"a\.h5: structure 1: a pair of atoms"):
            dataset.read_pairs([2, 1, 0])


@pytest.mark.parametrize("number", [0, 119, 255])
def test_an_element_that_does_not_exist_is_refused(path, number):
    with h5py.File(path, "a") as file:
        file["atomic_numbers"][3] = number
    with pytest.raises(DataError, match=rf"a\.h5: structure 1: atom 0: atomic number {number}"):
        read_everything(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("column", ["weight", "property_weights"])
def test_an_impossible_weight_is_refused(path, column, value):
    with h5py.File(path, "a") as file:
        table = file["structures"][()]
        table[column][1] = value
        file["structures"][()] = table
    with pytest.raises(DataError, match=r"a\.h5: structure 1: weight"):
        read_everything(path)


@pytest.mark.parametrize("name", ["properties/forces/values", "properties/stress/values"])
def test_a_label_that_is_no_number_is_refused(path, name):
    with h5py.File(path, "a") as file:
        file[name][:] = np.nan
    label = name.split("/")[1]
    with pytest.raises(DataError, match=rf"a\.h5: structure \d: {label}.* is nan"):
        read_everything(path)


def test_an_unknown_label_is_refused(path):
    with h5py.File(path, "a") as file:
        file.move("properties/stress", "properties/strain")
    with pytest.raises(ArtifactError, match=r"a\.h5: properties \['strain'\], expected some of"):
        Dataset(path)


def test_properties_that_are_no_group(path):
    with h5py.File(path, "a") as file:
        del file["properties"]
        file["properties"] = 1.0
    with pytest.raises(ArtifactError, match=r"a\.h5: properties"):
        Dataset(path)


def test_a_truncated_file_is_refused_wherever_it_is_cut(path):
    content = path.read_bytes()
    for length in [0, 8, *range(512, len(content), len(content) // 40), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"a\.h5: not a complete HDF5 file"):
            Dataset(path)


def test_flipped_bytes_are_an_error_or_another_number_and_never_a_crash(path):
    """HDF5 guards its own descriptions with checksums; numbers have none."""
    content = bytearray(path.read_bytes())
    for position in range(0, len(content), len(content) // 200):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        with contextlib.suppress(ArtifactError, DataError):
            read_everything(path)


@pytest.mark.parametrize("r_max", [None, 0.0, -1.0, np.nan, "4"])
def test_a_cutoff_that_is_none_is_refused(path, r_max):
    with h5py.File(path, "a") as file:
        del file.attrs["r_max"]
        if r_max is not None:
            file.attrs["r_max"] = r_max
    if r_max in (None, "4"):
        with Dataset(path) as dataset:
            assert dataset.r_max == (None if r_max is None else 4.0)
    else:
        with pytest.raises(ArtifactError, match=r"a\.h5: .*at /r_max"):
            Dataset(path)
