"""The ASE calculator, on small random networks."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from numpy.testing import assert_allclose, assert_array_equal

from mace_jax.artifacts.model_bundle import (
    EmbeddingSpec,
    ModelConfig,
)
from mace_jax.calculator import MACECalculator
from mace_jax.errors import ArtifactError, ConfigError, DataError
from mace_jax.model.predict import predict
from mace_jax.structures.structure import Structure
from mace_jax.units import DEBYE

R_MAX = 3.2
SCALARS = ModelConfig(
    model="ScaleShiftMACE",
    r_max=R_MAX,
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
TWO_LAYERS = replace(SCALARS, num_interactions=2, correlation=1)
OTHER_BLOCKS = {
    "density": replace(
        TWO_LAYERS,
        interaction_cls_first="RealAgnosticDensityInteractionBlock",
        interaction_cls="RealAgnosticDensityResidualInteractionBlock",
        radial_type="gaussian",
    ),
    # whose messages would not fade out of themselves
    "nonlinear_then_attention": replace(
        TWO_LAYERS,
        interaction_cls_first="RealAgnosticResidualNonLinearInteractionBlock",
        interaction_cls="RealAgnosticAttResidualInteractionBlock",
    ),
    # the repulsion of two carbon atoms reaches 1.52 Å
    "repulsion_longer_than_cutoff": replace(SCALARS, r_max=1.3, pair_repulsion=True),
}
CHARGED = replace(
    SCALARS,
    embedding_specs=(
        EmbeddingSpec("total_charge", "categorical", "graph", 2, num_classes=5, offset=2),
        EmbeddingSpec("spins", "continuous", "atom", 2),
    ),
)
DIPOLES = replace(
    SCALARS, model="EnergyDipolesMACE", hidden_irreps="3x0e + 3x1o", MLP_irreps="2x0e + 2x1o"
)
DIELECTRIC = replace(
    SCALARS,
    model="AtomicDielectricMACE",
    max_ell=2,
    hidden_irreps="3x0e + 3x1o + 3x2e",
    MLP_irreps="2x0e + 2x1o + 2x2e",
)


@pytest.fixture(scope="module")
def bundle(random_bundle):
    return random_bundle(SCALARS)


@pytest.fixture(scope="module")
def model(bundle, write):
    return write(bundle)


@pytest.fixture(scope="module")
def shared_calculator(model):
    return MACECalculator(model, skin=0.6)


@pytest.fixture
def calculator(shared_calculator):
    """One calculator for all tests that don't count compilations: it serves any atoms."""
    return shared_calculator


@pytest.fixture(scope="module")
def at_once(model):
    """Return a function that evaluates atoms with a list of their own, named as predictions are."""
    calculator = MACECalculator(model, skin=0)

    def evaluate(atoms):
        atoms = Atoms(atoms, calculator=calculator)
        lists = calculator.n_neighbor_lists
        calculator.calculate(Atoms(atoms, numbers=np.ones(len(atoms), int)))  # others' list
        calculator.calculate(atoms)
        assert calculator.n_neighbor_lists == lists + 2
        return {
            "energy": atoms.get_potential_energy(),
            "node_energy": atoms.get_potential_energies(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(voigt=False),
        }

    return evaluate


def gas(n, length, seed=0):
    """Atoms on a grid of a cubic cell, displaced at random."""
    rng = np.random.default_rng(seed)
    per_side = round(n ** (1 / 3))
    grid = np.stack(np.meshgrid(*[np.arange(per_side)] * 3), axis=-1).reshape(-1, 3)
    fractions = (grid + rng.uniform(0.3, 0.7, grid.shape)) / per_side
    numbers = rng.choice([1, 6, 8], len(grid))
    return Atoms(numbers, scaled_positions=fractions, cell=[length] * 3, pbc=True)


def predicted(bundle, atoms, inputs=None):
    """Return what ``predict`` says of atoms."""
    structure = Structure(
        atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, inputs=inputs or {}
    )
    with jax.enable_x64(bundle.dtype == "float64"):
        return predict(bundle, "model", [structure], n_edge=1).of_structure(0)


def check_agreement(expected, atoms, rtol=1e-12):
    scale = np.abs(expected["forces"]).max()
    assert scale > 1e-3
    assert_allclose(atoms.get_potential_energy(), expected["energy"], rtol=rtol)
    assert_allclose(atoms.calc.results["free_energy"], expected["energy"], rtol=rtol)
    assert_allclose(atoms.get_potential_energies(), expected["node_energy"], rtol=rtol)
    assert_allclose(atoms.get_forces(), expected["forces"], atol=rtol * scale)
    if atoms.pbc.any():
        stress = atoms.get_stress(voigt=False)
        assert_allclose(stress, expected["stress"], atol=rtol * np.abs(expected["stress"]).max())


@pytest.mark.parametrize("name", ["molecule", "crystal"])
def test_says_what_predict_says(name, request, calculator, bundle):
    atoms = request.getfixturevalue(name)
    atoms.calc = calculator
    check_agreement(predicted(bundle, atoms), atoms)


@pytest.mark.parametrize("config", OTHER_BLOCKS.values(), ids=OTHER_BLOCKS)
def test_pairs_beyond_the_cutoff_say_nothing(config, write, random_bundle):
    bundle = random_bundle(config)
    atoms = gas(27, 2.2 * config.r_max)
    distances = atoms.get_all_distances(mic=True)
    assert ((distances > config.r_max) & (distances < 1.1 * config.r_max)).sum() > 20
    atoms.calc = MACECalculator(write(bundle), skin=0.3 * config.r_max)
    check_agreement(predicted(bundle, atoms), atoms)


def test_a_list_serves_while_atoms_and_cell_move_little(calculator, at_once):
    atoms = gas(27, 7.0)
    atoms.calc = calculator
    atoms.get_forces()
    lists = calculator.n_neighbor_lists
    rng = np.random.default_rng(3)
    for _ in range(3):
        atoms.positions += rng.uniform(-0.03, 0.03, (27, 3))
        strain = rng.uniform(-0.01, 0.01, (3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
        check_agreement(at_once(atoms), atoms)
    assert calculator.n_neighbor_lists == lists


def test_a_list_is_built_anew_when_an_atom_moves_by_half_the_skin(calculator, molecule):
    molecule.calc = calculator
    molecule.get_forces()
    lists = calculator.n_neighbor_lists
    for shift, expected in ((0.29, lists), (0.02, lists + 1), (0.29, lists + 1)):
        molecule.positions[2, 0] += shift
        molecule.get_forces()
        assert calculator.n_neighbor_lists == expected


@pytest.mark.parametrize(("stretch", "new_lists"), [(0.8, 1), (0.9, 0), (1.2, 0)])
def test_a_list_is_built_anew_when_the_cell_shrinks_much(
    stretch, new_lists, calculator, at_once, crystal
):
    """At 0.84 of its size what was beyond the cutoff by the skin comes within it."""
    crystal.calc = calculator
    crystal.get_forces()
    lists = calculator.n_neighbor_lists
    crystal.set_cell(stretch * crystal.cell, scale_atoms=True)
    check_agreement(at_once(crystal), crystal)
    assert calculator.n_neighbor_lists == lists + new_lists


def test_a_list_of_other_elements_or_boundaries_does_not_serve(calculator, at_once, crystal):
    crystal.calc = calculator
    crystal.get_forces()
    crystal.numbers = [8, 1, 6]
    check_agreement(at_once(crystal), crystal)
    crystal.pbc = [True, False, True]
    check_agreement(at_once(crystal), crystal)


def test_atoms_may_leave_the_cell_and_be_put_back(calculator, crystal):
    crystal.calc = calculator
    energy, forces = crystal.get_potential_energy(), crystal.get_forces()
    drift = 0.1 * crystal.cell[0]
    for _ in range(7):
        crystal.positions += drift
        assert_allclose(crystal.get_potential_energy(), energy, rtol=1e-12)
        assert_allclose(crystal.get_forces(), forces, atol=1e-11)
    outside, lists = crystal.positions.copy(), calculator.n_neighbor_lists
    crystal.wrap()
    assert np.abs(crystal.positions - outside).max() > 2
    assert_allclose(crystal.get_potential_energy(), energy, rtol=1e-12)
    assert_allclose(crystal.get_forces(), forces, atol=1e-11)
    assert calculator.n_neighbor_lists == lists + 1


def test_density_may_fluctuate_without_compiling_much(model):
    atoms = gas(27, 6.5)
    atoms.calc = MACECalculator(model)
    cell, rng = atoms.cell.array.copy(), np.random.default_rng(0)
    volumes = []
    for _ in range(300):
        strain = rng.uniform(-0.08, 0.08, (3, 3))
        atoms.set_cell(cell @ (np.eye(3) + strain), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.05, (27, 3))
        atoms.get_stress()
        volumes.append(atoms.get_volume())
    assert max(volumes) > 1.2 * min(volumes)
    assert atoms.calc.n_compilations <= 3


@pytest.mark.slow
def test_a_gas_may_condense_without_compiling_much(model, at_once):
    atoms = gas(64, 24.0)
    atoms.calc = MACECalculator(model)
    cell = atoms.cell.array.copy()
    for length in np.linspace(24.0, 8.0, 60):
        atoms.set_cell(cell * length / 24.0, scale_atoms=True)
        atoms.get_forces()
    assert atoms.calc.n_compilations <= 3
    check_agreement(at_once(atoms), atoms)


def test_each_number_of_atoms_is_compiled_once(model, molecule, crystal):
    calculator = MACECalculator(model)
    for _ in range(3):
        for atoms in (molecule, crystal):
            atoms.calc = calculator
            atoms.rattle(0.001)
            atoms.get_forces()
    assert calculator.n_compilations == 2


def test_molecular_dynamics_conserves_energy(calculator):
    """The error of velocity Verlet falls as the square of the time step."""
    errors = []
    for steps in (100, 200):
        atoms = gas(27, 7.5)
        atoms.calc = calculator
        speeds = np.sqrt(units.kB * 300 / atoms.get_masses())[:, None]
        atoms.set_velocities(speeds * np.random.default_rng(1).normal(size=(27, 3)))
        dynamics = VelocityVerlet(atoms, timestep=40 / steps * units.fs)
        energies = []
        dynamics.attach(lambda: energies.append(atoms.get_total_energy()), interval=1)  # noqa: B023
        dynamics.run(steps)
        errors.append(np.ptp(energies))
    kinetic = atoms.get_kinetic_energy()
    assert errors[1] < 1e-3 * kinetic
    assert errors[1] < 0.3 * errors[0]


def test_stress_is_the_derivative_with_respect_to_strain(calculator, crystal):
    crystal.calc = calculator
    numerical = calculate_numerical_stress(crystal, eps=1e-5)
    assert_allclose(crystal.get_stress(), numerical, atol=1e-7 * np.abs(numerical).max())


def test_cells_relax(calculator):
    atoms = gas(27, 7.5)
    atoms.calc = calculator
    before = atoms.get_potential_energy()
    volume = atoms.get_volume()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=5)
    assert atoms.get_potential_energy() < before
    assert atoms.get_volume() != volume


def test_one_evaluation_gives_everything(calculator, crystal):
    crystal.calc = calculator
    crystal.get_potential_energy()
    wanted = ["energy", "free_energy", "energies", "node_energy", "forces", "stress"]
    assert calculator.implemented_properties == wanted
    assert not calculator.calculation_required(crystal, wanted)
    assert_allclose(calculator.get_property("stress"), crystal.get_stress())
    other = crystal.copy()
    other.rattle(0.01)
    assert calculator.calculation_required(other, ["energy"])


def test_float32_and_float64_stand_side_by_side(model, calculator, crystal):
    before = jax.config.jax_enable_x64
    single = MACECalculator(model, dtype="float32")
    again = crystal.copy()
    crystal.calc, again.calc = calculator, single
    for _ in range(3):
        crystal.rattle(0.01)
        again.positions = crystal.positions
        forces = crystal.get_forces()
        expected = {**calculator.results, "node_energy": calculator.results["energies"]}
        expected["stress"] = crystal.get_stress(voigt=False)
        check_agreement(expected, again, rtol=1e-5)
        assert np.abs(again.get_forces() - forces).max() > 1e-9
    assert single.n_compilations == 1
    assert jax.config.jax_enable_x64 == before


def test_inputs_come_from_info_and_arrays(write, molecule, random_bundle):
    bundle = random_bundle(CHARGED)
    spins = np.linspace(-1, 1, 5)
    molecule.calc = MACECalculator(write(bundle))
    molecule.arrays["spins"] = spins
    energies = []
    for charge in (0, 1, -2):
        molecule.info["total_charge"] = charge
        energies.append(molecule.get_potential_energy())
    inputs = {"total_charge": np.array(-2.0), "spins": spins}
    assert_allclose(energies[-1], predicted(bundle, molecule, inputs)["energy"], rtol=1e-12)
    assert len(np.unique(energies)) == 3
    del molecule.info["total_charge"]
    assert molecule.get_potential_energy() == energies[0]
    for key in ("charge", "REF_total_charge"):  # the first is mace-torch's
        molecule.info[key] = 1
        assert molecule.get_potential_energy() == energies[1]
    molecule.info["charge"] = -1
    with pytest.raises(DataError, match="atoms: REF_total_charge and charge differ, expected one"):
        molecule.get_forces()
    del molecule.info["charge"], molecule.info["REF_total_charge"]
    molecule.info["total_charge"] = "much"
    with pytest.raises(DataError, match="atoms: total_charge cannot be used"):
        molecule.get_forces()
    molecule.info["total_charge"] = 7
    with pytest.raises(DataError, match="total_charge 7, expected a whole number from -2 to 2"):
        molecule.get_forces()
    del molecule.info["total_charge"], molecule.arrays["spins"]
    with pytest.raises(DataError, match="atoms: has no spins"):
        molecule.get_forces()


def test_dipoles_are_in_ase_units(write, molecule, random_bundle):
    bundle = random_bundle(DIPOLES)
    molecule.calc = MACECalculator(write(bundle))
    charges = np.linspace(-0.2, 0.2, 5)
    molecule.arrays["charges"] = charges
    expected = predicted(bundle, molecule, {"charges": charges})
    assert_allclose(molecule.get_dipole_moment(), expected["dipole"] * DEBYE, rtol=1e-11)
    assert_allclose(molecule.get_forces(), expected["forces"], atol=1e-12)


def test_a_model_without_energy_has_dipole_and_charges_alone(write, molecule, random_bundle):
    bundle = random_bundle(DIELECTRIC)
    molecule.calc = MACECalculator(write(bundle))
    expected = predicted(bundle, molecule)
    assert molecule.calc.implemented_properties == ["dipole", "charges", "polarizability"]
    assert_allclose(molecule.get_dipole_moment(), expected["dipole"], rtol=1e-11)
    assert_allclose(molecule.get_charges(), expected["charges"], atol=1e-12)
    found = molecule.calc.get_property("polarizability", molecule)
    assert_allclose(found, expected["polarizability"], atol=1e-12)
    with pytest.raises(PropertyNotImplementedError):
        molecule.get_forces()


def test_heads_are_chosen_by_argument_or_by_atoms(write, molecule, random_bundle):
    path = write(random_bundle(SCALARS, heads=("pbe", "scan")))
    given, free = MACECalculator(path, head="scan"), MACECalculator(path)
    molecule.calc = free
    with pytest.raises(
        DataError, match=r"atoms: head 'Default', expected one of \['pbe', 'scan'\]"
    ):
        molecule.get_forces()
    energies = []
    for head in ("pbe", "scan"):
        molecule.info["head"] = head
        energies.append(molecule.get_potential_energy())
    assert energies[0] != energies[1]
    molecule.calc = given
    assert_allclose(molecule.get_potential_energy(), energies[1], rtol=1e-14)
    with pytest.raises(ConfigError, match=r"head: 'r2scan', expected one of \['pbe', 'scan'\]"):
        MACECalculator(path, head="r2scan")


@pytest.mark.parametrize("pbc", [False, [True, False, False]])
def test_stress_needs_a_volume(pbc, calculator, molecule):
    if any(np.atleast_1d(pbc)):
        molecule.cell[0, 0] = 9.0
    molecule.pbc = pbc
    molecule.calc = calculator
    with pytest.raises(PropertyNotImplementedError):
        molecule.get_stress()
    assert np.isfinite(molecule.get_potential_energy())


def test_impossible_atoms_are_refused(calculator, molecule):
    molecule.calc = calculator
    energy = molecule.get_potential_energy()
    good = molecule.copy()
    molecule.positions[1] = molecule.positions[0]
    with pytest.raises(DataError, match=r"atoms [01] and [01] are at the same place"):
        molecule.get_potential_energy()
    molecule.positions[1] = np.nan
    with pytest.raises(DataError, match="positions of atom 1 is nan"):
        molecule.get_potential_energy()
    molecule.positions = good.positions
    molecule.numbers[0] = 79
    with pytest.raises(DataError, match=r"atoms: unknown element Au \(79\)"):
        molecule.get_potential_energy()
    with pytest.raises(DataError, match="atoms: has no atoms"):
        calculator.calculate(Atoms())
    assert calculator.results == {}
    molecule.numbers[0] = 6
    assert_allclose(molecule.get_potential_energy(), energy, rtol=1e-14)


def test_atoms_that_meet_between_two_lists_are_refused(calculator, molecule):
    """Half the skin is all that they need to move."""
    molecule.positions[1] = molecule.positions[0] + [0.25, 0, 0]
    molecule.calc = calculator
    molecule.get_forces()
    molecule.positions[1] = molecule.positions[0]
    with pytest.raises(DataError, match="is not finite"):
        molecule.get_forces()


def test_impossible_options_are_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="dtype: 'float16', expected one of"):
        MACECalculator(model, dtype="float16")
    with pytest.raises(ConfigError, match="skin: -1, expected"):
        MACECalculator(model, skin=-1)
    with pytest.raises(ArtifactError, match="cannot be read"):
        MACECalculator(str(tmp_path / "none.msgpack"))


def test_a_lone_atom_has_no_forces(calculator):
    atom = Atoms("O", [[0.3, -0.2, 0.1]], calculator=calculator)
    assert_array_equal(atom.get_forces(), np.zeros((1, 3)))


def test_any_movement_is_computed_anew_and_nothing_else_is(calculator, molecule):
    molecule.calc = calculator
    before = molecule.get_forces()
    molecule.set_initial_magnetic_moments(np.ones(len(molecule)))
    assert calculator.check_state(molecule) == []
    molecule.positions[0, 0] = np.nextafter(molecule.positions[0, 0], np.inf)
    assert calculator.check_state(molecule) == ["positions"]
    molecule.positions[0, 0] += 1e-7
    assert not np.array_equal(molecule.get_forces(), before)
    molecule.pbc = not molecule.pbc.all()
    assert calculator.check_state(molecule) == ["pbc"]
