"""Torch MACE checkpoints made into LAMMPS's files by one command, against mace-torch's numbers."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from mace_jax.artifacts.predictions import Predictions
from mace_jax.torch_models.from_torch import convert_torch_model
from mace_jax_export_lammps import cli

ROOT = Path(__file__).parents[2]
# Beside the repository, where a machine has it; the structures are larger than the stored ones.
SHARED = ROOT.parent / "shared" / "parity" / "open"
MANIFEST = SHARED / "MANIFEST.json"
CHECKPOINTS = json.loads(MANIFEST.read_text())["checkpoints"] if MANIFEST.exists() else {}
PERIODIC = ("waterbox", "triclinic", "disordered", "slab_ttf")
WAYS = [("plain", 1), ("exchange", 2)]


def to_lammps(path, *arguments):
    """Run the command; return its code."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(path), *arguments, "--output", str(path.with_suffix(".pkl")), "--quiet"])
    return stopped.value.code


@pytest.mark.skipif(not CHECKPOINTS, reason="there is no ../shared/parity")
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_numbers_of_mace_torch(lammps, tmp_path, name):
    about = CHECKPOINTS[name]
    path = tmp_path / f"{name}.model"
    path.write_bytes(lzma.decompress((SHARED / "checkpoints" / f"{path.name}.xz").read_bytes()))
    reference = np.load(SHARED / "references" / f"{name}.npz")
    frames = {atoms.info["name"]: atoms for atoms in read(SHARED / "structures.extxyz", ":")}
    relative = about["tolerance"]["float64"]["rel"]
    for index, structure in enumerate(PERIODIC):
        atoms, head = frames[structure], about["heads"][index % len(about["heads"])]
        inputs = [
            text
            for key, usual in (("total_charge", 0), ("total_spin", 1))
            if "emb" in name
            for text in ("--input", f"{key}={atoms.info.get(key, usual)}")
        ]
        code = to_lammps(
            path, "--head", head, "--dtype", "float64", "--no-self-test", "--force", *inputs
        )
        if about["config"]["cls"] == "EnergyDipolesMACE":
            assert code == 1
            continue
        assert code == 0
        outcome = lammps(path.with_suffix(".pkl"), atoms, *WAYS[index % len(WAYS)])
        assert outcome.code == 0, outcome.text
        stored = {
            quantity: reference[f"{structure}__{head}__{quantity}"]
            for quantity in ("energy", "forces", "virials")
        }
        # its stress of a slab is by the volume of a stretched cell
        stored["stress"] = -stored.pop("virials") / atoms.cell.volume
        for quantity, expected in stored.items():
            difference = np.abs(np.array(outcome.found[quantity]) - expected).max()
            assert difference <= relative * max(1, np.abs(expected).max()), (structure, quantity)


@pytest.mark.parametrize("name", ["soft_l1_gaussian", "r_max_4.5"])
@pytest.mark.parametrize(("flavor", "n_processes"), WAYS)
def test_stored_numbers(lammps, tmp_path, name, flavor, n_processes):
    """Of this repository, so that something is compared everywhere."""
    data = ROOT / "tests" / "parity" / "data"
    path = tmp_path / f"{name}.model"
    path.write_bytes(lzma.decompress((data / f"{path.name}.xz").read_bytes()))
    assert to_lammps(path) == 0
    arrays = dict(np.load(data / f"{name}.npz"))
    theirs = Predictions(arrays.pop("n_node"), arrays)
    known = set(convert_torch_model(path).config.atomic_numbers)
    frames = [
        atoms for atoms in read(data / "structures.extxyz", ":") if known.issuperset(atoms.numbers)
    ]
    index = [atoms.info["name"] for atoms in frames].index("water_box")
    outcome = lammps(path.with_suffix(".pkl"), frames[index], flavor, n_processes)
    assert outcome.code == 0, outcome.text
    for quantity in ("energy", "forces", "stress"):
        expected = theirs.of_structure(index)[quantity]
        difference = np.abs(np.array(outcome.found[quantity]) - expected).max()
        assert difference <= 1e-9 * max(1, np.abs(expected).max()), quantity
