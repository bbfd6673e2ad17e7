from dataclasses import replace

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.errors import DataError
from mace_jax.model.predict import predict
from mace_jax.structures.atomic_energies import total_atomic_energy


@pytest.fixture
def structures(molecule, crystal, slab, lone_carbon):
    stretched = replace(molecule, positions=1.05 * molecule.positions)
    return [
        molecule,
        lone_carbon,
        crystal,
        stretched,
        slab,
        replace(crystal, cell=1.1 * crystal.cell),
    ]


def predict_all(bundle, structures, **options):
    return predict(bundle, "model", structures, **({"n_edge": 60} | options))


def test_input_order_and_one_by_one(scalars_network, structures):
    """Batches are packed in another order than the input's; float64 sums to 1e-12."""
    bundle = scalars_network.bundle
    found = predict_all(bundle, structures)
    assert found.n_node.tolist() == [len(structure) for structure in structures]
    for index, structure in enumerate(structures):
        alone, own = scalars_network(structure), found.of_structure(index)
        e0 = total_atomic_energy(structure.atomic_numbers, bundle.atomic_energies["Default"])
        assert_allclose(own["energy"], alone.energy + e0, rtol=1e-14)
        assert_allclose(own["node_energy"].sum(), own["energy"], rtol=1e-14)
        assert_allclose(own["forces"], alone.forces, atol=1e-12)
        assert_allclose(own["stress"], alone.stress, atol=1e-12)


def test_e0_is_added_in_float64(scalars_network, molecule):
    """Large E0s do not cost a float32 model the digits of its interaction energy."""
    bundle = scalars_network.bundle
    energies = {"Default": {1: -1e6 / 3, 6: -1e7 / 3, 8: -1e7 / 7}}
    single = replace(bundle.astype("float32"), atomic_energies=energies)
    with jax.enable_x64(False):
        found = predict_all(single, [molecule])
    e0 = total_atomic_energy(molecule.atomic_numbers, single.atomic_energies["Default"])
    energy = found.quantities["energy"]
    assert energy.dtype == np.float64
    assert_allclose(energy[0] - e0, scalars_network(molecule).energy, rtol=1e-5)


def test_one_graph_larger_than_the_cap(scalars_network, molecule, crystal):
    found = predict_all(scalars_network.bundle, [molecule, crystal], n_edge=1)
    forces = found.of_structure(0)["forces"]
    assert_allclose(forces, scalars_network(molecule).forces, atol=1e-12)


def test_unknown_element_is_refused(scalars_network, molecule):
    gold = replace(molecule, atomic_numbers=np.array([6, 8, 1, 1, 79]), place="frame 1")
    with pytest.raises(DataError, match=r"^frame 1: unknown element Au \(79\)"):
        predict_all(scalars_network.bundle, [molecule, gold])


def test_unknown_head_is_refused(scalars_network, molecule):
    with pytest.raises(DataError, match="head 'coarse', expected one of"):
        predict_all(scalars_network.bundle, [molecule], head="coarse")
