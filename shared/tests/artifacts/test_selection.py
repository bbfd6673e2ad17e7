import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mace_jax.artifacts.selection import (
    Selection,
    read_selection,
    selection_path,
    write_selection,
)
from mace_jax.errors import ArtifactError

SELECTION = Selection(
    "replay.xyz",
    "0" * 64,
    "stratified",
    2,
    "inclusive",
    (1, 8),
    "pt_head",
    {"read": 7, "isolated_atoms": 1, "candidates": 4},
    ("a.xyz", "b.h5"),
    np.array([0, 1]),
    np.array([5, 2]),
    ("0" * 32, "f" * 32),
)


@pytest.fixture
def path(tmp_path, provenance):
    write_selection(tmp_path / "replay.selection.json", SELECTION, provenance)
    return tmp_path / "replay.selection.json"


@pytest.mark.parametrize("changes", [{}, {"number": None, "head": None, "elements": ()}])
def test_round_trip(path, provenance, changes):
    expected = replace(SELECTION, **changes)
    write_selection(path, expected, provenance)
    found = read_selection(path)
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("method",), "best"),
        (("number",), 0),
        (("elements",), [119]),
        (("counts",), {"read": 7}),
        (("sources",), ["a.xyz"]),
        (("structures", "frame"), [5]),
        (("structures", "source"), [0, -1]),
        (("structures", "digest"), ["0" * 32, "x"]),
    ],
)
def test_damage_is_found(path, place, value):
    document = json.loads(path.read_text())
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=r"replay\.selection\.json: at /"):
        read_selection(path)


def test_stands_beside_the_dataset():
    assert selection_path(Path("a/replay.h5")) == Path("a/replay.selection.json")
