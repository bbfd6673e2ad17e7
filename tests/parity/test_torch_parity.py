"""Numbers of mace-torch, stored with its checkpoints by ``make_references.py``.

Tolerance 1e-9 of the largest value: both sides compute in float64 and differ by the order of their
sums, which leaves some 1e-13, while any wrong factor, sign or path shows at 1e-3 and more.
"""

import lzma
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mace_jax.model.symmetric_contraction import coupling_tensors
from mace_jax.structures.atomic_energies import total_atomic_energy
from mace_jax.structures.structure import Structure
from mace_jax_convert.torch_archive import read_torch_archive
from mace_jax_convert.torch_modules import attribute, child, children, irreps, tensor

DATA = Path(__file__).parent / "data"
NAMES = sorted(path.name.removesuffix(".model.xz") for path in DATA.glob("*.model.xz"))
RELATIVE = 1e-9


def stored_structures() -> dict[str, Structure]:
    arrays = np.load(DATA / "structures.npz")
    names = dict.fromkeys(key.split("__")[0] for key in arrays)
    return {
        name: Structure(*(arrays[f"{name}__{k}"] for k in ("numbers", "positions", "cell", "pbc")))
        for name in names
    }


def assert_close(found, expected, what):
    size = np.abs(expected).max()
    assert size > 1e-4, what  # a reference of zeros would prove nothing
    np.testing.assert_allclose(found, expected, rtol=0, atol=RELATIVE * size, err_msg=what)


def test_five_models_are_stored():
    assert len(NAMES) == 5


@pytest.mark.parametrize("name", NAMES)
def test_energy_forces_and_stress_are_torch_s(name, convert, evaluate):
    bundle = convert(DATA / f"{name}.model.xz")
    reference = np.load(DATA / f"{name}.npz")
    keys = [(key, head) for key in stored_structures() for head in bundle.heads]
    assert {tuple(key.split("__")[:2]) for key in reference} == set(keys)
    structures = [replace(stored_structures()[key], head=head) for key, head in keys]
    result = evaluate(bundle, structures)
    ends = np.cumsum(result.n_node)
    for index, ((key, head), structure) in enumerate(zip(keys, structures, strict=True)):
        prefix = f"{key}__{head}__"
        e0 = total_atomic_energy(structure.atomic_numbers, bundle.atomic_energies[head])
        forces = result.forces[ends[index] - len(structure) : ends[index]]
        # E0s are a thousand times larger than what the network says; take them off
        energies = result.energy[index] - e0, reference[f"{prefix}energy"] - e0
        if key == "isolated_atom":
            np.testing.assert_allclose(*energies, rtol=0, atol=1e-11, err_msg=key)
            assert not forces.any()
            continue
        assert_close(*energies, f"{key} energy")
        assert_close(forces, reference[f"{prefix}forces"], f"{key} forces")
        if key == "triclinic":
            stress, volume = result.stress[index], abs(np.linalg.det(structure.cell))
            assert_close(stress, reference[f"{prefix}stress"], f"{key} stress")
            assert_close(-stress * volume, reference[f"{prefix}virials"], f"{key} virials")


def test_only_a_first_block_without_residual_gives_the_isolated_atom_its_e0():
    """As mace-torch has it: a residual passes the embedding of the element on to the readouts."""
    e0_of_oxygen = -2041.839
    proper = np.load(DATA / "mace_proper_e0.npz")
    assert float(proper["isolated_atom__Default__energy"]) == e0_of_oxygen
    residual = np.load(DATA / "mace_pseudoscalars.npz")
    assert abs(float(residual["isolated_atom__Default__energy"]) - e0_of_oxygen) > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_couplings_in_the_checkpoint_are_ours(name, tmp_path):
    plain = tmp_path / "plain.model"
    plain.write_bytes(lzma.decompress((DATA / f"{name}.model.xz").read_bytes()))
    compared = 0
    for product in children(read_torch_archive(plain), "products"):
        contractions = child(product, "symmetric_contractions")
        targets = irreps(attribute(contractions, "irreps_out"))
        sources = tuple(_lp(text) for _, text in irreps(attribute(contractions, "irreps_in")))
        for (_, target), contraction in zip(
            targets, children(contractions, "contractions"), strict=True
        ):
            for order in range(1, int(attribute(contraction, "correlation")) + 1):
                stored = tensor(contraction, f"U_matrix_{order}")
                ours = coupling_tensors(sources, _lp(target), order)
                if target.startswith("0"):
                    ours = ours[0]
                if not ours.shape[-1]:
                    assert not stored.any()
                    continue
                np.testing.assert_allclose(stored, ours, rtol=0, atol=1e-12)
                compared += 1
    assert compared >= 2


def _lp(text: str) -> tuple[int, int]:
    return int(text[:-1]), 1 if text[-1] == "e" else -1
