"""A folder with a few frames of the example and a tiny network, and snakemake to run in it."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "snakemake"
FRAMES = {"train": 20, "valid": 6, "test": 4}
GIN = """
flags.seed = 3
model.model = @ScaleShiftMACE
model.r_max = 4.0
model.num_bessel = 4
model.max_ell = 1
model.num_interactions = 1
model.hidden_irreps = '4x0e'
model.MLP_irreps = '4x0e'
model.correlation = 1
model.radial_MLP = (8,)
model.gate = @silu
model.interaction_cls = @RealAgnosticResidualInteractionBlock
optimizer.algorithm = @amsgrad
optimizer.max_epochs = 40
"""
CONFIG = """
train: train.xyz
valid: valid.xyz
test: test.xyz
gin: tiny.gin
out: out
name: tiny
preprocess: --r-max 4.0 --E0s average --shuffle False
plan: --n-edge 1200
"""

Snakemake = Callable[..., subprocess.Popen[str]]
Write = Callable[[Path], Path]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of all runs: CPU, and one cache of compiled programs."""
    tools = Path(sys.executable).parent
    return {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "JAX_PLATFORMS": "cpu",
        "MACE_JAX_CACHE": str(tmp_path_factory.mktemp("cache")),
    }


@pytest.fixture(scope="session")
def start(environment: dict[str, str]) -> Snakemake:
    """Return a function that starts snakemake in a folder, in a process group of its own."""
    program = shutil.which("snakemake", path=environment["PATH"])
    if program is None:
        pytest.skip("snakemake is not installed")

    def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
        given = ["--configfile", "config.yaml", "--snakefile", str(EXAMPLE / "Snakefile")]
        return subprocess.Popen(
            [program, *given, "--profile", str(EXAMPLE / "profiles" / "local"), *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture(scope="session")
def write_inputs(write_frames: Callable[[Path, Mapping[str, int]], None]) -> Write:
    """Return a function that puts frames, gin file and configuration into a folder."""

    def write(folder: Path) -> Path:
        write_frames(folder, FRAMES)
        (folder / "tiny.gin").write_text(GIN)
        (folder / "config.yaml").write_text(CONFIG)
        return folder

    return write


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """Return a function that takes the digests of all that a workflow made, but its logs."""

    def digests(folder: Path) -> dict[str, str]:
        out = folder / "out"
        return {
            str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(out.rglob("*"))
            if path.is_file()
            and path.parent.name != "log"
            and path.name[0] != "."
            and path.suffix != ".trained"
        }

    return digests
