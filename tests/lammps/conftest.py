"""A real LAMMPS with pair_style mliap, small random models, and what ASE says of both.

The plugins are built by ``python tests/lammps/build_plugin.py FOLDER``; these tests run with
``MACE_JAX_LAMMPS=FOLDER``. ``nox -s lammps`` does both.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from mace_jax.artifacts.model_bundle import ModelBundle, ModelConfig, write_model_bundle
from mace_jax.calculator import MACECalculator
from mace_jax.model.load import build_model, model_parameters
from mace_jax_export_lammps.export import export
from mace_jax_export_lammps.lammps_model import write_lammps_model

HERE = Path(__file__).parent
PLUGINS = os.environ.get("MACE_JAX_LAMMPS")
PROVENANCE = {"tool": "tests", "tool_version": "0", "command": [], "seed": 0, "inputs": []}
SECONDS = 300
R_MAX = 4.0
RESIDUAL = "RealAgnosticResidualInteractionBlock"
VECTORS = ModelConfig(
    model="ScaleShiftMACE",
    r_max=R_MAX,
    num_bessel=6,
    num_polynomial_cutoff=5,
    max_ell=2,
    num_interactions=2,
    hidden_irreps="8x0e + 8x1o",
    MLP_irreps="8x0e",
    correlation=2,
    radial_MLP=(16,),
    gate="silu",
    interaction_cls=RESIDUAL,
    interaction_cls_first="RealAgnosticInteractionBlock",
    avg_num_neighbors=20.0,
    atomic_numbers=(11, 17),
)
CONFIGS = {
    "vectors": VECTORS,
    "float32": VECTORS,
    "heads": replace(VECTORS, interaction_cls_first=RESIDUAL),
    "zbl": replace(VECTORS, pair_repulsion=True, model="MACE"),
    "one_layer": replace(VECTORS, num_interactions=1),
    "three_layers": replace(VECTORS, num_interactions=3, max_ell=1, hidden_irreps="4x0e + 4x1o"),
    "density": replace(
        VECTORS,
        interaction_cls="RealAgnosticDensityResidualInteractionBlock",
        interaction_cls_first="RealAgnosticDensityInteractionBlock",
        distance_transform="Agnesi",
    ),
    "nonlinear": replace(
        VECTORS,
        interaction_cls="RealAgnosticResidualNonLinearInteractionBlock",
        interaction_cls_first="RealAgnosticResidualNonLinearInteractionBlock",
    ),
}


class Exported(NamedTuple):
    """A model for ASE and for LAMMPS."""

    bundle: Path
    lammps: Path
    head: str


class Outcome(NamedTuple):
    """How LAMMPS ended, what it said and what it computed."""

    code: int
    text: str
    found: dict[str, Any]


@cache
def random_bundle(name: str) -> ModelBundle:
    config, dtype = CONFIGS[name], "float32" if name == "float32" else "float64"
    heads = ("rough", "fine") if name == "heads" else ("Default",)
    scale = {head: 1.0 if config.model == "MACE" else 10.0 + k for k, head in enumerate(heads)}
    shift = {head: 0.1 * k for k, head in enumerate(heads)}
    with jax.enable_x64(dtype == "float64"):
        model = build_model(
            config,
            scale=list(scale.values()),
            shift=list(shift.values()),
            dtype=dtype,
            rng=np.random.default_rng(3),
        )
        parameters = model_parameters(model)
    energies = {head: {11: -1.25 - k, 17: -2.5} for k, head in enumerate(heads)}
    return ModelBundle(config, dtype, heads, energies, scale, shift, parameters)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Callable[[str], Exported]:
    """Return a function that writes a random model for ASE and LAMMPS."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def write(name: str) -> Exported:
        bundle = random_bundle(name)
        exported = Exported(folder / f"{name}.msgpack", folder / f"{name}.pkl", bundle.heads[-1])
        write_model_bundle(exported.bundle, bundle, PROVENANCE)
        packed = export(bundle, exported.bundle.name, head=exported.head)
        write_lammps_model(exported.lammps, packed, PROVENANCE)
        return exported

    return write


def crystal() -> Atoms:
    """Return 64 atoms of rock salt, displaced."""
    atoms = bulk("NaCl", "rocksalt", a=4.6, cubic=True) * (2, 2, 2)
    atoms.rattle(0.08, seed=1)
    return atoms


def disordered() -> Atoms:
    """Return 216 atoms in a box, far from any lattice site; no two very close."""
    atoms = bulk("NaCl", "rocksalt", a=4.8, cubic=True) * (3, 3, 3)
    atoms.rattle(0.45, seed=2)
    rng = np.random.default_rng(4)
    atoms.set_chemical_symbols(rng.permutation(atoms.get_chemical_symbols()))
    return atoms


def triclinic() -> Atoms:
    """Return a skewed cell, smaller than the cutoff in one direction."""
    atoms = bulk("NaCl", "rocksalt", a=4.6) * (1, 2, 3)
    atoms.rattle(0.08, seed=3)
    return atoms


def half_empty() -> Atoms:
    """Return the crystal beside as much vacuum again twice: one of two processes has no atoms."""
    atoms = crystal()
    atoms.wrap()
    atoms.set_cell(atoms.cell.lengths() * [3, 1, 1])
    return atoms


def one_in_a_small_box() -> Atoms:
    """Return an atom that sees its own images alone."""
    return Atoms("Cl", cell=[2.9, 3.4, 5.3], pbc=True)


def one_alone() -> Atoms:
    """Return an atom that sees nothing."""
    return Atoms("Cl", positions=[[4.0, 5.0, 6.0]], cell=[12.0] * 3, pbc=True)


STRUCTURES = {
    function.__name__: function
    for function in (crystal, disordered, triclinic, half_empty, one_in_a_small_box, one_alone)
}


@pytest.fixture
def structure_of() -> Callable[[str], Atoms]:
    """Return a function that makes a structure."""
    return lambda name: STRUCTURES[name]()


@pytest.fixture(scope="session")
def expected(model) -> Callable[[str, str], dict[str, Any]]:
    """Return a function that computes energy, forces, stress and energies of atoms with ASE."""

    @cache
    def compute(name: str, structure: str) -> dict[str, Any]:
        exported, atoms = model(name), STRUCTURES[structure]()
        atoms.calc = MACECalculator(exported.bundle, head=exported.head)
        return {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(voigt=False),
            "energies": atoms.get_potential_energies(),
        }

    return compute


@pytest.fixture
def lammps(tmp_path) -> Callable[..., Outcome]:
    """Return a function that runs LAMMPS on a structure."""
    if PLUGINS is None:
        pytest.skip("MACE_JAX_LAMMPS names no folder of plugins")
    plugins = Path(PLUGINS)

    def run(
        path: Path,
        atoms: Atoms,
        flavor: str,
        n_processes: int = 1,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Outcome:
        (plugin,) = (plugins / flavor).glob("*.so")
        types = sorted(set(atoms.get_chemical_symbols()), reverse=True)
        job = {
            "plugin": str(plugin),
            "model": str(path),
            "cell": atoms.cell.array.tolist(),
            "pbc": atoms.pbc.tolist(),
            "types": types,
            "symbols": atoms.get_chemical_symbols(),
            "positions": atoms.positions.tolist(),
            "ghosts": 0,
            "pair_coeff": " ".join(types),
            "processors": f"{n_processes} 1 1",
            "steps": 0,
            "style": "mliap/py",
            "commands": [],
            **options,
        }
        job_file = tmp_path / "job.json"
        job_file.write_text(json.dumps(job))
        command = [sys.executable, str(HERE / "run_lammps.py"), str(job_file)]
        if n_processes > 1:
            launcher = Path(sys.executable).with_name("mpiexec")
            command = [str(launcher), "-n", str(n_processes), *command]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PJRT_NPROC": "1", **(environment or {})},
        )
        output = job_file.with_suffix(".out")
        found = json.loads(output.read_text()) if output.exists() else {}
        return Outcome(done.returncode, done.stdout + done.stderr, found)

    return run
