"""Molecular dynamics with any ASE calculator: the case that both workers share."""

import time
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from systems import TEMPERATURE_K, TIMESTEP_FS

# Weights are random, so nothing holds a molecule together for long: start again so often.
_STEPS = 20


class Dynamics:
    """Pieces of a trajectory, each from the same start."""

    def __init__(self, atoms: Atoms, calculator: Calculator) -> None:
        """Set atoms up; nothing is computed yet."""
        MaxwellBoltzmannDistribution(
            atoms, temperature_K=TEMPERATURE_K, rng=np.random.default_rng(0)
        )
        self.atoms = atoms
        self.start = atoms.get_positions(), atoms.get_momenta()
        self.atoms.calc = calculator

    def first(self) -> dict[str, Any]:
        """Compute energy and forces for the first time."""
        start = time.perf_counter()
        energy, forces = self.atoms.get_potential_energy(), self.atoms.get_forces()
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds,
            "values": {"energy": [float(energy)], "forces": forces.ravel().tolist()},
        }

    def repeat(self, n_steps: int) -> dict[str, float]:
        """Return the seconds of a step; the first forces of each piece are not timed."""
        seconds = 0.0
        for begin in range(0, n_steps, _STEPS):
            self.atoms.set_positions(self.start[0])
            self.atoms.set_momenta(self.start[1])
            self.atoms.get_forces()
            dynamics = VelocityVerlet(self.atoms, timestep=TIMESTEP_FS * units.fs)
            start = time.perf_counter()
            dynamics.run(min(_STEPS, n_steps - begin))
            seconds += time.perf_counter() - start
        return {"seconds": seconds / n_steps}
