"""Beginning with a model, beside mace-torch: the weights of fewer elements, and estimated E0s."""

import copy
import lzma
import os
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
import pytest

from mace_jax.artifacts.dataset import write_dataset_file
from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.artifacts.train_config import train_config_from_sections
from mace_jax.structures.structure import Structure
from mace_jax.torch_models.from_torch import convert_torch_model
from mace_jax.torch_models.select_elements import select_elements
from mace_jax.tracking import track_silently
from mace_jax_convert.to_torch import mace_torch_talks_less, torch_model
from mace_jax_train.run_files import RunFiles
from mace_jax_train.start import prepare_run

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("MACE_JAX_LIVE_TORCH"), reason="needs mace-torch; run `nox -s torch`"
    ),
    pytest.mark.filterwarnings("ignore"),
]

STORED = Path(__file__).parents[1] / "data"
KEPT = (1, 8, 29)


@pytest.fixture(autouse=True)
def float64():
    import torch

    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(torch.float32)


def stored(name: str, folder: Path) -> Path:
    path = folder / f"{name}.model"
    path.write_bytes(lzma.decompress((STORED / f"{name}.model.xz").read_bytes()))
    return path


def bundle_of(name: str, folder: Path) -> ModelBundle:
    return convert_torch_model(stored(name, folder)).astype("float64")


@pytest.mark.parametrize("name", ["correlation_3_2", "zbl_p8_l1", "no_cutoff_density"])
def test_weights_of_fewer_elements(tmp_path, name):
    """A model of other weights is filled by ``load_foundations_elements``."""
    import torch
    from mace.tools import AtomicNumberTable
    from mace.tools.finetuning_utils import load_foundations_elements

    bundle = bundle_of(name, tmp_path)
    whole, ours = torch_model(bundle), torch_model(select_elements(bundle, KEPT))
    theirs = copy.deepcopy(ours)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    max_l = max(irrep.l for _, irrep in ours.products[0].linear.irreps_out)
    with mace_torch_talks_less(), torch.no_grad():
        load_foundations_elements(
            theirs, whole, AtomicNumberTable(list(KEPT)), load_readout=True, max_L=max_l
        )
    expected = theirs.state_dict()
    for tensor, found in ours.state_dict().items():
        np.testing.assert_allclose(
            found.numpy(), expected[tensor].detach().numpy(), rtol=1e-15, err_msg=tensor
        )


def molecules() -> list[Structure]:
    rng = np.random.default_rng(3)
    found = []
    for n in (2, 3, 4, 3, 4):
        positions = np.arange(n)[:, None] * [1.1, 0.4, 0.0] + 0.1 * rng.normal(size=(n, 3))
        labels = {"energy": np.array(-1000.0 * n + rng.normal()), "forces": np.zeros((n, 3))}
        cell, pbc = np.zeros((3, 3)), np.zeros(3, bool)
        found.append(Structure(rng.choice([1, 8], n), positions, cell, pbc, labels))
    return found


def test_estimated_e0s(tmp_path):
    from mace.data import Configuration, estimate_e0s_from_foundation
    from mace.tools import AtomicNumberTable

    structures = molecules()
    path = tmp_path / "train.h5"
    write_dataset_file(path, structures, make_provenance("mace-jax-preprocess", []))
    sections = {
        "flags": {"dtype": "float64"},
        "datasets": {"train_path": str(path), "n_edge": 20, "E0s": "estimated"},
        "model": {"torch_checkpoint": str(stored("layers_1", tmp_path))},
    }
    config = train_config_from_sections(sections, "test")
    run = prepare_run(config, RunFiles(tmp_path, "run"), track_silently)
    with closing(run):
        found = run.bundle.atomic_energies["Default"]

    bundle = bundle_of("layers_1", tmp_path)
    configurations = [
        Configuration(
            s.atomic_numbers,
            s.positions,
            {"energy": float(s.properties["energy"])},
            {"energy": 1.0},
            cell=s.cell,
            pbc=tuple(s.pbc),
        )
        for s in structures
    ]
    with mace_torch_talks_less():
        expected = estimate_e0s_from_foundation(
            torch_model(bundle),
            dict(bundle.atomic_energies["Default"]),
            configurations,
            AtomicNumberTable([1, 8]),
        )
    assert found.keys() == expected.keys() == {1, 8}
    for number, energy in expected.items():
        assert found[number] == pytest.approx(energy, rel=1e-11)
