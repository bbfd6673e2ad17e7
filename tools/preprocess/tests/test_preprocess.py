"""What mace-jax-preprocess writes, from small xyz files made here."""

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path

import ase
import ase.io
import h5py
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.statistics import read_statistics
from mace_jax_preprocess.cli import main

PROPERTIES = {
    *("forces", "charges", "energy", "stress", "virials", "dipole", "head", "polarizability")
}


def water(index: int, **info: object) -> ase.Atoms:
    """Return a water molecule whose energy, -100 - index, tells which frame it was."""
    generator = np.random.default_rng(index)
    atoms = ase.Atoms("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    atoms.positions += 0.01 * generator.normal(size=(3, 3))
    atoms.info["REF_energy"] = -100.0 - index
    atoms.arrays["REF_forces"] = generator.normal(size=(3, 3))
    atoms.info.update(info)
    return atoms


def isolated(symbol: str, energy: float) -> ase.Atoms:
    return ase.Atoms(
        symbol, [[0, 0, 0]], info={"REF_energy": energy, "config_type": "IsolatedAtom"}
    )


def write(path: Path, frames: list[ase.Atoms]) -> str:
    ase.io.write(path, frames, format="extxyz")
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, the current one, with ten training and four validation frames."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.xyz", [water(index) for index in range(10)])
    write(tmp_path / "valid.xyz", [water(index) for index in range(20, 24)])
    return tmp_path


@pytest.fixture
def preprocess(folder: Path) -> Callable[..., int]:
    """Return a function that runs the command on train.xyz and returns its exit code."""

    def run(*arguments: str, train: str = "train.xyz") -> int:
        with pytest.raises(SystemExit) as stopped:
            main(["--train_file", train, "--h5_prefix", "data", *arguments])
        return stopped.value.code

    return run


def frames_of(path: Path | str) -> list[int]:
    """Return the numbers of the frames in a dataset, told from their energies."""
    with Dataset(Path(path)) as dataset:
        return [round(-100 - float(structure.properties["energy"])) for structure in dataset]


@pytest.mark.parametrize(
    ("fraction", "n_valid"), [("0.1", 1), ("0.35", 3), ("0.01", 1), ("0.99", 9)]
)
def test_valid_fraction_splits_without_loss(preprocess, fraction, n_valid):
    assert preprocess("--valid_fraction", fraction) == 0
    train, valid = frames_of("data/train"), frames_of("data/val")
    assert len(valid) == n_valid
    assert sorted(train + valid) == list(range(10))


def test_split_depends_on_the_seed_only(preprocess):
    found = []
    for seed in ("1", "1", "2"):
        assert preprocess("--valid_fraction", "0.4", "--seed", seed, "--force") == 0
        found.append((frames_of("data/train"), frames_of("data/val")))
    assert found[0] == found[1] != found[2]


def test_split_keeps_the_order_of_the_file_where_nothing_is_shuffled(preprocess):
    assert preprocess("--valid_fraction", "0.3", "--shuffle", "False") == 0
    train, valid = frames_of("data/train"), frames_of("data/val")
    assert (train, valid) == (sorted(train), sorted(valid))


def test_shuffle_is_reproducible_and_on_by_default(preprocess):
    arguments = ["--valid_file", "valid.xyz", "--force"]
    orders = []
    for extra in ([], [], ["--seed", "5"], ["--shuffle", "False"], ["--shuffle", "True"]):
        assert preprocess(*arguments, *extra) == 0
        orders.append(frames_of("data/train"))
    by_default, again, other_seed, unshuffled, asked_for = orders
    assert by_default == again == asked_for
    assert sorted(by_default) == unshuffled == list(range(10))
    assert len({tuple(order) for order in (by_default, other_seed, unshuffled)}) == 3
    expected = list(range(10))
    random.Random(123).shuffle(expected)
    assert by_default == expected


def test_several_training_files_follow_each_other(preprocess, folder):
    write(folder / "more.xyz", [water(index) for index in range(30, 33)])
    code = preprocess(
        *("--valid_file", "valid.xyz", "--shuffle", "False"), train="['train.xyz', 'more.xyz']"
    )
    assert code == 0
    assert frames_of("data/train") == [*range(10), 30, 31, 32]
    with h5py.File("data/train/train_0.h5") as file:
        inputs = json.loads(file.attrs["provenance"])["inputs"]
    assert [item["name"] for item in inputs] == ["train.xyz", "more.xyz"]


@pytest.mark.parametrize("n_process", [2, 3, 20])
def test_shards_are_contiguous_and_read_back_in_order(preprocess, n_process):
    arguments = ["--valid_file", "valid.xyz", "--shuffle", "False"]
    assert preprocess(*arguments, "--num_process", str(n_process)) == 0
    files = sorted(Path("data/train").iterdir(), key=lambda path: int(path.stem.split("_")[1]))
    n_files = min(n_process, 10)
    assert [path.name for path in files] == [f"train_{index}.h5" for index in range(n_files)]
    parts = [frames_of(path) for path in files]
    assert all(parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert list(itertools.chain(*parts)) == list(range(10)) == frames_of("data/train")


def test_number_of_processes_changes_nothing_but_the_files(preprocess):
    orders = []
    for n_process in ("1", "2"):
        assert preprocess("--num_process", n_process, "--force") == 0
        orders.append((frames_of("data/train"), frames_of("data/val")))
    assert orders[0] == orders[1]
    assert len(list(Path("data/train").iterdir())) == 2
    assert preprocess("--num_process", "1", "--force") == 0
    assert len(list(Path("data/train").iterdir())) == 1  # no shard of before is left


def test_isolated_atoms_leave_the_training_set_and_win_over_E0s(preprocess, folder, capfd):
    atoms = [isolated("H", -13.5), isolated("O", -430.0)]
    write(folder / "train.xyz", [*atoms, *(water(index) for index in range(5))])
    write(folder / "valid.xyz", [isolated("H", -13.5), water(20)])
    code = preprocess(
        *("--valid_file", "valid.xyz", "--compute_statistics", "--shuffle", "False"),
        *("--E0s", "{1: -1.0, 8: -2.0}"),
    )
    assert code == 0
    assert frames_of("data/train") == list(range(5))
    with Dataset(Path("data/val")) as dataset:
        assert [len(structure) for structure in dataset] == [1, 3]
    statistics = read_statistics(Path("data/statistics.json"))
    assert statistics.atomic_energies == {1: -13.5, 8: -430.0}
    log = capfd.readouterr().err
    assert "train: isolated atoms of head Default give E0s only: H, O\n" in log
    assert "Default  O            -430.000000  isolated atom           5\n" in log


def test_isolated_atom_of_one_element_wins_and_the_rest_is_given(preprocess, folder):
    write(folder / "train.xyz", [isolated("H", -13.5), *(water(index) for index in range(5))])
    assert preprocess("--compute_statistics", "--E0s", "{1: -1.0, 8: -2.0}") == 0
    statistics = read_statistics(Path("data/statistics.json"))
    assert statistics.atomic_energies == {1: -13.5, 8: -2.0}


def test_no_isolated_atoms_and_no_E0s_is_an_error(preprocess, capfd):
    assert preprocess("--compute_statistics") == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert "no E0 for H (1), O (8)" in error
    assert not Path("data").exists()


def test_statistics_by_hand(preprocess, folder):
    """Neighbours, mean and rms over the training set; labels that are missing do not count."""
    frames = [water(0), water(1), water(2)]
    del frames[1].info["REF_energy"]
    del frames[2].arrays["REF_forces"]
    write(folder / "train.xyz", frames)
    code = preprocess(
        *("--valid_file", "valid.xyz", "--compute_statistics", "--r_max", "1.2"),
        *("--E0s", "{1: -1.0, 8: -2.0}", "--atomic_numbers", "[8, 1]"),
    )
    assert code == 0
    document = json.loads(Path("data/statistics.json").read_text())
    assert document["atomic_numbers"] == "[1, 8]"
    assert document["atomic_energies"] == "{1: -1.0, 8: -2.0}"
    assert document["r_max"] == 1.2
    assert document["avg_num_neighbors"] == pytest.approx(4 / 3)  # O-H both ways, three atoms
    assert document["mean"] == pytest.approx(np.mean([(-100 + 4) / 3, (-102 + 4) / 3]))
    forces = np.concatenate([frames[index].arrays["REF_forces"] for index in (0, 1)])
    assert document["std"] == pytest.approx(np.sqrt(np.mean(forces**2)))


def test_no_average_of_an_element_that_does_not_occur(preprocess, capfd):
    arguments = ["--compute_statistics", "--E0s", "average", "--atomic_numbers", "1,6,8"]
    assert preprocess(*arguments) == 1
    assert "E0s 'average': all heads: no E0 for C (6)" in capfd.readouterr().err


def test_config_type_weights_multiply_those_of_the_frame(preprocess, folder):
    frames = [
        *(water(0, config_type="bulk"), water(1, config_type="surface", config_weight=3.0)),
        *(water(2), water(3, config_weight=0.5, config_energy_weight=7.0)),
    ]
    write(folder / "train.xyz", frames)
    weights = '{"surface": 2.0, "Default": 10.0}'
    arguments = ["--valid_file", "valid.xyz", "--shuffle", "False"]
    assert preprocess(*arguments, "--config_type_weights", weights) == 0
    with Dataset(Path("data/train")) as dataset:
        structures = list(dataset)
    assert [structure.weight for structure in structures] == [1.0, 6.0, 10.0, 5.0]
    assert [structure.config_type for structure in structures] == [
        *("bulk", "surface", "Default", "Default")
    ]
    assert [structure.property_weights["energy"] for structure in structures] == [1, 1, 1, 7]


def test_test_set_is_one_file_a_config_type(preprocess, folder):
    types = ["bulk", "slab/O H", "bulk", None, "slab/O H"]
    frames = [
        water(index, **({"config_type": name} if name else {})) for index, name in enumerate(types)
    ]
    write(folder / "test.xyz", frames)
    assert preprocess("--test_file", "test.xyz") == 0
    found = {}
    for path in Path("data/test").iterdir():
        with Dataset(path) as dataset:
            found[tuple({structure.config_type for structure in dataset})] = frames_of(path)
    assert found == {("bulk",): [0, 2], ("slab/O H",): [1, 4], ("Default",): [3]}
    assert sorted(frames_of("data/test")) == list(range(5))


def test_test_file_is_named_as_by_mace_prepare_data(preprocess, folder):
    """``<config_type>_<head>_<shard>.h5`` with an empty head."""
    write(folder / "test.xyz", [water(0)])
    assert preprocess("--test_file", "test.xyz") == 0
    assert [path.name for path in Path("data/test").iterdir()] == ["Default__0.h5"]


@pytest.mark.parametrize("n_train", [4, 5])
def test_layout_is_that_of_mace_prepare_data(preprocess, folder, n_train):
    """Every item of reference/hdf5_layout.md; the first frame has all labels, the second none."""
    full = water(0, config_type="bulk", config_weight=2.0, config_forces_weight=5.0)
    full.set_cell(np.diag([8.0, 9.0, 10.0]))
    full.pbc = True
    full.info["REF_stress"] = np.arange(1.0, 7.0)
    full.info["REF_dipole"] = np.array([1.0, 2.0, 3.0])
    full.arrays["REF_charges"] = np.array([-0.8, 0.4, 0.4])
    bare = ase.Atoms("OH", [[0, 0, 0], [0.9, 0, 0]])
    write(folder / "train.xyz", [full, bare, *(water(index) for index in range(2, n_train))])
    arguments = ["--valid_file", "valid.xyz", "--shuffle", "False", "--num_process", "2"]
    assert preprocess(*arguments) == 0
    for path in Path("data/train").iterdir():
        with h5py.File(path) as file:
            assert file.attrs["drop_last"].dtype == np.bool_
            assert file.attrs["drop_last"] == (n_train % 2 == 1)  # of the set, not the shard
    with h5py.File("data/train/train_0.h5") as file:
        assert set(file) == {"config_batch_0"}
        assert set(file["config_batch_0"]) == {"config_0", "config_1"}
        check_full(file["config_batch_0/config_0"], full)
        check_bare(file["config_batch_0/config_1"])


def check_full(group: h5py.Group, atoms: ase.Atoms) -> None:
    assert set(group) == {
        *("atomic_numbers", "positions", "cell", "pbc", "weight", "config_type"),
        *("properties", "property_weights"),
    }
    expected = {
        "atomic_numbers": (np.int64, (3,), atoms.numbers),
        "positions": (np.float64, (3, 3), atoms.positions),
        "cell": (np.float64, (3, 3), np.diag([8.0, 9.0, 10.0])),
        "pbc": (np.bool_, (3,), [True] * 3),
        "weight": (np.float64, (), 2.0),
    }
    for name, (dtype, shape, value) in expected.items():
        assert (group[name].dtype, group[name].shape) == (dtype, shape), name
        np.testing.assert_allclose(group[name][()], value, atol=1e-7)
        assert group[name].chunks is None
        assert group[name].compression is None
    assert group["config_type"][()] == b"bulk"
    properties, weights = group["properties"], group["property_weights"]
    assert set(properties) == set(weights) == PROPERTIES
    assert properties["energy"].shape == ()
    assert properties["energy"][()] == -100.0
    np.testing.assert_allclose(properties["forces"][()], atoms.arrays["REF_forces"], atol=1e-7)
    np.testing.assert_allclose(properties["charges"][()], [-0.8, 0.4, 0.4])
    np.testing.assert_allclose(properties["dipole"][()], [1, 2, 3])
    assert properties["stress"].shape in ((6,), (3, 3))
    stress = np.asarray(properties["stress"]).ravel()
    voigt = stress if stress.size == 6 else stress[[0, 4, 8, 5, 2, 1]]
    np.testing.assert_allclose(voigt, np.arange(1.0, 7.0))
    assert {name: weights[name][()] for name in PROPERTIES} == {
        **dict.fromkeys(("virials", "polarizability"), 0.0),
        **dict.fromkeys(("energy", "stress", "charges", "dipole", "head"), 1.0),
        "forces": 5.0,
    }
    for name in PROPERTIES:
        assert (weights[name].dtype, weights[name].shape) == (np.float64, ())


def check_bare(group: h5py.Group) -> None:
    np.testing.assert_array_equal(group["cell"], np.zeros((3, 3)))
    np.testing.assert_array_equal(group["pbc"], [False] * 3)
    assert group["weight"][()] == 1.0
    assert group["config_type"][()] == b"Default"
    assert set(group["properties"]) == PROPERTIES
    for name in PROPERTIES - {"head"}:
        item = group["properties"][name]
        assert item[()] == b"None"
        assert h5py.check_string_dtype(item.dtype) == ("utf-8", None)
        assert group["property_weights"][name][()] == 0.0
    assert h5py.check_string_dtype(group["properties/head"].dtype).encoding == "utf-8"
    assert group["property_weights/head"][()] == 1.0


def test_missing_label_is_absent_when_read_back(preprocess, folder):
    frames = [water(0), water(1)]
    del frames[0].arrays["REF_forces"]
    write(folder / "train.xyz", frames)
    assert preprocess("--valid_file", "valid.xyz", "--shuffle", "False") == 0
    with Dataset(Path("data/train")) as dataset:
        labels = [set(structure.properties) for structure in dataset]
    assert labels == [{"energy"}, {"energy", "forces"}]


def test_REF_key_wins_over_plain_key_and_calculator(preprocess, folder, capfd):
    both = water(7)
    both.info["energy"] = -1.0
    calculated = ase.Atoms("OH", [[0, 0, 0], [0.9, 0, 0]])
    calculated.calc = SinglePointCalculator(calculated, energy=-108.0, forces=np.ones((2, 3)))
    write(folder / "train.xyz", [both, calculated])
    assert preprocess("--valid_file", "valid.xyz", "--shuffle", "False") == 0
    assert frames_of("data/train") == [7, 8]
    report = capfd.readouterr().err.splitlines()[0]
    assert report.startswith("train: train.xyz: 2 structures: energy 2/2 (REF_energy 1, energy 1)")


def test_own_key_is_the_only_one_that_counts(preprocess, folder):
    write(folder / "train.xyz", [water(0, dft=-103.0), water(1)])
    write(folder / "valid.xyz", [water(20, dft=-120.0)])
    arguments = ["--valid_file", "valid.xyz", "--energy_key", "dft", "--shuffle", "False"]
    assert preprocess(*arguments) == 0
    with Dataset(Path("data/train")) as dataset:
        energies = [structure.properties.get("energy") for structure in dataset]
    assert energies == [-103.0, None]


def test_every_label_has_a_key(preprocess, folder):
    rng = np.random.default_rng(0)
    of_atoms = {"forces": rng.normal(size=(3, 3)), "charges": rng.normal(size=3)}
    of_frame = {name: np.diag(rng.normal(size=3)) for name in ("stress", "virials")}
    of_frame |= {"dipole": rng.normal(size=3), "polarizability": np.diag(rng.normal(size=3))}
    atoms = water(0)
    atoms.set_cell(np.eye(3) * 9)
    atoms.pbc = True
    atoms.info |= {f"my_{name}": value for name, value in of_frame.items()}
    atoms.arrays |= {f"my_{name}": value for name, value in of_atoms.items()}
    write(folder / "train.xyz", [atoms, atoms])
    keys = (
        "--forces_key my_forces --charges_key my_charges --stress_key my_stress --virials_key "
        "my_virials --dipole_key my_dipole --polarizability_key my_polarizability"
    )
    assert preprocess("--valid_fraction", "0.5", *keys.split()) == 0
    with Dataset(Path("data/train")) as dataset:
        (structure,) = dataset
    for name, expected in (of_atoms | of_frame).items():
        np.testing.assert_allclose(structure.properties[name], expected, atol=1e-7, err_msg=name)


def test_prefix_of_upstream_with_a_slash(preprocess, folder):
    """``--h5_prefix data/`` and ``--h5_prefix data`` are the same folder."""
    with pytest.raises(SystemExit) as stopped:
        main(["--train_file", "train.xyz", "--h5_prefix", "other/nested/"])
    assert stopped.value.code == 0
    assert sorted(path.name for path in Path("other/nested").iterdir()) == [
        *("index", "train", "val")
    ]


def test_other_splits_are_untouched_when_a_later_one_is_bad(preprocess, folder):
    assert preprocess() == 0
    before = {path: path.read_bytes() for path in Path("data").rglob("*.h5")}
    Path("test.xyz").write_text("3\n\nO 0 0 0\n")
    assert preprocess("--test_file", "test.xyz", "--force", "--seed", "9") == 1
    assert {path: path.read_bytes() for path in Path("data").rglob("*.h5")} == before
