"""Files that are damaged or foreign, and inputs that are here, changed or away."""

import json
import re

import numpy as np
import pytest

from mace_jax.artifacts.provenance import external_input, make_provenance
from mace_jax.artifacts.statistics import write_statistics
from mace_jax.artifacts.structures_file import writing_structures
from mace_jax.inspection.cli import main
from mace_jax.structures.statistics import Statistics
from mace_jax.structures.structure import Structure

STATISTICS = Statistics((1, 8), {1: -13.5, 8: -432.0}, 12.5, 0.5, 1.5, 5.0)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(call):
    return lambda *arguments: call(main, *arguments)


@pytest.fixture
def made(tmp_path):
    """Return a file made from ``data/train.xyz``."""
    source = tmp_path / "data" / "train.xyz"
    source.parent.mkdir()
    source.write_text("1\n\nH 0 0 0\n")
    provenance = make_provenance("mace-jax-shared", [external_input("train", source, "extxyz")])
    path = tmp_path / "statistics.json"
    write_statistics(path, STATISTICS, provenance)
    return path


def input_of(out):
    (file,) = json.loads(out)["summary"]["files"]
    (item,) = file["inputs"]
    return item


def test_missing_file(run):
    code, out, err = run("no.msgpack")
    assert (code, out) == (1, "")
    assert err == "error: no.msgpack: cannot be read (No such file or directory); check the path\n"


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"{", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x80\x04.", b"PAR1",
                b"\x82\xa6header", b"ARROW1", b"3\nx\n", b'{"schema": {"kind": 3, "version": 1}}'],
)  # fmt: skip
def test_foreign_and_damaged_files_are_reported(run, tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    code, out, err = run("file")
    assert (code, err) == (1, "")
    assert "none of the contract's" in out
    assert "PROBLEM" in out


def test_what_the_schema_forbids_is_named(run, made):
    document = json.loads(made.read_text())
    made.write_text(json.dumps({**document, "r_max": -1.0}))
    code, out, _ = run(made, "--json")
    (file,) = json.loads(out)["summary"]["files"]
    assert (code, file["valid"]) == (1, False)
    assert "at /r_max: -1.0" in file["problem"]


def test_newer_version_asks_for_an_upgrade(run, made):
    document = json.loads(made.read_text())
    made.write_text(json.dumps({**document, "schema": {"kind": "statistics", "version": 99}}))
    code, out, _ = run(made)
    assert code == 1
    assert "statistics version 99 is not known here; upgrade mace-jax-shared" in out


def test_torch_mace_statistics(run, made):
    document = json.loads(made.read_text())
    names = ("atomic_energies", "avg_num_neighbors", "mean", "std", "atomic_numbers", "r_max")
    made.write_text(json.dumps({name: document[name] for name in names}))
    code, out, _ = run(made)
    assert code == 0
    assert "statistics, written by Torch MACE" in out
    code, out, err = run(made, "--upgrade", "--overwrite")
    assert (code, out) == (1, "")
    assert "is Torch MACE's, without a tag" in err


def test_input_in_a_folder_beside_is_verified(run, made):
    code, out, _ = run(made, "--json", "--check")
    assert (code, input_of(out)["state"]) == (0, "verified")
    assert input_of(out)["path"].endswith("data/train.xyz")


def test_quickly_no_digests_are_computed(run, made):
    code, out, _ = run(made, "--json", "--quick")
    (file,) = json.loads(out)["summary"]["files"]
    assert (code, file["sha256"], file["inputs"]) == (0, None, [])
    assert file["summary"]["elements"] == ["H", "O"]


def test_changed_input_differs_which_fails_a_check(run, made):
    (made.parent / "data" / "train.xyz").write_text("2\n")
    code, out, _ = run(made, "--json")
    assert (code, input_of(out)["state"]) == (0, "differs")
    assert run(made, "--check")[0] == 3


def test_input_elsewhere(run, made, tmp_path):
    elsewhere = tmp_path / "a" / "b" / "c"
    elsewhere.mkdir(parents=True)
    (made.parent / "data" / "train.xyz").rename(elsewhere / "train.xyz")
    code, out, _ = run(made, "--json", "--check")
    assert (code, input_of(out)["state"]) == (0, "not here")
    _, out, _ = run(made, "--json", "--look-in", elsewhere)
    assert input_of(out)["state"] == "verified"


def test_folder_stands_for_its_files(run, made):
    (made.parent / ".unfinished").write_text("x")
    code, out, _ = run(made.parent)
    assert code == 0
    assert out.startswith(str(made))
    code, out, _ = run(made.parent / "data")
    assert code == 0
    assert out.startswith(str(made.parent / "data" / "train.xyz"))


def test_report(run, made):
    code, out, err = run("statistics.json")
    assert (code, err) == (0, "")
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert lines[0] == ["statistics.json"]
    report = dict(lines[1:])
    assert report["kind"] == "statistics version 2 (the newest), schema valid"
    assert report["size"] == f"{made.stat().st_size:,} bytes"
    assert report["elements"] == "H, O"
    assert report["from"].startswith("train: train.xyz, extxyz, ")
    assert report["from"].endswith(", verified (data/train.xyz)")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--overwrite"],
        ["--upgrade"],
        ["--upgrade", "--output", "a", "--overwrite"],
        ["--output", "a"],
    ],
)
def test_upgrade_is_asked_for_in_one_way(run, made, arguments):
    code, out, err = run(made, *arguments)
    assert (code, out) == (2, "")
    assert re.search("--upgrade, which takes one file|--upgrade needs either", err)


def test_structures_in_extended_xyz_have_an_origin_but_no_version(run, tmp_path):
    (tmp_path / "model.msgpack").write_text("a model")
    labels = external_input("labels", tmp_path / "model.msgpack", "model_bundle")
    water = Structure(
        np.array([8, 1, 1]),
        np.eye(3),
        np.zeros((3, 3)),
        np.zeros(3, bool),
        {"energy": np.array(-1.0)},
        head="pt_head",
    )
    with writing_structures(
        tmp_path / "taught.xyz", make_provenance("mace-jax-shared", [labels])
    ) as writer:
        writer.write([water, water])
    code, out, _ = run("taught.xyz", "--check")
    assert code == 0
    assert re.search(r"kind +extxyz, data; none of the contract's\n", out)
    assert re.search(r"from +labels: model.msgpack, model_bundle, .*, verified", out)
    for name, text in (("atoms", "6"), ("heads", "pt_head 2"), ("labels", "energy 2")):
        assert re.search(rf"{name} +{text}\n", out + "\n")
    code, _, err = run("taught.xyz", "--upgrade", "--output", "new.xyz")
    assert code == 1
    assert "taught.xyz: holds data, without a tag, expected a file with a version" in err


XYZ = """3
Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-1.5 head=pbe
O 0 0 0 0 0 1
H 0 0 1 0 0 0
H 0 1 0 0 0 0
1
Properties=species:S:1:pos:R:3 energy=-0.5 head=scan
H 0 0 0
"""


def test_data_are_counted(run, tmp_path):
    (tmp_path / "a.xyz").write_text(XYZ)
    code, out, _ = run("a.xyz", "--json")
    (file,) = json.loads(out)["summary"]["files"]
    assert (code, file["kind"], file["version"], file["valid"]) == (0, "extxyz", None, None)
    assert file["summary"] == {
        "structures": 2,
        "atoms": 4,
        "elements": {"H": 3, "O": 1},
        "heads": {"pbe": 1, "scan": 1},
        "labels": {"energy": 2, "forces": 1},
        "label keys": {"energy": ["REF_energy", "energy"], "forces": ["REF_forces"]},
    }
    code, out, _ = run("a.xyz")
    assert "extxyz, data; none of the contract's" in out
    assert re.search(r"elements +H 3, O 1\n", out)


def test_bad_data_are_named_unless_nothing_is_read(run, tmp_path):
    (tmp_path / "a.xyz").write_text(XYZ.replace("H 0 0 0", "H 0 0 zero"))
    code, out, _ = run("a.xyz")
    assert code == 1
    assert "PROBLEM" in out
    assert "a.xyz: frame 1" in out
    assert run("a.xyz", "--quick")[0] == 0


def test_data_have_no_version(run, tmp_path):
    (tmp_path / "a.xyz").write_text(XYZ)
    code, out, err = run("a.xyz", "--upgrade", "--overwrite")
    assert (code, out) == (1, "")
    assert "a.xyz: holds data, without a tag, expected a file with a version" in err
