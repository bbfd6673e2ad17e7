"""Sample the molecules of this example: Langevin dynamics at 600 K, labelled by two methods.

Writes {start,new}.{train,valid,test}.xyz.gz beside this file:

    start: molecules of H, C and O, and a few frames of NH3, HCN and H2S, with GFN1-xTB
    new:   molecules with N and S, with GFN2-xTB; start.test has GFN2-xTB's labels, too, as GFN2_…

The training files begin with the five isolated atoms of their method, in the multiplicity of the
ground state; neither method has a spin polarisation. Every split of a molecule is a trajectory of
its own. Six minutes on one core:

    pip install tblite ase
    OMP_NUM_THREADS=1 python sample_molecules.py
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.constraints import FixCom
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from tblite.ase import TBLite

TEMPERATURE_K = 600
TIMESTEP_FS = 0.5
FRICTION_PER_FS = 0.02
EQUILIBRATION_STEPS = 400  # 200 fs
STEPS_BETWEEN_FRAMES = 40  # 20 fs
SPLITS = ("train", "valid", "test")
FRAMES = (36, 4, 8)
FEW_FRAMES = (8, 1, 2)
MULTIPLICITIES = {"H": 2, "C": 3, "N": 4, "O": 3, "S": 3}
# data -> method, names of ase.build.molecule, and those of which there are few frames
DATA = {
    "start": (
        "GFN1-xTB",
        "CH4 C2H6 C2H4 C2H2 H2O CO2 H2CO CH3OH HCOOH H2CCO CH3CHO CH3COOH CH2OCH2 CH3OCH3 CH3CH2OH",
        "NH3 HCN SH2",
    ),
    "new": (
        "GFN2-xTB",
        "H3CNH2 CH3CH2NH2 CH3CN CH2NHCH2 C4H4NH CH3SH CH3CH2SH CH3SCH3 CH2SCH2 C4H4S",
        "",
    ),
}


def calculator(method: str, multiplicity: int | None = None) -> TBLite:
    """Return tblite's calculator of a method; without a multiplicity the lowest possible one."""
    return TBLite(method=method, multiplicity=multiplicity, accuracy=0.1, verbosity=0)


def isolated_atoms(method: str) -> Iterator[Atoms]:
    """Yield the atoms whose energies are the E0s of a method, eV."""
    for symbol, multiplicity in MULTIPLICITIES.items():
        atom = Atoms(symbol)
        atom.calc = calculator(method, multiplicity)
        energy = round(atom.get_potential_energy(), 6)
        info = {"config_type": "IsolatedAtom", "REF_energy": energy}
        yield Atoms(symbol, info=info)


def sample(name: str, method: str, split: str, n_frames: int) -> Iterator[Atoms]:
    """Yield frames 20 fs apart, labelled with energy (eV) and forces (eV/Å)."""
    rng = np.random.default_rng(zlib.crc32(f"{name} {split}".encode()))
    atoms = molecule(name)
    atoms.set_initial_magnetic_moments(None)
    atoms.calc = calculator(method)
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
    for _ in range(n_frames):
        dynamics.run(STEPS_BETWEEN_FRAMES)
        positions = atoms.positions - atoms.get_center_of_mass()
        frame = Atoms(atoms.symbols, positions.round(4), info={"config_type": name})
        label(frame, method, "REF")
        yield frame


def label(frame: Atoms, method: str, prefix: str) -> None:
    """Give a frame a method's energy and forces as ``<prefix>_energy`` and ``<prefix>_forces``."""
    atoms = Atoms(frame.symbols, frame.positions, calculator=calculator(method))
    frame.info[f"{prefix}_energy"] = round(atoms.get_potential_energy(), 6)
    frame.arrays[f"{prefix}_forces"] = atoms.get_forces().round(4)


def write_compressed(path: Path, frames: list[Atoms]) -> None:
    """Write gzipped extended XYZ; equal frames give equal bytes."""
    text = io.StringIO()
    write(text, frames, format="extxyz")
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def main() -> None:
    """Sample all molecules and write one file for each split of each data set."""
    for data, (method, names, few) in DATA.items():
        for split, many_frames, few_frames in zip(SPLITS, FRAMES, FEW_FRAMES, strict=True):
            counts = dict.fromkeys(names.split(), many_frames) | dict.fromkeys(
                few.split(), few_frames
            )
            frames = list(isolated_atoms(method)) if split == "train" else []
            for name, n_frames in counts.items():
                frames += sample(name, method, split, n_frames)
            if (data, split) == ("start", "test"):
                for frame in frames:
                    label(frame, DATA["new"][0], "GFN2")
            write_compressed(Path(__file__).with_name(f"{data}.{split}.xyz.gz"), frames)
            print(f"{data}.{split}: {len(frames)} frames")


if __name__ == "__main__":
    main()
