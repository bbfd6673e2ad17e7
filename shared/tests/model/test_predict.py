from dataclasses import replace

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.errors import DataError
from mace_jax.model.predict import predict


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


def total_e0(structure, bundle):
    return sum(bundle.atomic_energies["Default"][int(z)] for z in structure.atomic_numbers)


def predict_all(bundle, structures, **options):
    return predict(bundle, "model", structures, **({"n_edge": 60} | options))


def test_input_order_and_one_by_one(scalars_network, structures):
    """Batches are packed in another order than the input's; float64 sums to 1e-12."""
    bundle = scalars_network.bundle
    found = predict_all(bundle, structures)
    assert found.n_node.tolist() == [len(structure) for structure in structures]
    for index, structure in enumerate(structures):
        alone, own = scalars_network(structure), found.of_structure(index)
        e0 = total_e0(structure, bundle)
        assert_allclose(own["energy"], alone.energy + e0, rtol=1e-14)
        assert_allclose(own["node_energy"].sum(), own["energy"], rtol=1e-14)
        assert_allclose(own["forces"], alone.forces, atol=1e-12)
        assert_allclose(own["stress"], alone.stress, atol=1e-12)


def test_e0_is_added_in_float64(network_of, molecule):
    """Large E0s do not cost a float32 model the digits of its interaction energy."""
    network = network_of("one_layer_scalars")
    bundle = network.bundle
    energies = {"Default": {1: -1e6 / 3, 6: -1e7 / 3, 8: -1e7 / 7}}
    single = replace(bundle.astype("float32"), atomic_energies=energies)
    with jax.enable_x64(False):
        found = predict_all(single, [molecule])
    e0 = total_e0(molecule, single)
    energy = found.quantities["energy"]
    assert energy.dtype == np.float64
    assert_allclose(energy[0] - e0, network(molecule).energy, rtol=1e-5)


def test_one_graph_larger_than_the_cap(network_of, molecule, crystal):
    network = network_of("one_layer_scalars")
    found = predict_all(network.bundle, [molecule, crystal], n_edge=1)
    forces = found.of_structure(0)["forces"]
    assert_allclose(forces, network(molecule).forces, atol=1e-12)


def test_all_that_a_model_predicts_in_input_order(dipole_network, structures):
    """Per atom or per structure; without E0s where there is no energy."""
    bundle = dipole_network.bundle
    found = predict_all(bundle, structures, n_edge=120)
    for index, structure in enumerate(structures):
        own, alone = found.of_structure(index), vars(dipole_network(structure))
        assert own.keys() == alone.keys()
        e0 = 0.0
        if "energy" in own:
            e0 = total_e0(structure, bundle)
            assert_allclose(own["energy"] - e0, alone["energy"], atol=1e-9)
        for name in own.keys() - {"energy", "node_energy"}:
            assert_allclose(own[name], alone[name], atol=1e-11, err_msg=name)


def test_defect_12_every_structure_by_its_own_head_and_inputs(network_of, structures):
    network = network_of("embeddings")
    bundle = network.bundle
    mixed = [
        replace(
            structure,
            head=("Default", "other")[index % 2],
            inputs={**structure.inputs, "total_charge": np.array(index % 5 - 2.0)},
        )
        for index, structure in enumerate(structures)
    ]
    found = predict_all(bundle, mixed)
    for index, structure in enumerate(mixed):
        e0 = total_e0(structure, bundle)
        energy = found.quantities["energy"][index] - e0
        assert_allclose(energy, network(structure).energy, atol=1e-9)
    forced = predict_all(bundle, mixed, head="other").of_structure(0)["forces"]
    assert_allclose(forced, network(replace(mixed[0], head="other")).forces, atol=1e-11)
    assert np.abs(forced - found.of_structure(0)["forces"]).max() > 1e-3


def test_unknown_element_is_refused(scalars_network, molecule):
    gold = replace(molecule, atomic_numbers=np.array([6, 8, 1, 1, 79]), place="frame 1")
    with pytest.raises(DataError, match=r"^frame 1: unknown element Au \(79\)"):
        predict_all(scalars_network.bundle, [molecule, gold])


def test_unknown_head_is_refused(scalars_network, molecule):
    with pytest.raises(DataError, match="head 'coarse', expected one of"):
        predict_all(scalars_network.bundle, [molecule], head="coarse")
