"""The chain run once through the real commands; every test works in a copy of its folder."""

import logging
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
COMMAND_LINES = {
    "mace-jax-preprocess": "mace_jax_preprocess.cli",
    "mace-jax-select-replay": "mace_jax_preprocess.cli_select_replay",
    "mace-jax-plan-batches": "mace_jax_plan_batches.cli",
    "mace-jax-train": "mace_jax_train.cli",
    "mace-jax-predict": "mace_jax_predict.cli",
    "mace-jax-from-torch": "mace_jax_convert.cli",
    "mace-jax-to-torch": "mace_jax_convert.cli_to_torch",
    "mace-create-lammps-model": "mace_jax_export_lammps.cli",
    "mace-jax-train-plot": "mace_jax_plot.cli",
    "mace-jax-inspect": "mace_jax.inspection.cli",
}
FRAMES = {"train": 12, "valid": 5, "test": 4}
# A network that compiles in a second; everything else is as configs/aspirin_small.gin says.
TINY = [
    part
    for binding in (
        "model.num_bessel=4",
        "model.max_ell=1",
        "model.num_interactions=1",
        "model.hidden_irreps='4x0e'",
        "model.MLP_irreps='4x0e'",
        "model.correlation=1",
        "model.radial_MLP=(8,)",
        "optimizer.max_epochs=2",
    )
    for part in ("-b", binding)
]


class Outcome(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Invoke = Callable[..., Outcome]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of subprocesses: CPU, and one compilation cache for all of them."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "OPENBLAS_NUM_THREADS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.getbasetemp() / "jax-cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


@pytest.fixture(scope="session")
def shell(environment: dict[str, str]) -> Invoke:
    """Return a function that runs a console script as a process of its own."""

    def run(command: str, *arguments: str, cwd: Path | None = None) -> Outcome:
        program = Path(sys.executable).with_name(command)
        done = subprocess.run(
            [program, *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def compilation_cache(environment: dict[str, str]) -> Iterator[None]:
    """Let this process share the compilation cache of the subprocesses."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    names = [name.lower() for name in environment if name.startswith("JAX_") and "CACHE" in name]
    before = {name: getattr(jax.config, name) for name in names}
    for name in names:
        value = environment[name.upper()]
        jax.config.update(name, int(value) if value.isdigit() else value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str], compilation_cache: None) -> Iterator[Invoke]:
    """Return a function that calls a command's ``main`` in this process, in the current folder."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level

    def run(command: str, *arguments: str) -> Outcome:
        main = import_module(COMMAND_LINES[command]).main
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        return Outcome(stopped.value.code, *capfd.readouterr())

    yield run
    root.handlers, root.level = handlers, level


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory, shell: Invoke) -> Path:
    """Return a folder with every file that the examples in ``--help`` name, made by the chain."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "examples" / "aspirin").mkdir(parents=True)
    (folder / "configs").mkdir()
    shutil.copy(ROOT / "configs" / "aspirin_small.gin", folder / "configs")
    for split, n_frames in FRAMES.items():
        with (ROOT / "examples" / "aspirin" / f"{split}.xyz").open() as source:
            text = "".join(islice(source, n_frames * 23))
        (folder / f"{split}.xyz").write_text(text)
        (folder / "examples" / "aspirin" / f"{split}.xyz").write_text(text)
    shutil.copy(folder / "test.xyz", folder / "structures.xyz")
    checkpoint = ROOT / "tests" / "parity" / "data" / "layers_1.model.xz"
    (folder / "model.pt").write_bytes(lzma.decompress(checkpoint.read_bytes()))

    def run(command: str, *arguments: str) -> None:
        outcome = shell(command, *arguments, cwd=folder)
        assert outcome.code == 0, outcome.err

    run(
        *("mace-jax-preprocess", "--train_file", "train.xyz", "--valid_file", "valid.xyz"),
        *("--test_file", "test.xyz", "--h5_prefix", "data", "--compute_statistics"),
        *("--E0s", "average"),
    )
    for split, name in (("train", "train"), ("val", "valid")):
        run(
            *("mace-jax-plan-batches", f"data/{split}", "--r-max", "5.0", "--n-edge", "2048"),
            *("--output", f"{name}.plan.json"),
        )
    run(
        *("mace-jax-train", "configs/aspirin_small.gin", *TINY, "--train-path", "data/train"),
        *("--valid-path", "data/val", "--test-path", "data/test", "--train-plan"),
        *("train.plan.json", "--valid-plan", "valid.plan.json"),
        *("--statistics-file", "data/statistics.json"),
    )
    shutil.copy(folder / "results" / "aspirin_small_best.msgpack", folder / "model.msgpack")
    run("mace-jax-predict", "model.msgpack", "structures.xyz", "--output", "test.h5")
    return folder


@pytest.fixture
def workspace(chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the chain's folder; it is the current folder of the test."""
    folder = tmp_path / "workspace"
    shutil.copytree(chain, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def tiny() -> list[str]:
    """Return the bindings that make a network tiny."""
    return TINY
