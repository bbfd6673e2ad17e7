"""The references in ``shared/parity`` beside the repository, where a machine has them."""

import json
from pathlib import Path

import numpy as np
import pytest

from mace_jax.structures.structure import Structure

PARITY = Path(__file__).parents[3] / "shared" / "parity" / "open"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PARITY.is_dir(), reason="there is no ../shared/parity"),
]


def read_structures() -> dict[str, Structure]:
    from ase.io import read

    return {
        atoms.info["name"]: Structure(
            atoms.numbers.astype(np.int64), atoms.positions, np.array(atoms.cell), atoms.pbc
        )
        for atoms in read(PARITY / "structures.extxyz", ":")
    }


@pytest.mark.parametrize(
    "name", ["o01_res_l0_ell3", "o03_mace_agn_first", "o07_one_layer", "o12_l2_hidden"]
)
def test_within_the_stated_tolerances(name, convert, evaluate):
    entry = json.loads((PARITY / "MANIFEST.json").read_text())["checkpoints"][name]
    limits = entry["tolerance"]["float64"]
    reference = np.load(PARITY / "references" / f"{name}.npz")
    structures = {
        key: value for key, value in read_structures().items() if key in entry["structures"]
    }
    (head,) = entry["heads"]
    result = evaluate(
        convert(PARITY / "checkpoints" / f"{name}.model.xz"), list(structures.values())
    )
    ends = np.cumsum(result.n_node)
    judged = 0
    for index, (key, structure) in enumerate(structures.items()):
        expected = {
            label: reference[f"{key}__{head}__{label}"]
            for label in ("energy", "forces", "node_energy", "stress", "virials")
            if f"{key}__{head}__{label}" in reference
        }
        own, n = slice(ends[index] - len(structure), ends[index]), len(structure)

        def check(found, label, floor, expected=expected, key=key):
            limit = floor + limits["rel"] * np.abs(expected[label]).max()
            np.testing.assert_allclose(
                found,
                expected[label].reshape(np.shape(found)),
                rtol=0,
                atol=limit,
                err_msg=f"{key}: {label}",
            )

        check(result.energy[index], "energy", n * limits["energy_floor"])
        check(result.node_energy[own], "node_energy", limits["energy_floor"])
        check(result.forces[own], "forces", limits["force_floor"])
        judged += 1
        if structure.pbc.any():
            volume = abs(np.linalg.det(structure.cell))
            check(-volume * result.stress[index], "virials", 10 * limits["force_floor"])
        if structure.pbc.all():
            check(result.stress[index], "stress", 10 * limits["force_floor"] / volume)
    assert judged == len(entry["structures"])
