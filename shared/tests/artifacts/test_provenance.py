import hashlib
import sys
from pathlib import Path

import pytest

from mace_jax.artifacts.provenance import (
    canonical_json,
    external_input,
    file_sha256,
    files_sha256,
    make_provenance,
)
from mace_jax.artifacts.versioned import _validator
from mace_jax.errors import ArtifactError

TOOL = "mace-jax-shared"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "train.xyz"
    path.write_bytes(b"content")
    return path


def test_digest_of_one_file_is_its_own(file):
    assert file_sha256(file) == hashlib.sha256(b"content").hexdigest()
    assert files_sha256([file]) == file_sha256(file)


def test_digest_of_several_files_depends_on_content_and_order(tmp_path, file):
    other = tmp_path / "other"
    other.write_bytes(b"other")
    digests = {files_sha256(paths) for paths in ([file, other], [other, file], [file, file])}
    assert len(digests) == 3


def test_digest_of_a_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match="absent: cannot be read"):
        file_sha256(tmp_path / "absent")


def test_the_record_is_valid_and_names_the_inputs(file, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tool", "--seed", "3"])
    record = make_provenance(TOOL, [external_input("train", file, "extxyz")], seed=3)
    assert not list(_validator("provenance", 1).iter_errors(record))
    assert record["command"] == ["--seed", "3"]
    assert record["inputs"] == [
        {
            "role": "train",
            "name": "train.xyz",
            "kind": "extxyz",
            "version": None,
            "sha256": file_sha256(file),
        }
    ]


def test_reproducible_leaves_out_time_host_and_command_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["tool", "--output", "here.msgpack"])
    usual = make_provenance(TOOL, [])
    assert {"created_utc", "host"} <= usual.keys()
    assert usual["command"] == ["--output", "here.msgpack"]
    record = make_provenance(TOOL, [], reproducible=True)
    assert not {"created_utc", "host"} & record.keys()
    assert record["command"] == []
    assert not list(_validator("provenance", 1).iter_errors(record))


@pytest.mark.parametrize(
    ("home", "argument", "expected"),
    [
        ("/home/ada", "/home/ada/data/a.xyz", "~/data/a.xyz"),
        ("/home/ada", "--x=/home/ada/a.xyz", "--x=~/a.xyz"),
        ("/home/ada", "/data/a.xyz", "/data/a.xyz"),
        ("/home/ada", "/home/adam/a.xyz", "/home/adam/a.xyz"),
        ("/", "/data/a.xyz", "/data/a.xyz"),
    ],
)
def test_the_home_folder_is_not_told(monkeypatch, home, argument, expected):
    monkeypatch.setenv("HOME", home)
    assert Path.home() == Path(home)
    monkeypatch.setattr(sys, "argv", ["tool", argument])
    assert make_provenance(TOOL, [])["command"] == [expected]


def test_canonical_json_does_not_depend_on_key_order():
    assert canonical_json({"b": 1, "a": "Å"}) == canonical_json({"a": "Å", "b": 1})
    assert canonical_json({"a": "Å"}) == '{"a":"Å"}'.encode()
