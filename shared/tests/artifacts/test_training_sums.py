import json

import numpy as np
import pytest

from mace_jax.artifacts.training_sums import read_training_sums, write_training_sums
from mace_jax.errors import ArtifactError
from mace_jax.structures.training_sums import TrainingSums


@pytest.fixture
def sums(water, crystal):
    sums = TrainingSums(5.0)
    for structure in (water, crystal):
        sums.add(structure, np.arange(len(structure)))
    return sums


@pytest.fixture
def path(tmp_path, sums, provenance):
    write_training_sums(tmp_path / "sums.json", sums, provenance)
    return tmp_path / "sums.json"


def test_round_trip(path, sums):
    assert read_training_sums(path).to_json() == sums.to_json()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("r_max",), 0),
        (("heads", "pbe", "n_edges"), -1),
        (("heads", "pbe", "n_edges"), 1.5),
        (("heads", "pbe", "energy_per_atom"), "1/3"),
        (("heads", "pbe", "energy_per_atom"), "0x12"),
        (("heads", "pbe", "n_atoms"), {"carbon": 1}),
        (("heads", "pbe", "rows", "total"), [[1.0, 2.0]]),
        (("heads", "pbe", "rows", "total"), [[1.0, 2.0, 3.0], [1.0]]),
        (("heads", "pbe", "rows", "elements"), [6]),
        (("heads", "pbe", "rows", "elements"), [6, 140]),
        (("heads", "pbe", "n_atoms"), {"140": 1}),
        (("heads", "pbe", "extra"), 1),
        (("isolated_atoms",), {"pbe": {"H": 1.0}}),
    ],
)
def test_damaged_values_are_refused(path, place, value):
    document = json.loads(path.read_text())
    part = document
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=r"sums\.json: "):
        read_training_sums(path)


def test_every_truncation_is_refused(path):
    content = path.read_bytes().rstrip()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            read_training_sums(path)
