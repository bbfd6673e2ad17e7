"""Molecular dynamics of a model bundle in JAX-MD: at constant energy, then at constant temperature.

python examples/jax_md/simulate.py example-run/aspirin_small_best.msgpack examples/aspirin/test.xyz
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms, units
from ase.io import read
from jax_md import quantity, simulate, space

from mace_jax.jax_md import mace_neighbor_list

CHUNK = 50  # steps in one call of a compiled function


def main() -> None:
    """Simulate the first frame of a file, and print energies and temperatures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="bundle")
    parser.add_argument("structure", help="anything that ASE reads")
    parser.add_argument("--steps", type=int, default=500, help="in each ensemble (default: 500)")
    parser.add_argument("--temperature", type=float, default=300.0, help="K (default: 300)")
    parser.add_argument("--time-step", type=float, default=0.5, help="fs (default: 0.5)")
    parser.add_argument("--dtype", choices=["float32", "float64"], help="of the network")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)  # positions and energies, whatever the network's

    atoms = read(arguments.structure, 0)
    positions, displacement, shift, options = geometry(atoms)
    neighbor_fn, energy_fn = mace_neighbor_list(
        displacement,
        options.pop("box"),
        arguments.model,
        atoms.numbers,
        dtype=arguments.dtype,
        **options,
    )
    kT, dt = units.kB * arguments.temperature, arguments.time_step * units.fs
    mass = jnp.array(atoms.get_masses())
    for name, (init, apply) in {
        "NVE": simulate.nve(energy_fn, shift, dt),
        "NVT": simulate.nvt_nose_hoover(energy_fn, shift, dt, kT, tau=50 * dt),
    }.items():
        neighbor = neighbor_fn.allocate(positions)
        state = init(jax.random.key(0), positions, kT=kT, mass=mass, neighbor=neighbor)
        state = run(name, state, neighbor, apply, energy_fn, neighbor_fn, arguments.steps)
        positions = state.position


def geometry(atoms: Atoms) -> tuple[jax.Array, Callable, Callable, dict[str, Any]]:
    """Return positions, displacement and shift of JAX-MD, and what the neighbour list is told."""
    if not atoms.pbc.any():
        return jnp.array(atoms.positions), *space.free(), {"box": None}
    if not atoms.pbc.all():
        message = "JAX-MD has no boxes that are open on some sides only"
        raise SystemExit(message)
    box = jnp.array(atoms.cell.standard_form()[0].array.T)  # upper triangular, vectors as columns
    fractions = jnp.array(atoms.get_scaled_positions())
    options = {"box": box, "fractional_coordinates": True}
    return fractions, *space.periodic_general(box), options


def run(
    name: str,
    state: Any,
    neighbor: Any,
    apply: Callable,
    energy_fn: Callable,
    neighbor_fn: Any,
    n_steps: int,
) -> Any:
    """Return the state after ``n_steps``; print energy and temperature along the way."""

    @jax.jit
    def chunk(state: Any, neighbor: Any) -> tuple[Any, Any, jax.Array, jax.Array]:
        def step(_: int, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            state, neighbor = carry
            state = apply(state, neighbor=neighbor)
            return state, neighbor.update(state.position)

        state, neighbor = jax.lax.fori_loop(0, CHUNK, step, (state, neighbor))
        moving = {"momentum": state.momentum, "mass": state.mass}
        energy = energy_fn(state.position, neighbor) + quantity.kinetic_energy(**moving)
        return state, neighbor, energy, quantity.temperature(**moving) / units.kB

    totals, seconds, done = [], [], 0
    while done < n_steps:
        start = time.perf_counter()
        after, updated, energy, temperature = jax.block_until_ready(chunk(state, neighbor))
        seconds.append(time.perf_counter() - start)
        if updated.did_buffer_overflow:
            neighbor = neighbor_fn.allocate(state.position, extra_capacity=4)
            continue
        state, neighbor, done = after, updated, done + CHUNK
        totals.append(float(energy))
        if done % (n_steps // 5) < CHUNK:
            print(f"{name} step {done:5}: energy {energy:.6f} eV, {temperature:5.0f} K")
    drift = 1e3 * np.ptp(totals) / len(state.position)
    if name == "NVE":
        print(f"{name}: energy within {drift:.4f} meV/atom")
    print(f"{name}: {1e3 * min(seconds) / CHUNK:.2f} ms a step")
    return state


if __name__ == "__main__":
    main()
