import json
from dataclasses import replace

import pytest

from mace_jax.artifacts.statistics import read_statistics, statistics_input, write_statistics
from mace_jax.errors import ArtifactError
from mace_jax.structures.statistics import HeadStatistics, Statistics

STATISTICS = Statistics((1, 8), {1: -13.587222780835477, 8: -432.25}, 12.5, -3.75, 1.125, 5.0)
TORCH = {
    "atomic_energies": "{1: -13.587222780835477, 8: -432.25}",
    "avg_num_neighbors": 12.5,
    "mean": -3.75,
    "std": 1.125,
    "atomic_numbers": "[1, 8]",
    "r_max": 5.0,
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "statistics.json"


def test_round_trip(path, provenance):
    write_statistics(path, STATISTICS, provenance)
    assert read_statistics(path) == STATISTICS


def test_round_trip_of_heads(path, provenance):
    heads = {
        "pbe": HeadStatistics({1: -13.6}, -3.5, 1.5, 0.25),
        "scan": HeadStatistics({1: -13.5, 8: -430.0}, -4.0, 1.0, None),
    }
    statistics = replace(STATISTICS, atomic_energies={}, energy_std=0.125, heads=heads)
    write_statistics(path, statistics, provenance)
    assert read_statistics(path) == statistics


def test_torch_mace_can_read_ours(path, provenance):
    write_statistics(path, STATISTICS, provenance)
    document = json.loads(path.read_text())
    assert {name: document[name] for name in TORCH} == TORCH


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"atomic_energies": {"1": -13.587222780835477, "8": -432.25}, "atomic_numbers": [1, 8]},
        {"atomic_energies": "{1: np.float64(-13.587222780835477), 8: np.float64(-432.25)}"},
    ],
    ids=["text", "containers", "numpy 2"],
)
def test_torchs_untagged_form(path, changes):
    path.write_text(json.dumps({**TORCH, **changes}))
    assert "schema" not in json.loads(path.read_text())
    assert read_statistics(path) == STATISTICS


@pytest.mark.parametrize(
    "changes",
    [
        {"r_max": None},
        {"r_max": 0},
        {"mean": "low"},
        {"mean": float("nan")},
        {"std": float("inf")},
        {"atomic_numbers": "[1, 8"},
        {"atomic_numbers": "8"},
        {"atomic_energies": "[1, 8]"},
        {"atomic_energies": "{1: low}"},
        {"atomic_energies": "__import__('os')"},
        {"extra": 1},
        {"energy_std": -1.0},
        {"heads": {"pbe": {"mean": 1.0}}},
    ],
)
def test_damaged_values_are_refused(path, provenance, changes):
    write_statistics(path, STATISTICS, provenance)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ArtifactError, match=r"statistics\.json: "):
        read_statistics(path)


@pytest.mark.parametrize("name", sorted(TORCH))
def test_a_missing_value_is_named(path, name):
    path.write_text(json.dumps({key: value for key, value in TORCH.items() if key != name}))
    with pytest.raises(ArtifactError, match=f"'{name}' is a required property"):
        read_statistics(path)


def test_every_truncation_is_refused(path, provenance):
    write_statistics(path, STATISTICS, provenance)
    content = path.read_bytes().rstrip()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            read_statistics(path)


def test_as_an_input(path, provenance):
    write_statistics(path, STATISTICS, provenance)
    entry = statistics_input(path).to_json()
    assert (entry["kind"], entry["version"]) == ("statistics", 2)
