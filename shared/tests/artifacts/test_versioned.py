import copy
import json

import pytest

from mace_jax.artifacts import versioned
from mace_jax.artifacts.versioned import MADE_BY, check_document, read_json, tag, write_json
from mace_jax.errors import ArtifactError
from mace_jax_schemas import kinds, load_schema


@pytest.fixture
def document(provenance):
    return {
        "schema": {"kind": "statistics", "version": 2},
        "provenance": provenance,
        "atomic_energies": "{1: -13.6}",
        "avg_num_neighbors": 4.0,
        "mean": -1.0,
        "std": 2.0,
        "atomic_numbers": "[1]",
        "r_max": 5.0,
        "energy_std": None,
        "heads": {},
    }


def check(document, tmp_path, kind="statistics"):
    return check_document(document, kind, tmp_path / "s.json")


@pytest.fixture
def version_three(monkeypatch):
    """Pretend that statistics are at version 3: v2 adds `note`, v3 calls it `remark`."""

    def schema(kind, version):
        found = copy.deepcopy(load_schema(kind, 2 if kind == "statistics" else 1))
        if kind == "statistics":
            found["properties"]["schema"]["properties"]["version"]["const"] = version
            name = {2: "note", 3: "remark"}.get(version)
            if name:
                found["properties"][name] = {"type": "string"}
                found["required"].append(name)
        return found

    def v2_to_v3(old):
        new = {name: value for name, value in old.items() if name != "note"}
        return {**new, "schema": {**old["schema"], "version": 3}, "remark": old["note"]}

    monkeypatch.setattr(versioned, "load_schema", schema)
    monkeypatch.setattr(versioned, "current_version", lambda k: 3 if k == "statistics" else 1)
    monkeypatch.setattr(versioned, "MIGRATIONS", {("statistics", 2): v2_to_v3})
    versioned._validator.cache_clear()
    yield
    versioned._validator.cache_clear()


def test_a_good_document_passes_unchanged(document, tmp_path):
    assert check(copy.deepcopy(document), tmp_path) == document


def test_every_kind_says_which_tool_makes_it():
    assert set(MADE_BY) == set(kinds()) - {"provenance"}


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        "text",
        {},
        {"schema": None},
        {"schema": {"kind": "statistics"}},
        {"schema": {"kind": 1, "version": 1}},
        {"schema": {"kind": "statistics", "version": "1"}},
    ],
)
def test_no_tag(bad, tmp_path):
    with pytest.raises(ArtifactError, match=r"s\.json: has no schema tag, .*mace-jax-preprocess"):
        check(bad, tmp_path)


def test_another_kind(document, tmp_path):
    with pytest.raises(ArtifactError, match=r"s\.json: kind 'statistics', expected 'batch_plan'"):
        check(document, tmp_path, "batch_plan")


def test_a_newer_version_says_upgrade(document, tmp_path):
    document["schema"]["version"] = 3
    message = "statistics version 3, expected at most 2; upgrade mace-jax-shared"
    with pytest.raises(ArtifactError, match=message):
        check(document, tmp_path)


@pytest.mark.parametrize("version", [0, -1])
def test_an_older_version_says_create_again(document, tmp_path, version):
    document["schema"]["version"] = version
    with pytest.raises(ArtifactError, match="expected 2; create it with mace-jax-preprocess"):
        check(document, tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "pointer"),
    [
        (("std",), -1, "/std: -1 is less than the minimum of 0"),
        (("r_max",), 0, "/r_max: 0 is less than or equal"),
        (("mean",), "low", "/mean: 'low' is not of type 'number'"),
        (("provenance", "seed"), 1.5, "/provenance/seed: 1.5 is not"),
        (("provenance", "inputs"), [{}], "/provenance/inputs/0: .* is a required property"),
        (("extra",), 1, "/: Additional properties .*'extra'"),
    ],
)
def test_a_json_pointer_says_where(document, tmp_path, path, value, pointer):
    *parents, last = path
    place = document
    for name in parents:
        place = place[name]
    place[last] = value
    with pytest.raises(ArtifactError, match=rf"s\.json: at {pointer}"):
        check(document, tmp_path)


def test_a_missing_field_is_named(document, tmp_path):
    del document["r_max"]
    with pytest.raises(ArtifactError, match="'r_max' is a required property"):
        check(document, tmp_path)


def test_the_version_before_is_upgraded_in_memory(version_three, document, tmp_path):
    old = {**document, "schema": {"kind": "statistics", "version": 2}, "note": "hello"}
    before = copy.deepcopy(old)
    new = check(old, tmp_path)
    assert new == {**document, "schema": tag("statistics"), "remark": "hello"}
    assert new["schema"]["version"] == 3
    assert old == before


def test_the_version_before_is_validated_before_it_is_upgraded(version_three, document, tmp_path):
    document["schema"]["version"] = 2
    with pytest.raises(ArtifactError, match="'note' is a required property"):
        check(document, tmp_path)


def test_two_versions_before_is_refused(version_three, document, tmp_path):
    document["schema"]["version"] = 1
    with pytest.raises(ArtifactError, match="version 1, expected 3; create it with"):
        check(document, tmp_path)


def test_what_a_migration_returns_is_validated(version_three, monkeypatch, document, tmp_path):
    monkeypatch.setattr(versioned, "MIGRATIONS", {("statistics", 2): lambda old: old})
    old = {**document, "schema": {"kind": "statistics", "version": 2}, "note": "hello"}
    with pytest.raises(ArtifactError):
        check(old, tmp_path)


def test_the_version_before_the_current_one_has_a_migration():
    expected = {(kind, versioned.current_version(kind) - 1) for kind in MADE_BY}
    assert set(versioned.MIGRATIONS) == {(kind, version) for kind, version in expected if version}


def test_write_json_validates_before_it_writes(document, tmp_path):
    path = tmp_path / "s.json"
    write_json(path, document, "statistics")
    assert read_json(path) == document
    good = path.read_bytes()
    with pytest.raises(ArtifactError, match="at /std"):
        write_json(path, {**document, "std": -1}, "statistics")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {**document, "std": float("nan")}, "statistics")
    assert path.read_bytes() == good


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"a": 1', b"\xff\xfe", b"\x00", b"{} {}", b"[" * 100_000],
    ids=["empty", "brace", "half", "not UTF-8", "zero byte", "two", "deep"],
)
def test_what_is_not_json_is_an_artifact_error(tmp_path, content):
    path = tmp_path / "s.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"s\.json: not complete JSON"):
        read_json(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(document, tmp_path, number):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(document).replace('"mean": -1.0', f'"mean": {number}'))
    assert number in path.read_text()
    with pytest.raises(ArtifactError):
        check_document(read_json(path), "statistics", path)


def test_a_missing_file_is_an_artifact_error(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_json(tmp_path)
