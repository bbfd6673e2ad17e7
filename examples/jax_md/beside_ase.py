"""The same trajectory of a molecule at constant energy in ASE and in JAX-MD, step beside step.

python examples/jax_md/beside_ase.py MODEL.msgpack examples/aspirin/test.xyz
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms, units
from ase.io import read
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from jax_md import quantity, simulate, space
from numpy.typing import NDArray

from mace_jax.calculator import MACECalculator
from mace_jax.jax_md import mace_neighbor_list

# JAX-MD rounds the time step to float32, so both take one that it can hold.
TIME_STEP = float(np.float32(0.5 * units.fs))
TOLERANCE = 1e-8  # Å and eV


def main() -> None:
    """Simulate the first frame of a file; fail where the programs differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="bundle; it is computed with in float64")
    parser.add_argument("structure", help="a molecule, in anything that ASE reads")
    parser.add_argument("--steps", type=int, default=100, help="of 0.5 fs (default: 100)")
    parser.add_argument("--temperature", type=float, default=300.0, help="K (default: 300)")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)

    atoms = read(arguments.structure, 0)
    if atoms.pbc.any():
        parser.error(f"{arguments.structure}: periodic, expected a molecule")
    rng = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=arguments.temperature, rng=rng)
    Stationary(atoms)
    atoms.calc = MACECalculator(arguments.model, dtype="float64")
    start = atoms.copy()
    both = zip(in_ase(atoms), in_jax_md(start, arguments.model), strict=True)
    apart, totals = [], []
    for (x_ase, ase), (x_jax_md, jax_md) in islice(both, arguments.steps):
        apart.append((np.abs(x_ase - x_jax_md).max(), abs(ase - jax_md)))
        totals.append((ase, jax_md))
    positions, energies = np.max(apart, axis=0)
    print(f"{arguments.steps} steps, {len(atoms)} atoms, ASE and JAX-MD at most")
    print(f"  {positions:.1e} Å and {energies:.1e} eV apart")
    for name, total in zip(("ASE", "JAX-MD"), np.transpose(totals), strict=True):
        width, drift = (1e3 * value / len(atoms) for value in (np.ptp(total), slope(total)))
        print(f"{name}: energy within {width:.4f} meV/atom, drift {drift:+.4f} meV/atom/ps")
    if not (positions <= TOLERANCE and energies <= TOLERANCE):
        message = f"the programs differ by more than {TOLERANCE:.0e}"
        raise SystemExit(message)


def in_ase(atoms: Atoms) -> Iterator[tuple[NDArray[np.float64], float]]:
    """Yield positions and total energy after every step."""
    dynamics = VelocityVerlet(atoms, timestep=TIME_STEP)
    while True:
        dynamics.run(1)
        yield atoms.get_positions(), atoms.get_total_energy()


def in_jax_md(atoms: Atoms, model: str) -> Iterator[tuple[NDArray[np.float64], float]]:
    """Yield positions and total energy after every step."""
    displacement, shift = space.free()
    neighbor_fn, energy_fn = mace_neighbor_list(
        displacement, None, model, atoms.numbers, dtype="float64"
    )
    init, apply = simulate.nve(energy_fn, shift, TIME_STEP)
    positions, momenta = jnp.array(atoms.positions), jnp.array(atoms.get_momenta())
    neighbor = neighbor_fn.allocate(positions)
    mass = jnp.array(atoms.get_masses())
    state = init(
        jax.random.key(0), positions, kT=0.0, mass=mass, momenta=momenta, neighbor=neighbor
    )

    @jax.jit
    def step(state: Any, neighbor: Any) -> tuple[Any, Any, jax.Array]:
        state = apply(state, neighbor=neighbor)
        neighbor = neighbor.update(state.position)
        kinetic = quantity.kinetic_energy(momentum=state.momentum, mass=state.mass)
        return state, neighbor, energy_fn(state.position, neighbor) + kinetic

    while True:
        state, neighbor, energy = step(state, neighbor)  # NaN if the list overflows
        yield np.asarray(state.position), float(energy)


def slope(total: NDArray[np.float64]) -> float:
    """Return the linear trend of a total energy at every step, eV/ps."""
    times = TIME_STEP / (1e3 * units.fs) * np.arange(len(total))
    return float(np.polyfit(times, total, 1)[0])


if __name__ == "__main__":
    main()
