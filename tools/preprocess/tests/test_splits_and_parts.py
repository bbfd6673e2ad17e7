"""Splits that stay as data is added, parts made apart and joined, layouts, heads, bad frames."""

import gzip
import io
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import ase
import ase.io
import h5py
import numpy as np
import pytest

from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.index import read_index
from mace_jax.artifacts.provenance import file_sha256
from mace_jax.artifacts.statistics import read_statistics
from mace_jax.structures.neighbor_list import neighbor_list, pair_list
from mace_jax_preprocess.cli import main

E0S = ("--compute_statistics", "--E0s", "{1: -1.0, 8: -2.0}")


def water(index: int, **info: object) -> ase.Atoms:
    """Return a water molecule whose energy, -100 - index, tells which frame it was."""
    generator = np.random.default_rng(index)
    atoms = ase.Atoms("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    atoms.positions += 0.01 * generator.normal(size=(3, 3))
    atoms.info["REF_energy"] = -100.0 - index
    atoms.arrays["REF_forces"] = generator.normal(size=(3, 3))
    atoms.info.update(info)
    return atoms


def write(name: str, frames: list[ase.Atoms]) -> str:
    ase.io.write(name, frames, format="extxyz")
    return name


Preprocess = Callable[..., int]


@pytest.fixture
def preprocess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preprocess:
    """Return a function that runs the command in an empty folder and returns its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        return stopped.value.code

    return run


def frames_of(path: str) -> list[int]:
    with Dataset(Path(path)) as dataset:
        return [round(-100 - float(structure.properties["energy"])) for structure in dataset]


def last_line(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "rule",
    [("--split", "hash"), ("--split", "group", "--group-key", "name")],
    ids=["hash", "group"],
)
def test_a_structure_stays_in_its_split_when_data_is_added(preprocess, rule):
    frames = [water(index, name=f"material {index // 3}") for index in range(90)]
    splits = []
    for n in (60, 90):
        write("train.xyz", frames[:n])
        fractions = ("--valid_fraction", "0.2", "--test-fraction", "0.2", "--force")
        assert preprocess("--train_file", "train.xyz", "--h5_prefix", "d", *fractions, *rule) == 0
        splits.append([set(frames_of(f"d/{name}")) for name in ("train", "val", "test")])
    few, many = splits
    assert all(few)
    assert [split & set(range(60)) for split in many] == few
    assert sorted(set().union(*many)) == list(range(90))
    if "group" in rule:
        for split in many:
            assert split == {3 * (index // 3) + k for index in split for k in range(3)}


def test_a_group_that_a_frame_does_not_name_is_an_error(preprocess, capfd):
    write("train.xyz", [water(0, name="a"), water(1)])
    arguments = ("--train_file", "train.xyz", "--split", "group", "--group-key", "name")
    assert preprocess(*arguments, "--h5_prefix", "d") == 1
    assert "train.xyz: frame 1: name is None, expected a name" in last_line(capfd)


@pytest.mark.parametrize("arguments", [("--split", "group"), ("--group-key", "name")])
def test_groups_need_a_key_and_a_key_needs_groups(preprocess, arguments):
    write("train.xyz", [water(0), water(1)])
    assert preprocess("--train_file", "train.xyz", *arguments) == 2


def test_fractions_by_chance_take_disjoint_shares(preprocess):
    write("train.xyz", [water(index) for index in range(20)])
    fractions = ("--valid_fraction", "0.25", "--test-fraction", "0.1")
    assert preprocess("--train_file", "train.xyz", "--h5_prefix", "d", *fractions) == 0
    splits = [frames_of(f"d/{name}") for name in ("train", "val", "test")]
    assert [len(split) for split in splits] == [13, 5, 2]
    assert sorted(itertools.chain(*splits)) == list(range(20))


def test_no_validation_data_where_none_is_wanted(preprocess):
    write("train.xyz", [water(index) for index in range(3)])
    arguments = ("--train_file", "train.xyz", "--h5_prefix", "d", "--shuffle", "False")
    assert preprocess(*arguments, "--valid_fraction", "0") == 0
    assert frames_of("d/train") == [0, 1, 2]
    assert not Path("d/val").exists()


def test_layout_flat_holds_the_same_and_the_pairs(preprocess):
    write("train.xyz", [water(index) for index in range(7)])
    arguments = ("--train_file", "train.xyz", "--valid_fraction", "0.3", "--r_max", "1.2")
    assert preprocess(*arguments, "--h5_prefix", "mace") == 0
    flat = ("--layout", "flat", "--store-edges", "--num_process", "2")
    assert preprocess(*arguments, "--h5_prefix", "flat", *flat) == 0
    assert frames_of("mace/train") == frames_of("flat/train")
    assert len(list(Path("flat/train").iterdir())) == 2
    with Dataset(Path("flat/train")) as dataset:
        assert dataset.r_max == 1.2
        pairs = dataset.read_pairs(range(len(dataset)))
        for structure, found in zip(dataset, pairs, strict=True):
            expected = pair_list(neighbor_list(structure, 1.2))
            assert len(found.senders) == 2
            assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_dataset_is_converted_to_another_layout_and_back(preprocess):
    write("train.xyz", [water(index) for index in range(5)])
    unchanged = ("--valid_fraction", "0", "--shuffle", "False")
    source = "train.xyz"
    for layout in ("mace", "flat", "mace"):
        prefix = f"{layout}-{Path(source).parent.name}"
        arguments = ("--train_file", source, "--layout", layout, "--h5_prefix", prefix)
        assert preprocess(*arguments, *unchanged) == 0
        source = f"{prefix}/train"
    with Dataset(Path("mace-/train")) as first, Dataset(Path(source)) as last:
        for a, b in zip(first, last, strict=True):
            assert a.properties.keys() == b.properties.keys()
            np.testing.assert_array_equal(a.positions, b.positions)
            np.testing.assert_array_equal(a.properties["forces"], b.properties["forces"])


def test_edges_have_no_place_in_layout_mace(preprocess, capfd):
    write("train.xyz", [water(0), water(1)])
    assert preprocess("--train_file", "train.xyz", "--store-edges") == 2
    assert "--store-edges: layout mace has no place for them" in last_line(capfd)


def test_the_index_says_where_each_structure_is_from(preprocess):
    write("a.xyz", [water(0), water(1, config_type="bulk")])
    write("b.xyz", [water(2)])
    arguments = ("--train_file", "['a.xyz', 'b.xyz']", "--valid_fraction", "0", "--r_max", "1.2")
    assert preprocess(*arguments, "--h5_prefix", "d") == 0
    index = read_index(Path("d/index/train.parquet"))
    with Dataset(Path("d/train")) as dataset:
        assert index.dataset_sha256 == dataset.sha256()
    rows = index.table.select(["source", "frame", "config_type", "n_edges"]).to_pylist()
    order = frames_of("d/train")
    origins = [("a.xyz", 0, "Default"), ("a.xyz", 1, "bulk"), ("b.xyz", 0, "Default")]
    assert [(r["source"], r["frame"], r["config_type"]) for r in rows] == [
        origins[frame] for frame in order
    ]
    assert {row["n_edges"] for row in rows} == {4}


@pytest.mark.parametrize("n_parts", [1, 3])
@pytest.mark.parametrize("layout", ["mace", "flat"])
def test_parts_joined_are_the_whole(preprocess, n_parts, layout):
    types = ("bulk", "slab")
    write("train.xyz", [water(index) for index in range(17)])
    write("test.xyz", [water(30 + index, config_type=types[index % 2]) for index in range(5)])
    common = (
        *("--train_file", "train.xyz", "--test_file", "test.xyz", "--layout", layout),
        *("--split", "hash", "--valid_fraction", "0.3", "--r_max", "1.2"),
    )
    assert preprocess(*common, *E0S, "--h5_prefix", "whole") == 0
    for part in range(1, n_parts + 1):
        shard = ("--shard", f"{part}/{n_parts}", "--num_process", "2")
        assert preprocess(*common, "--h5_prefix", "joined", *shard) == 0
    assert preprocess("--merge", "--h5_prefix", "joined", "--r_max", "1.2", *E0S) == 0
    assert sorted(path.name for path in Path("joined").iterdir()) == [
        *("index", "statistics.json", "test", "train", "val")
    ]
    for name in ("train", "val", "test"):
        assert sorted(frames_of(f"joined/{name}")) == sorted(frames_of(f"whole/{name}"))
        with Dataset(Path("joined") / name) as dataset:
            index = read_index(Path(f"joined/index/{name}.parquet"))
            assert index.dataset_sha256 == dataset.sha256()
            assert index.table["formula"].to_pylist() == ["H2O"] * len(dataset)
    origins = read_index(Path("joined/index/train.parquet")).table["frame"].to_pylist()
    assert origins == frames_of("joined/train")
    whole, joined = (
        read_statistics(Path(f"{name}/statistics.json")) for name in ("whole", "joined")
    )
    for name in ("atomic_numbers", "atomic_energies", "avg_num_neighbors", "mean", "std", "r_max"):
        assert getattr(joined, name) == getattr(whole, name), name
    assert joined.energy_std == pytest.approx(whole.energy_std, rel=1e-13)
    if layout == "mace":
        for path in Path("joined/train").iterdir():
            with h5py.File(path) as file:
                assert file.attrs["drop_last"] == (len(frames_of("joined/train")) % 2 == 1)


def test_a_missing_part_is_said(preprocess, capfd):
    write("train.xyz", [water(index) for index in range(9)])
    for part in ("1/3", "3/3"):
        assert preprocess("--train_file", "train.xyz", "--h5_prefix", "d", "--shard", part) == 0
    assert preprocess("--merge", "--h5_prefix", "d") == 2
    message = last_line(capfd)
    assert "d/parts: holds parts ['1of3', '3of3'], expected all of one whole" in message
    assert "run --shard 2/3" in message
    assert sorted(path.name for path in Path("d").iterdir()) == ["parts"]


def test_parts_of_another_cutoff_are_refused(preprocess, capfd):
    write("train.xyz", [water(index) for index in range(9)])
    for part, r_max in (("1/2", "1.2"), ("2/2", "1.3")):
        arguments = ("--train_file", "train.xyz", "--h5_prefix", "d", "--r_max", r_max)
        assert preprocess(*arguments, "--shard", part) == 0
    assert preprocess("--merge", "--h5_prefix", "d", "--r_max", "1.2") == 1
    assert re.search("r_max 1.3 Å, expected 1.2 Å", last_line(capfd))
    assert sorted(path.name for path in Path("d").iterdir()) == ["parts"]


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "-1/2"])
def test_an_impossible_part_is_refused(preprocess, text):
    assert preprocess("--train_file", "train.xyz", f"--shard={text}") == 2


def spoil(name: str, *frames: int) -> None:
    """Make the energy of some frames of a file a word."""
    lines = Path(name).read_text().splitlines()
    for frame in frames:
        lines[5 * frame + 1] = re.sub(r"REF_energy=\S+", "REF_energy=many", lines[5 * frame + 1])
    Path(name).write_text("\n".join(lines) + "\n")


def test_bad_frames_are_passed_over_as_many_as_are_allowed(preprocess, capfd):
    write("train.xyz", [water(index) for index in range(8)])
    spoil("train.xyz", 2, 5)
    arguments = ("--train_file", "train.xyz", "--h5_prefix", "d", "--shuffle", "False")
    arguments += ("--valid_fraction", "0")
    assert preprocess(*arguments) == 1
    assert last_line(capfd).startswith("error: train.xyz: frame 2: ")
    assert preprocess(*arguments, "--skip-bad", "1") == 1
    assert last_line(capfd).startswith("error: train.xyz: frame 5: ")
    assert not Path("d").exists()
    assert preprocess(*arguments, "--skip-bad", "2", "--json") == 0
    out, err = capfd.readouterr()
    listed = Path("d/skipped.txt").read_text().splitlines()
    assert [line.split(": ")[:2] for line in listed] == [
        ["train.xyz", "frame 2"],
        ["train.xyz", "frame 5"],
    ]
    assert json.loads(out)["summary"]["skipped"] == listed
    assert err.count("warning: passed over: train.xyz") == 2
    assert frames_of("d/train") == [0, 1, 3, 4, 6, 7]
    assert read_index(Path("d/index/train.parquet")).table["frame"].to_pylist() == [
        *(0, 1, 3, 4, 6, 7)
    ]


def test_files_of_heads(preprocess):
    write("pbe.xyz", [water(index) for index in range(4)])
    write("cc.xyz", [water(10 + index) for index in range(3)])
    heads = {
        "pbe": {"train_file": "pbe.xyz", "E0s": {1: -1.0, 8: -2.0}},
        "cc": {"train_file": ["cc.xyz"], "E0s": {1: -3.0, 8: -4.0}},
    }
    arguments = ("--heads", repr(heads), "--compute_statistics", "--h5_prefix", "d")
    assert preprocess(*arguments, "--valid_fraction", "0") == 0
    with Dataset(Path("d/train")) as dataset:
        found = {(s.head, round(-100 - float(s.properties["energy"]))) for s in dataset}
    assert found == {("pbe", i) for i in range(4)} | {("cc", 10 + i) for i in range(3)}
    statistics = read_statistics(Path("d/statistics.json"))
    assert statistics.of_head("pbe").atomic_energies == {1: -1.0, 8: -2.0}
    assert statistics.of_head("cc").atomic_energies == {1: -3.0, 8: -4.0}


def test_a_dataset_is_not_replaced_while_it_is_read(preprocess, capfd):
    write("train.xyz", [water(index) for index in range(4)])
    assert preprocess("--train_file", "train.xyz", "--h5_prefix", "d") == 0
    before = {path: path.read_bytes() for path in Path("d").rglob("*.h5")}
    for read in ("d/train", "d/train/train_0.h5"):
        assert preprocess("--train_file", read, "--h5_prefix", "d", "--force") == 2
        assert "d/train: is read, too, and an input is never replaced" in last_line(capfd)
    assert {path: path.read_bytes() for path in Path("d").rglob("*.h5")} == before


def with_keys(atoms, prefix):
    """Give labels other names."""
    for columns in (atoms.info, atoms.arrays):
        for name in [name for name in columns if name.startswith("REF_")]:
            columns[name.replace("REF_", prefix)] = columns.pop(name)
    return atoms


def test_labels_of_heads_have_keys_of_their_own(preprocess, capfd):
    write("pbe.xyz", [water(index) for index in range(4)])
    write("cc.xyz", [with_keys(water(10 + index), "cc_") for index in range(3)])
    heads = {"pbe": {"train_file": "pbe.xyz"}, "cc": {"train_file": "cc.xyz"}}
    arguments = ("--E0s", "{1: -1, 8: -2}", "--valid_fraction", "0", "--h5_prefix", "d")
    assert preprocess("--heads", repr(heads), *arguments) == 1
    message = r"cc\.xyz: no labels in 3 structures of head cc, keys present: cc_energy, cc_forces; "
    assert re.search(message, last_line(capfd))
    heads["cc"] |= {"energy_key": "cc_energy", "forces_key": "cc_forces"}
    assert preprocess("--heads", repr(heads), *arguments) == 0
    with Dataset(Path("d/train")) as dataset:
        assert {(s.head, *s.properties) for s in dataset} == {
            (head, "energy", "forces") for head in heads
        }
    heads["cc"]["energy_key"] = "energie"
    assert preprocess("--heads", repr(heads), *arguments, "--force") == 1
    assert "cc.xyz: energy found in 0 of 3 structures under 'energie'" in last_line(capfd)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'a': {}}", "a: has no data; give it a train_file"),
        ("{'a': {'train_fil': 'x'}}", "a: unknown train_fil; did you mean train_file?"),
        ("[1]", "expected a dict of dicts"),
        ("{", "expected a dict of dicts"),
        ("{'a': 3}", "expected a dict of dicts"),
        ("{'a': {'train_file': 'x'}, 'a': {'train_file': 'y'}}", "'a' is given 2 times"),
        ("{'all': {'train_file': 'x'}}", "the name 'all' means all heads together"),
        ("{'': {'train_file': 'x'}}", "the name '' is empty"),
    ],
)
def test_impossible_heads_are_refused(preprocess, text, message, capfd):
    assert preprocess("--heads", text) == 2
    line = last_line(capfd)
    assert line.startswith("error: --heads: ")
    assert message in line


def test_a_head_key_of_ones_own(preprocess):
    write("train.xyz", [water(0, level="high"), water(1, level="low"), water(2)])
    arguments = ("--train_file", "train.xyz", "--head_key", "level", "--h5_prefix", "d")
    assert preprocess(*arguments, "--valid_fraction", "0", "--shuffle", "False") == 0
    with Dataset(Path("d/train")) as dataset:
        assert [structure.head for structure in dataset] == ["high", "low", "Default"]


def test_a_head_key_that_occurs_nowhere_is_an_error(preprocess, capfd):
    write("train.xyz", [water(0), water(1)])
    assert preprocess("--train_file", "train.xyz", "--head_key", "level", "--h5_prefix", "d") == 1
    message = last_line(capfd)
    assert "train.xyz: head found in 0 of 2 structures under 'level'" in message
    assert message.endswith("correct --head_key")
    assert not Path("d").exists()


def test_globs_and_compressed_files(preprocess):
    for name in ("a", "b"):
        write(f"{name}.xyz", [water(ord(name))])
    Path("b.xyz.gz").write_bytes(gzip.compress(Path("b.xyz").read_bytes()))
    Path("b.xyz").unlink()
    arguments = ("--train_file", "*.xyz*", "--h5_prefix", "d", "--valid_fraction", "0")
    assert preprocess(*arguments, "--shuffle", "False") == 0
    assert frames_of("d/train") == [ord("a"), ord("b")]


@pytest.mark.parametrize("n_files", [1, 2])
def test_the_index_is_of_the_whole_dataset(preprocess, n_files):
    write("train.xyz", [water(index) for index in range(5)])
    arguments = ("--train_file", "train.xyz", "--h5_prefix", "d", "--valid_fraction", "0")
    assert preprocess(*arguments, "--shuffle", "False", "--num_process", str(n_files)) == 0
    assert len(list(Path("d/train").iterdir())) == n_files
    index = read_index(Path("d/index/train.parquet"))
    with Dataset(Path("d/train")) as dataset:
        found = (index.dataset_name, index.dataset_sha256, index.n_structures)
        assert found == ("train", dataset.sha256(), 5)
    assert index.table["frame"].to_pylist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_standard_input(preprocess, monkeypatch, compress):
    write("train.xyz", [water(index) for index in range(4)])
    stream = io.BufferedReader(io.BytesIO(compress(Path("train.xyz").read_bytes())))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream))
    arguments = ("--train_file", "-", "--h5_prefix", "d", "--valid_fraction", "0")
    assert preprocess(*arguments, "--shuffle", "False") == 0
    assert frames_of("d/train") == [0, 1, 2, 3]
    with h5py.File("d/train/train_0.h5") as file:
        (found,) = json.loads(file.attrs["provenance"])["inputs"]
    assert found["name"] == "standard input.xyz"
    assert found["sha256"] == file_sha256(Path("train.xyz"))


def test_standard_input_is_called_so_and_not_by_the_copy_that_is_made(
    preprocess, monkeypatch, capfd
):
    write("train.xyz", [water(index) for index in range(4)])
    spoil("train.xyz", 2)
    for arguments in (("--valid_fraction", "0.5"), ("--check",)):
        stream = io.BufferedReader(io.BytesIO(Path("train.xyz").read_bytes()))
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stream))
        assert preprocess("--train_file", "-", "--h5_prefix", "d", *arguments) > 0
        said = capfd.readouterr().err
        assert "standard input: frame 2: " in said
        assert "standard input.xyz" not in said


def test_nothing_to_read_is_said(preprocess, capfd):
    assert preprocess("--h5_prefix", "d") == 2
    assert "--train_file: is missing" in last_line(capfd)
    assert preprocess("--train_file", "*.xyz") == 1
    assert "*.xyz: no file matches" in last_line(capfd)


def test_a_check_finds_what_is_wrong_and_writes_no_dataset(preprocess, capfd):
    frames = [water(index) for index in range(6)]
    frames[1].arrays["REF_forces"][0] += 30.0
    frames[3].positions[1] = frames[3].positions[0] + 0.1
    write("train.xyz", [*frames, frames[0]])
    spoil("train.xyz", 2)
    write("valid.xyz", [frames[4]])
    arguments = ("--train_file", "train.xyz", "--valid_file", "valid.xyz", "--h5_prefix", "d")
    assert preprocess("--check", *arguments) == 3
    log = capfd.readouterr().err
    assert "train.xyz: frame 1: " in log
    report = json.loads(Path("d/check.json").read_text())
    found = {finding["check"]: finding for finding in report["findings"]}
    assert found["structures"]["severity"] == "error"
    assert found["structures"]["places"][0].startswith("train.xyz: frame 2: ")
    assert found["close atoms"]["places"][0].startswith("train.xyz: frame 3: ")
    assert found["net force"]["places"][0].startswith("train.xyz: frame 1: ")
    assert [f["count"] for f in report["findings"] if f["check"] == "duplicates"] == [1, 1]
    assert report["labels"][0]["n_structures"] == 6
    assert [path.name for path in Path("d").iterdir()] == ["check.json"]


def test_a_check_of_good_data_succeeds(preprocess):
    frames = [water(index) for index in range(5)]
    for frame in frames:
        frame.arrays["REF_forces"] -= frame.arrays["REF_forces"].mean(axis=0)
    write("train.xyz", frames)
    assert preprocess("--check", "--train_file", "train.xyz", "--h5_prefix", "d") == 0
    report = json.loads(Path("d/check.json").read_text())
    assert [f for f in report["findings"] if f["severity"] != "info"] == []
    arguments = ("--train_file", "train.xyz", "--h5_prefix", "d", "--force")
    preprocess("--check", "--close-fraction", "1.5", *arguments)
    report = json.loads(Path("d/check.json").read_text())
    assert "close atoms" in {finding["check"] for finding in report["findings"]}


def test_blocks_and_temporary_files_elsewhere_change_nothing(preprocess):
    write("train.xyz", [water(index) for index in range(9)])
    Path("work").mkdir()
    common = ("--train_file", "train.xyz", "--layout", "flat", "--reproducible")
    assert preprocess(*common, "--h5_prefix", "a") == 0
    assert preprocess(*common, "--h5_prefix", "b", "--batch_size", "2", "--work_dir", "work") == 0
    files = [path.relative_to("a") for path in sorted(Path("a").rglob("*")) if path.is_file()]
    assert len(files) == 4
    assert all((Path("a") / name).read_bytes() == (Path("b") / name).read_bytes() for name in files)
    assert list(Path("work").iterdir()) == []


def test_temporary_files_are_where_the_user_wants_them(preprocess, capfd):
    write("train.xyz", [water(0), water(1)])
    arguments = ("--train_file", "train.xyz", "--h5_prefix", "d", "--work_dir", "absent")
    assert preprocess(*arguments) == 1
    assert "absent" in last_line(capfd)


@pytest.mark.parametrize(
    ("scaling", "shown"),
    [("no_scaling", "scale 1, shift 0"), ("std_scaling", "scale 0.5, shift -31")],
)
def test_the_scale_and_shift_of_a_scaling_are_shown(preprocess, capfd, scaling, shown):
    frames = [water(index) for index in range(2)]
    for frame, per_atom in zip(frames, (-31 - 8**-0.5, -31 + 8**-0.5), strict=True):
        frame.info["REF_energy"] = 3 * per_atom - 4.0  # the E0s are -1, -1 and -2
    write("train.xyz", frames)
    arguments = ("--train_file", "train.xyz", "--h5_prefix", "d", "--valid_fraction", "0")
    assert preprocess(*arguments, *E0S, "--scaling", scaling) == 0
    assert f"{scaling}: head Default: {shown}\n" in capfd.readouterr().err
