"""What is measured: structures, networks and settings, the same for every program."""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read
from numpy.typing import NDArray

OURS, TORCH, TORCH_HUGE = "mace-jax", "mace-torch", "mace-torch, huge pages"

SMALL, MEDIUM = "32x0e", "64x0e + 64x1o"
ELEMENTS = (1, 6, 8)
R_MAX = 5.0
# The network by mace-torch's names, but for its hidden irreps; gate and interactions by their keys.
NETWORK = {
    "r_max": R_MAX,
    "num_bessel": 8,
    "num_polynomial_cutoff": 6,
    "max_ell": 3,
    "interaction_cls": "RealAgnosticResidualInteractionBlock",
    "interaction_cls_first": "RealAgnosticResidualInteractionBlock",
    "num_interactions": 2,
    "MLP_irreps": "16x0e",
    "gate": "silu",
    "correlation": 3,
    "radial_MLP": [64, 64, 64],
    "avg_num_neighbors": 14.36,
}

ENERGY_WEIGHT, FORCES_WEIGHT = 1.0, 100.0
LEARNING_RATE = 0.01
MAX_GRAD_NORM = 10.0

N_FRAMES = 1000
BATCH = 10
TIMESTEP_FS = 0.5
TEMPERATURE_K = 300


def training_frames(path: str) -> list[Atoms]:
    """Return the first frames of an extxyz file, in whole batches.

    Their ``REF_energy`` is the interaction energy, E0s fitted by least squares and taken away in
    float64; so no program can do that better or worse than another.
    """
    frames = read(path, index=f":{N_FRAMES}")
    frames = frames[: len(frames) // BATCH * BATCH]
    energies = np.array([_label(frame, "energy") for frame in frames], dtype=float)
    counts = np.array([[np.sum(frame.numbers == z) for z in ELEMENTS] for frame in frames])
    e0, *_ = np.linalg.lstsq(counts, energies, rcond=None)
    return [
        _labelled(frame, energy, _label(frame, "forces"))
        for frame, energy in zip(frames, energies - counts @ e0, strict=True)
    ]


def _label(frame: Atoms, name: str) -> float | NDArray[np.float64]:
    """Return a label, whether its key is ``REF_…`` or the one that ASE takes for itself."""
    for place in (frame.info, frame.arrays):
        if f"REF_{name}" in place:
            return place[f"REF_{name}"]
    return frame.calc.results[name]


def _labelled(atoms: Atoms, energy: float, forces: NDArray[np.float64]) -> Atoms:
    result = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    result.info["REF_energy"] = float(energy)
    result.arrays["REF_forces"] = np.asarray(forces, dtype=float)
    return result


def periodic_cell(n_side: int, spacing: float) -> Atoms:
    """Return a disordered cubic cell of ``n_side``³ atoms, none closer than ``spacing`` - 0.6 Å."""
    rng = np.random.default_rng(n_side)
    n = n_side**3
    grid = np.stack(np.meshgrid(*[np.arange(n_side)] * 3, indexing="ij"), axis=-1).reshape(n, 3)
    positions = spacing * grid + rng.uniform(-0.3, 0.3, (n, 3))
    numbers = rng.choice(ELEMENTS, n, p=(0.4, 0.4, 0.2))
    return Atoms(numbers, positions, cell=[n_side * spacing] * 3, pbc=True)


def structures(*, data: str | None = None, copies: int = 0) -> list[Atoms]:
    """Return what is trained on and evaluated.

    Args:
        data: an extxyz file with labels.
        copies: else, copies of a periodic cell of 27 atoms and about a thousand edges.
    """
    if data:
        return training_frames(data)
    cell = periodic_cell(3, spacing=2.29)
    return [_labelled(cell, 0.0, np.zeros((len(cell), 3)))] * copies


def moving_structure(name: str, data: str) -> Atoms:
    """Return the start of a trajectory: ``aspirin``, or ``cell``: 512 atoms of 50 neighbours."""
    if name == "cell":
        return periodic_cell(8, spacing=2.19)
    frame = read(data, index=0)
    return Atoms(frame.numbers, frame.positions)


def default_data() -> Path:
    """Return the example's training set."""
    return Path(__file__).parents[1] / "examples" / "aspirin" / "train.xyz"
