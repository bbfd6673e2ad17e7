"""Sample the aspirin frames of this example: Langevin dynamics at 500 K with GFN2-xTB.

Writes train.xyz, valid.xyz and test.xyz beside this file. Every trajectory starts from the same
RDKit geometry with its own random seed and is equilibrated on its own, so the three splits share
no trajectory. About ten minutes on two cores:

    pip install tblite ase rdkit
    OMP_NUM_THREADS=1 python sample_aspirin.py
"""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.constraints import FixCom
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

ASPIRIN_SMILES = "CC(=O)Oc1ccccc1C(=O)O"
TEMPERATURE_K = 500
TIMESTEP_FS = 0.5
FRICTION_PER_FS = 0.01
EQUILIBRATION_STEPS = 2000  # 1 ps
STEPS_BETWEEN_FRAMES = 80  # 40 fs
# split -> (seed, frames) of each of its trajectories
TRAJECTORIES = {"train": [(1, 220), (2, 220)], "valid": [(3, 80)], "test": [(4, 80)]}


def aspirin_geometry() -> Atoms:
    """Return aspirin as RDKit's MMFF94 minimum, Å."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSmiles(ASPIRIN_SMILES))
    AllChem.EmbedMolecule(molecule, randomSeed=0)
    AllChem.MMFFOptimizeMolecule(molecule)
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    return Atoms(symbols, positions=molecule.GetConformer().GetPositions())


def sample_trajectory(atoms: Atoms, seed: int, n_frames: int) -> list[Atoms]:
    """Return frames 40 fs apart, labelled with GFN2-xTB energy (eV) and forces (eV/Å)."""
    from tblite.ase import TBLite

    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    atoms.set_constraint(FixCom())
    thermalize_momenta(atoms, TEMPERATURE_K, rng=rng)
    dynamics = Langevin(
        atoms,
        TIMESTEP_FS * units.fs,
        temperature_K=TEMPERATURE_K,
        friction=FRICTION_PER_FS / units.fs,
        fixcm=False,
        rng=rng,
    )
    dynamics.run(EQUILIBRATION_STEPS)
    frames = []
    for _ in range(n_frames):
        dynamics.run(STEPS_BETWEEN_FRAMES)
        frame = Atoms(atoms.symbols, positions=atoms.positions - atoms.get_center_of_mass())
        frame.info["REF_energy"] = atoms.get_potential_energy()
        frame.arrays["REF_forces"] = atoms.get_forces(apply_constraint=False)
        frames.append(frame)
    return frames


def main() -> None:
    """Sample every trajectory, two at a time, and write one file a split."""
    geometry = aspirin_geometry()
    with ProcessPoolExecutor(max_workers=2) as pool:
        runs = {
            split: [pool.submit(sample_trajectory, geometry, *run) for run in trajectories]
            for split, trajectories in TRAJECTORIES.items()
        }
        for split, futures in runs.items():
            frames = [frame for future in futures for frame in future.result()]
            write(Path(__file__).with_name(f"{split}.xyz"), frames, format="extxyz")


if __name__ == "__main__":
    main()
