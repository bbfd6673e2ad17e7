"""Several bundles as one calculator: means, variances, and what they must share."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from ase.io import read
from ase.io import write as write_atoms
from numpy.testing import assert_allclose

from mace_jax.artifacts.model_bundle import EmbeddingSpec, ModelConfig
from mace_jax.calculator import MACECalculator
from mace_jax.errors import ConfigError, IncompatibleError

CONFIG = ModelConfig(
    model="ScaleShiftMACE",
    r_max=3.2,
    num_bessel=4,
    num_polynomial_cutoff=5,
    max_ell=1,
    num_interactions=1,
    hidden_irreps="4x0e",
    MLP_irreps="3x0e",
    correlation=2,
    radial_MLP=(8,),
    gate="silu",
    interaction_cls="RealAgnosticResidualInteractionBlock",
    interaction_cls_first="RealAgnosticResidualInteractionBlock",
    avg_num_neighbors=6.0,
    atomic_numbers=(1, 6, 8),
)
DIPOLES = replace(CONFIG, model="AtomicDipolesMACE", hidden_irreps="3x0e + 3x1o", MLP_irreps="2x1o")
COMPARED = ("energy", "forces", "stress")


@pytest.fixture(scope="module")
def bundles(random_bundle):
    """One, and a larger one of a longer cutoff."""
    other = replace(CONFIG, hidden_irreps="5x0e", r_max=3.6)
    return [random_bundle(CONFIG, seed=1), random_bundle(other, seed=2)]


@pytest.fixture(scope="module")
def paths(bundles, write, tmp_path_factory):
    """In one folder, by names whose order is theirs."""
    folder = tmp_path_factory.mktemp("committee [1]")  # brackets mean something in a pattern
    return [
        shutil.copy(write(bundle), folder / f"member_{index}.msgpack")
        for index, bundle in enumerate(bundles)
    ]


@pytest.fixture(scope="module")
def committee(paths):
    return MACECalculator(paths)


@pytest.fixture(scope="module")
def members(paths):
    return [MACECalculator(path) for path in paths]


def test_means_and_variances(committee, members, crystal):
    values = {name: [] for name in (*COMPARED, "energies", "node_energy")}
    for member in members:
        atoms = crystal.copy()
        atoms.calc = member
        atoms.get_potential_energy()
        for name, of_member in values.items():
            of_member.append(member.results[name])
        values["stress"][-1] = atoms.get_stress(voigt=False)
    crystal.calc = committee
    crystal.get_potential_energy()
    found = committee.results
    for name, of_members in values.items():
        assert np.ptp(of_members, axis=0).max() > 1e-3, name
        mean = crystal.get_stress(voigt=False) if name == "stress" else found[name]
        assert_allclose(mean, np.mean(of_members, axis=0), rtol=1e-10, atol=1e-12)
    assert found["free_energy"] == found["energy"]
    for name in COMPARED:
        assert_allclose(found[f"{name}_comm"], values[name], rtol=1e-10, atol=1e-12)
        expected = np.mean((values[name] - np.mean(values[name], axis=0)) ** 2, axis=0)
        assert_allclose(found[f"{name}_var"], expected, rtol=1e-8, atol=1e-12)
    assert set(committee.implemented_properties) == set(found)
    assert committee.get_property("energy_var", crystal) == found["energy_var"]


def test_a_pattern_takes_files_by_name(members, paths, molecule):
    folder = re.sub(r"([\[\]])", r"[\1]", str(paths[0].parent))
    molecule.calc = MACECalculator(f"{folder}/member_*.msgpack")
    molecule.get_potential_energy()
    for member, energy in zip(members, molecule.calc.results["energy_comm"], strict=True):
        assert member.get_potential_energy(molecule) == pytest.approx(energy, rel=1e-12)
    with pytest.raises(ConfigError, match=r"model: \S+none_\*.msgpack matches no file"):
        MACECalculator("/none_*.msgpack")
    with pytest.raises(ConfigError, match="model: no bundle, expected one at least"):
        MACECalculator([])


def test_members_that_differ_in_weights_are_compiled_once(paths, random_bundle, write, molecule):
    molecule.calc = MACECalculator([paths[0], write(random_bundle(CONFIG, seed=3))])
    molecule.get_forces()
    assert molecule.calc.n_compilations == 1
    assert molecule.calc.results["energy_var"] > 1e-6


def test_dipoles(random_bundle, write, molecule):
    paths = [write(random_bundle(DIPOLES, seed=seed)) for seed in (1, 2)]
    molecule.calc = MACECalculator(paths)
    dipole = molecule.get_dipole_moment()
    found = molecule.calc.results
    assert set(found) == {"dipole", "dipole_comm", "dipole_var"}
    assert_allclose(dipole, found["dipole_comm"].mean(axis=0))
    assert_allclose(found["dipole_var"], np.ptp(found["dipole_comm"], axis=0) ** 2 / 4)


def test_atoms_can_be_written_with_results(committee, crystal, tmp_path):
    crystal.calc = committee
    forces = crystal.get_forces()
    for name in ("frame.extxyz", "frame.traj"):
        write_atoms(tmp_path / name, crystal)
        again = read(tmp_path / name)
        assert_allclose(again.get_forces(), forces, atol=1e-7)
        assert again.get_potential_energy() == pytest.approx(crystal.get_potential_energy())
    exported = committee.export_properties()
    assert "forces" in exported
    assert "energy_var" not in exported


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"atomic_numbers": (1, 8)}, "elements H O, expected H C O as in .*member_0.msgpack"),
        ({"model": "AtomicDipolesMACE"}, r"predictions \['dipole'\], expected \['energy'"),
        (
            {"embedding_specs": (EmbeddingSpec("total_spin", "continuous", "graph", 2),)},
            r"inputs \[.*total_spin.*\], expected \[\]",
        ),
    ],
)
def test_members_that_differ_are_refused(change, message, paths, random_bundle, write):
    config = replace(DIPOLES if "model" in change else CONFIG, **change)
    other = write(random_bundle(config))
    with pytest.raises(IncompatibleError, match=f"{other}: {message}.*leave one of the two out"):
        MACECalculator([paths[0], other])


def test_members_of_other_heads_or_dtypes_are_refused(bundles, paths, random_bundle, write):
    heads = write(random_bundle(CONFIG, heads=("pbe", "scan")))
    with pytest.raises(IncompatibleError, match=r"heads \['pbe', 'scan'\], expected \['Default'\]"):
        MACECalculator([paths[0], heads])
    single = write(bundles[1].astype("float32"))
    with pytest.raises(ConfigError, match="dtype: bundles of float32 and of float64; say which"):
        MACECalculator([paths[0], single])
    assert MACECalculator([paths[0], single], dtype="float64").results == {}
