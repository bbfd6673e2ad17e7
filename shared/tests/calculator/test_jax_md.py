"""Simulations in JAX-MD beside those in ASE; runs in the nox session ``jax_md``."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from numpy.testing import assert_allclose

from mace_jax.artifacts.model_bundle import EmbeddingSpec, ModelConfig
from mace_jax.calculator import MACECalculator
from mace_jax.errors import ConfigError, DataError

pytest.importorskip("jax_md")
from jax_md import quantity, simulate, space

from mace_jax.jax_md import mace_neighbor_list

# of JAX-MD's own lists in float64
pytestmark = pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types")

CONFIG = ModelConfig(
    model="ScaleShiftMACE",
    r_max=3.2,
    num_bessel=4,
    num_polynomial_cutoff=5,
    max_ell=1,
    num_interactions=2,
    hidden_irreps="4x0e + 4x1o",
    MLP_irreps="3x0e",
    correlation=2,
    radial_MLP=(8,),
    gate="silu",
    interaction_cls="RealAgnosticResidualInteractionBlock",
    interaction_cls_first="RealAgnosticResidualInteractionBlock",
    avg_num_neighbors=6.0,
    atomic_numbers=(1, 6, 8),
    pair_repulsion=True,
)
CHARGED = replace(
    CONFIG,
    num_interactions=1,
    embedding_specs=(
        EmbeddingSpec("total_charge", "categorical", "graph", 2, num_classes=5, offset=2),
    ),
)
# JAX-MD's simulators round the time step to float32
N_STEPS, TIME_STEP = 100, float(np.float32(0.5 * units.fs))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def model(random_bundle, write):
    return write(random_bundle(CONFIG))


@pytest.fixture(scope="module")
def calculator(model):
    return MACECalculator(model)


def gas(cell):
    """27 atoms on a grid, displaced at random."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)
    fractions = (grid + rng.uniform(0.3, 0.7, grid.shape)) / 3
    return Atoms(rng.choice([1, 6, 8], 27), scaled_positions=fractions, cell=cell, pbc=True)


def test_energy_forces_and_stress_are_those_of_the_calculator(model, calculator):
    """In a triclinic box of fractional coordinates."""
    atoms = gas([[7.0, 0, 0], [0.5, 6.8, 0], [-0.4, 0.6, 7.2]])
    atoms.calc = calculator
    box = jnp.array(atoms.cell.array.T)
    displacement, _ = space.periodic_general(box)
    neighbor_fn, energy_fn = mace_neighbor_list(
        displacement, box, model, atoms.numbers, fractional_coordinates=True
    )
    positions = jnp.array(atoms.get_scaled_positions())
    neighbor = neighbor_fn.allocate(positions)
    evaluate = jax.jit(jax.value_and_grad(energy_fn))
    energy, gradient = evaluate(positions, neighbor, box=box)
    assert_allclose(energy, atoms.get_potential_energy(), rtol=1e-12)
    scale = np.abs(atoms.get_forces()).max()
    assert scale > 0.1
    assert_allclose(-gradient, atoms.get_forces(), atol=1e-11 * scale)
    stress = quantity.stress(jax.jit(energy_fn), positions, box, neighbor=neighbor)
    assert_allclose(-stress, atoms.get_stress(voigt=False), atol=1e-12)
    assert np.isnan(evaluate(positions, neighbor, box=0.8 * box)[0])


@pytest.mark.parametrize("name", ["molecule", "gas"])
def test_trajectories_are_those_of_ase(name, model, calculator, request):
    """100 steps of velocity Verlet."""
    periodic = name == "gas"
    atoms = gas(np.diag([7.0, 7.1, 7.3])) if periodic else request.getfixturevalue(name)
    atoms.calc = calculator
    speeds = np.sqrt(units.kB * 300 / atoms.get_masses())[:, None]
    atoms.set_velocities(speeds * np.random.default_rng(1).normal(size=(len(atoms), 3)))
    box = jnp.array(atoms.cell.lengths()) if periodic else None
    displacement, shift = space.periodic(box) if periodic else space.free()
    neighbor_fn, energy_fn = mace_neighbor_list(displacement, box, model, atoms.numbers)
    init, apply = simulate.nve(energy_fn, shift, TIME_STEP)
    neighbor = neighbor_fn.allocate(jnp.array(atoms.positions))
    state = init(
        jax.random.key(0),
        jnp.array(atoms.positions),
        kT=0.0,
        mass=jnp.array(atoms.get_masses()),
        momenta=jnp.array(atoms.get_momenta()),
        neighbor=neighbor,
    )

    @jax.jit
    def step(state, neighbor):
        state = apply(state, neighbor=neighbor)
        neighbor = neighbor.update(state.position)
        kinetic = quantity.kinetic_energy(momentum=state.momentum, mass=state.mass)
        return state, neighbor, energy_fn(state.position, neighbor) + kinetic

    dynamics = VelocityVerlet(atoms, timestep=TIME_STEP)
    energies = []
    for _ in range(N_STEPS):
        state, neighbor, energy = step(state, neighbor)
        dynamics.run(1)
        energies.append(float(energy))
        apart = jax.vmap(displacement)(state.position, jnp.array(atoms.positions))
        assert np.abs(apart).max() < 1e-8
        assert abs(energies[-1] - atoms.get_total_energy()) < 1e-8
    assert_allclose(state.momentum, atoms.get_momenta(), atol=1e-8)
    drift = np.ptp(energies)
    print(f"{name}: energy within {drift:.1e} eV over {N_STEPS} steps")
    assert drift < 1e-2 * atoms.get_kinetic_energy()


def test_the_example_that_compares_both(model, molecule, tmp_path):
    molecule.write(tmp_path / "molecule.xyz")
    example = Path(__file__).parents[3] / "examples" / "jax_md" / "beside_ase.py"
    command = [sys.executable, str(example), str(model), str(tmp_path / "molecule.xyz")]
    done = subprocess.run([*command, "--steps", "5"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"5 steps, {len(molecule)} atoms, ASE and JAX-MD at most" in done.stdout
    assert done.stdout.count("meV/atom/ps") == 2


def test_a_list_that_overflows_gives_nan(model):
    """Never forces without some of the neighbours."""
    atoms = gas(np.diag([9.0] * 3))
    box = jnp.array([9.0] * 3)
    displacement, _ = space.periodic(box)
    neighbor_fn, energy_fn = mace_neighbor_list(displacement, box, model, atoms.numbers)
    neighbor = neighbor_fn.allocate(jnp.array(atoms.positions))
    crowded = neighbor.update(0.6 * jnp.array(atoms.positions))
    assert crowded.did_buffer_overflow
    evaluate = jax.jit(jax.value_and_grad(energy_fn))
    energy, gradient = evaluate(0.6 * jnp.array(atoms.positions), crowded)
    assert np.isnan(energy)
    assert np.isnan(gradient).any()


def test_one_atom_and_given_charges(random_bundle, write, molecule):
    path = write(random_bundle(CHARGED, heads=("pbe", "scan")))
    displacement, _ = space.free()
    calculator = MACECalculator(path, head="scan")
    for atoms in (molecule, molecule[:1]):
        energies = []
        for charge in (0, 2):
            atoms.info["total_charge"] = charge
            neighbor_fn, energy_fn = mace_neighbor_list(
                displacement,
                None,
                path,
                atoms.numbers,
                head="scan",
                inputs={"total_charge": charge},
            )
            positions = jnp.array(atoms.positions)
            energies.append(jax.jit(energy_fn)(positions, neighbor_fn.allocate(positions)))
            assert_allclose(energies[-1], calculator.get_potential_energy(atoms), rtol=1e-12)
        assert abs(energies[1] - energies[0]) > 1e-4


def test_a_network_of_float32_in_positions_of_float64(model, calculator, molecule):
    displacement, _ = space.free()
    neighbor_fn, energy_fn = mace_neighbor_list(
        displacement, None, model, molecule.numbers, dtype="float32"
    )
    positions = jnp.array(molecule.positions)
    energy = jax.jit(energy_fn)(positions, neighbor_fn.allocate(positions))
    with pytest.raises(DataError, match="4 positions and a list of 4, expected 5"):
        energy_fn(positions[:4], neighbor_fn.allocate(positions[:4]))
    assert energy.dtype == "float64"
    error = abs(energy - calculator.get_potential_energy(molecule))
    assert 1e-10 < error < 1e-4


def test_what_cannot_be_simulated_is_refused(model, random_bundle, write, molecule):
    free, _ = space.free()
    numbers = molecule.numbers
    with pytest.raises(ConfigError, match=r"box: 6.000 Å wide, expected at least two cutoffs, 6.4"):
        mace_neighbor_list(free, np.diag([7.0, 6.0, 8.0]), model, numbers)
    with pytest.raises(ConfigError, match="box: not upper triangular"):
        mace_neighbor_list(free, np.diag([7.0, 7.0, 8.0]) + np.tri(3), model, numbers)
    with pytest.raises(DataError, match=r"atoms: unknown element Au \(79\)"):
        mace_neighbor_list(free, None, model, [79])
    with pytest.raises(ConfigError, match="dtype: 'float16', expected 'float32' or 'float64'"):
        mace_neighbor_list(free, None, model, numbers, dtype="float16")
    with pytest.raises(ConfigError, match=r"head: 'r2scan', expected one of \['Default'\]"):
        mace_neighbor_list(free, None, model, numbers, head="r2scan")
    heads = write(random_bundle(CHARGED, heads=("pbe", "scan")))
    with pytest.raises(ConfigError, match=r"head: None, expected one of \['pbe', 'scan'\]"):
        mace_neighbor_list(free, None, heads, numbers)
    with jax.enable_x64(False), pytest.raises(ConfigError, match="float64, which jax has turned"):
        mace_neighbor_list(free, None, model, numbers)
    dipoles = replace(
        CONFIG,
        model="AtomicDipolesMACE",
        pair_repulsion=False,
        hidden_irreps="3x0e + 3x1o",
        MLP_irreps="2x1o",
    )
    with pytest.raises(ConfigError, match="AtomicDipolesMACE, expected MACE or ScaleShiftMACE"):
        mace_neighbor_list(free, None, write(random_bundle(dipoles)), numbers)
