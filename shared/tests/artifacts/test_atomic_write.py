import os
import stat
from contextlib import contextmanager
from pathlib import Path

import pytest

from mace_jax.artifacts.atomic_write import (
    atomic_directory_entries,
    atomic_file,
    require_absent,
    write_bytes,
)
from mace_jax.errors import ConfigError


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "train"
    path.mkdir()
    (path / "old.h5").write_bytes(b"old")
    return path


@contextmanager
def replaced(folder):
    with atomic_directory_entries(folder.parent, [folder.name, "statistics.json"]) as temporary:
        (temporary / folder.name).mkdir()
        yield temporary / folder.name


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_new_content_replaces_the_old(target):
    write_bytes(target, b"new")
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["a.json"]


def test_missing_folders_are_made(tmp_path):
    write_bytes(tmp_path / "x" / "y" / "a.json", b"new")
    assert (tmp_path / "x" / "y" / "a.json").read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_inside_leaves_the_old_file_and_nothing_else(target, error):
    def write():
        with atomic_file(target) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["a.json"]


@pytest.mark.parametrize("fault", ["fsync", "replace", "chmod"])
def test_a_failing_system_call_leaves_the_old_file(target, monkeypatch, fault):
    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    for owner in (os, Path):
        if hasattr(owner, fault):
            monkeypatch.setattr(owner, fault, fail)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["a.json"]


def test_the_temporary_file_is_on_the_same_file_system(target):
    with atomic_file(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.startswith(".")
        temporary.write_bytes(b"new")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_follows_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "a", b"")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_a_folder_becomes_visible_at_once_and_replaces_the_old_one(folder):
    with replaced(folder) as new:
        (new / "new.h5").write_bytes(b"new")
        assert names(folder) == ["old.h5"]
    assert names(folder) == ["new.h5"]
    assert names(folder.parent) == ["train"]


def test_an_exception_inside_leaves_the_old_folder(folder):
    def write():
        with replaced(folder) as new:
            (new / "new.h5").write_bytes(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert names(folder) == ["old.h5"]
    assert names(folder.parent) == ["train"]


@pytest.mark.parametrize("n_good", [0, 1])
def test_a_failing_rename_leaves_the_old_folder(folder, monkeypatch, n_good):
    renames = []
    real = Path.rename

    def fail_once(self, to):
        renames.append(to)
        if len(renames) == n_good + 1:
            raise OSError(5, "Input/output error")
        return real(self, to)

    monkeypatch.setattr(Path, "rename", fail_once)
    # a system whose names cannot be exchanged in one step
    monkeypatch.setattr("mace_jax.artifacts.atomic_write._exchange", lambda *_: False)
    with pytest.raises(OSError, match="Input/output"), replaced(folder) as new:
        (new / "new.h5").write_bytes(b"new")
    assert renames
    assert names(folder) == ["old.h5"]
    assert names(folder.parent) == ["train"]


def test_existing_output_needs_force(target):
    require_absent(target, force=True)
    require_absent(target.with_name("b.json"), force=False)
    with pytest.raises(ConfigError, match=r"a\.json: exists already; give --force"):
        require_absent(target, force=False)
