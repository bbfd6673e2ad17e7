"""The references in ``shared/parity`` beside the repository, where a machine has them.

They come with the program that judges, ``compare.py``, and its tolerances.
"""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

PARITY = Path(__file__).parents[3] / "shared" / "parity"
MANIFEST = PARITY / "open" / "MANIFEST.json"
CHECKPOINTS = json.loads(MANIFEST.read_text())["checkpoints"] if MANIFEST.exists() else {}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKPOINTS, reason="there is no ../shared/parity"),
]


@pytest.fixture(scope="module")
def compare() -> dict:
    return runpy.run_path(str(PARITY / "compare.py"))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_within_the_stated_tolerances(compare, convert, structures_of, evaluate, name, dtype):
    from ase.io import read

    bundle = convert(PARITY / "open" / "checkpoints" / f"{name}.model.xz")
    path = PARITY / "open" / "structures.extxyz"
    atoms = {frame.info["name"]: frame for frame in read(path, ":")}
    structures = dict(zip(atoms, structures_of(path, bundle), strict=True))
    references = compare["reference"]("open", name)
    assert {head for _, head in references} == set(bundle.heads)
    result = evaluate(
        bundle, [replace(structures[key], head=head) for key, head in references], dtype
    )
    failures = []
    for index, ((key, head), reference) in enumerate(references.items()):
        judged, found, _ = compare["judge"](
            reference,
            result.of_structure(index),
            atoms[key],
            CHECKPOINTS[name]["tolerance"][dtype],
        )
        assert {"energy/atom", "forces"} & judged.keys() or "dipole" in judged
        failures += [f"{key}, {head}: {failure}" for failure in found]
    assert not failures
