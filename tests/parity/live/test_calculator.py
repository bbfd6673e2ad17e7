"""The ASE calculator beside mace-torch's, on the checkpoints of ``../shared/parity`` and others."""

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from mace_jax.artifacts.model_bundle import write_model_bundle
from mace_jax.calculator import MACECalculator
from mace_jax.torch_models.from_torch import convert_torch_model
from mace_jax_convert.to_torch import mace_torch_talks_less

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("MACE_JAX_LIVE_TORCH"), reason="needs mace-torch; run `nox -s torch`"
    ),
    pytest.mark.filterwarnings("ignore"),
]

DATA = Path(__file__).parents[1] / "data"
SHARED = Path(__file__).parents[4] / "shared" / "parity" / "open"
MANIFEST = SHARED / "MANIFEST.json"
CHECKPOINTS = json.loads(MANIFEST.read_text())["checkpoints"] if MANIFEST.exists() else {}
STORED = ("layers_1", "r_max_4.5", "zbl_p8_l1")
WITH_HESSIAN = ("o01_res_l0_ell3", "o02_agnesi_zbl_l1", "o08_charge_spin_emb", "r_max_4.5")
ALIASES = {"total_charge": "charge", "total_spin": "spin"}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """mace-torch forms ZBL's prefactor in the default dtype."""
    import torch

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def checkpoint(name: str) -> tuple[Path, list[Atoms]]:
    """Return a checkpoint and a molecule and a crystal that it knows."""
    folder = SHARED if name in CHECKPOINTS else DATA
    path = folder / ("checkpoints" if folder == SHARED else "") / f"{name}.model.xz"
    frames = {frame.info["name"]: frame for frame in read(folder / "structures.extxyz", ":")}
    return path, [frames[key] for key in ("molecule", "triclinic")]


@pytest.fixture
def calculators(
    convert: Callable[[Path], Any], tmp_path: Path
) -> Callable[[str], tuple[MACECalculator, Any, list[Atoms]]]:
    """Return a function from a name to both calculators and atoms that they know."""

    def of(name: str) -> tuple[MACECalculator, Any, list[Atoms]]:
        from mace.calculators import MACECalculator as TorchCalculator

        path, atoms = checkpoint(name)
        bundle = convert(path)
        ours = write(bundle, tmp_path / "model.msgpack")
        head = bundle.heads[-1]
        kind = {"EnergyDipolesMACE": "EnergyDipoleMACE"}.get(bundle.config.model, "MACE")
        with mace_torch_talks_less():
            theirs = TorchCalculator(
                str(tmp_path / path.stem), default_dtype="float64", head=head, model_type=kind
            )
        known = set(bundle.config.atomic_numbers)
        return (
            MACECalculator(ours, head=head, dtype="float64"),
            theirs,
            [told(frame) for frame in atoms if known.issuperset(frame.numbers)],
        )

    return of


def write(bundle: Any, path: Path) -> Path:
    provenance = {"tool": "tests", "tool_version": "0", "command": [], "seed": None, "inputs": []}
    write_model_bundle(path, bundle, provenance)
    return path


def told(atoms: Atoms) -> Atoms:
    """Return the atoms with charge and spin by the names of mace-torch's calculator."""
    atoms = atoms.copy()
    atoms.info = {ALIASES.get(key, key): value for key, value in atoms.info.items()}
    return atoms


def assert_close(found: Any, expected: Any, what: str, relative: float) -> None:
    expected = np.asarray(expected)
    assert np.shape(found) == expected.shape, what
    limit = relative * max(1, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit, err_msg=what)


def relative_error(name: str) -> float:
    """Couplings of a model saved in float32 are rounded differently."""
    return 2e-6 if "float32" in name else 1e-9


@pytest.mark.parametrize("name", [*CHECKPOINTS, *STORED])
def test_properties_and_descriptors(calculators, name):
    ours, theirs, frames = calculators(name)
    assert frames
    for atoms in frames:
        ours.calculate(atoms)
        theirs.calculate(atoms)
        names = {"energy", "free_energy", "forces"}
        if ours.implemented_properties[-1] != "dipole" and "emb" not in name:
            names |= {"energies", "node_energy"}  # mace-torch's lack the readout of embeddings
        if atoms.pbc.all():
            names.add("stress")
        for key in names:
            expected = theirs.results[key]
            assert_close(ours.results[key], expected, key, relative_error(name))
        if theirs.model_type != "MACE" or not atoms.pbc.any():
            continue
        for options in ({}, {"invariants_only": False}):
            found = ours.get_descriptors(atoms, **options)
            expected = theirs.get_descriptors(atoms, **options)
            assert_close(found, expected, f"descriptors {options}", relative_error(name))


@pytest.mark.parametrize("name", [name for name in WITH_HESSIAN if name in (*CHECKPOINTS, *STORED)])
def test_hessian(calculators, name):
    ours, theirs, (atoms, *_) = calculators(name)
    expected = theirs.get_hessian(atoms)
    assert np.abs(expected).max() > 1
    assert_close(ours.get_hessian(atoms), expected, "hessian", 1e-8)


def test_committee(tmp_path):
    import lzma

    import torch
    from mace.calculators import MACECalculator as TorchCalculator

    path = tmp_path / "0.model"
    path.write_bytes(lzma.decompress((DATA / "r_max_4.5.model.xz").read_bytes()))
    models = [torch.load(path, weights_only=False)]
    for index in (1, 2):
        model = copy.deepcopy(models[0])
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(0.05 * noise)
        models.append(model)
        torch.save(model, tmp_path / f"{index}.model")
    for index in range(3):
        bundle = convert_torch_model(tmp_path / f"{index}.model")
        write(bundle, tmp_path / f"{index}.msgpack")
    with mace_torch_talks_less():
        theirs = TorchCalculator(models=models, default_dtype="float64")
    ours = MACECalculator(f"{tmp_path}/*.msgpack", dtype="float64")
    atoms = checkpoint("r_max_4.5")[1][1]
    ours.calculate(atoms)
    theirs.calculate(atoms)
    assert theirs.results["energy_var"] > 1e-6
    assert ours.results.keys() == theirs.results.keys()
    for key, expected in theirs.results.items():
        assert_close(ours.results[key], expected, key, 1e-9)
    for found, expected in zip(
        ours.get_descriptors(atoms), theirs.get_descriptors(atoms), strict=True
    ):
        assert_close(found, expected, "descriptors", 1e-9)
