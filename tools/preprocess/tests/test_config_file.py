"""Flags from a YAML file beside those of the command line."""

from pathlib import Path

import pytest

from mace_jax.artifacts.dataset import Dataset
from mace_jax_preprocess.cli import main

FRAME = "2\nProperties=species:S:1:pos:R:3 energy={}\nO 0 0 0\nH 0 0 1\n"


@pytest.fixture
def preprocess(tmp_path, monkeypatch):
    """Return a function that runs the command with flags.yaml and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    for name, energies in (("a.xyz", range(6)), ("b.xyz", range(6, 9))):
        Path(name).write_text("".join(FRAME.format(-float(energy)) for energy in energies))

    def run(content, *arguments):
        Path("flags.yaml").write_bytes(content.encode("latin-1"))
        with pytest.raises(SystemExit) as stopped:
            main(["--config", "flags.yaml", *arguments])
        return stopped.value.code

    return run


def energies_of(path):
    with Dataset(Path(path)) as dataset:
        return [-float(structure.properties["energy"]) for structure in dataset]


ALL = """
train_file: [a.xyz, b.xyz]
valid-fraction: 0
h5_prefix: data
shuffle: false
layout: flat
store_edges: true
r_max: 2
E0s: {1: -1.5, 8: 0}
compute_statistics: true
config_type_weights: {Default: 2.5}
atomic_numbers: [1, 8]
seed:
"""


def test_every_kind_of_flag_may_stand_in_the_file(preprocess):
    assert preprocess(ALL) == 0
    assert energies_of("data/train") == list(range(9))
    assert Path("data/statistics.json").is_file()
    with Dataset(Path("data/train")) as dataset:
        assert (dataset.layout, dataset.r_max, dataset[0].weight) == ("flat", 2.0, 2.5)


def test_the_command_line_wins(preprocess):
    assert preprocess(ALL, "--train_file", "b.xyz", "--layout=flat", "--r-max", "3") == 0
    assert energies_of("data/train") == [6, 7, 8]
    with Dataset(Path("data/train")) as dataset:
        assert dataset.r_max == 3.0


def test_the_order_of_flags_means_nothing(preprocess):
    Path("b.yaml").write_text("train_file: b.xyz\nseed: 3")
    with pytest.raises(SystemExit) as stopped:
        main(["--valid_fraction=0", "--h5_prefix=data", "--shuffle=false", "--config=b.yaml"])
    assert stopped.value.code == 0
    assert energies_of("data/train") == [6, 7, 8]


def test_an_empty_file_changes_nothing(preprocess):
    assert preprocess("# nothing\n", "--train_file", "a.xyz", "--h5_prefix", "data") == 0
    assert len(energies_of("data/train")) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train_files: a.xyz", "flags.yaml: train_files: no such flag, expected some of"),
        ("config: other.yaml", "flags.yaml: config: no such flag"),
        ("json: true", "flags.yaml: json: no such flag"),
        ("- a.xyz", "flags.yaml: a list, expected flags such as"),
        ("a: [1", "flags.yaml: while parsing"),
        ("a: \xff\xfe", "flags.yaml: "),
        ("r_max: -1", "--r-max"),
        ("train_file: [a.xyz, c.xyz]", "c.xyz: no such file"),
    ],
)
def test_what_is_wrong_is_said(preprocess, capfd, content, message):
    assert preprocess(content, "--train_file=a.xyz" if "train_file" not in content else "-q") != 0
    assert message in capfd.readouterr().err
    assert not Path("train").exists()


def test_a_file_that_is_not_there(preprocess, capfd):
    assert preprocess("", "--config", "other.yaml") == 2
    assert "other.yaml: cannot be read (No such file or directory)" in capfd.readouterr().err
