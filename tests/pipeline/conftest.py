"""Thirty frames of aspirin, and the commands as processes or, to save time, in this process."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FRAMES = {"train": 20, "valid": 6, "test": 4}
COMMAND_LINES = {
    "mace-jax-preprocess": "mace_jax_preprocess.cli",
    "mace-jax-select-replay": "mace_jax_preprocess.cli_select_replay",
    "mace-jax-plan-batches": "mace_jax_plan_batches.cli",
    "mace-jax-train": "mace_jax_train.cli",
    "mace-jax-predict": "mace_jax_predict.cli",
    "mace-jax-train-plot": "mace_jax_plot.cli",
}
TINY_GIN = """
flags.seed = 3
logs.directory = 'run'
datasets.E0s = 'average'
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
optimizer.max_epochs = 2
"""


class Outcome(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of subprocesses: CPU, and one compilation cache for all of them."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.getbasetemp() / "jax-cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


@pytest.fixture(scope="session")
def shell(environment: dict[str, str]) -> Run:
    """Return a function that runs a console script as a process of its own; it must succeed."""

    def run(command: str, *arguments: str | Path, cwd: Path) -> Outcome:
        program = Path(sys.executable).with_name(command)
        done = subprocess.run(
            [program, *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return Outcome(0, done.stdout, done.stderr)

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
def invoke(capfd: pytest.CaptureFixture[str], compilation_cache: None) -> Iterator[Run]:
    """Return a function that calls a command's ``main`` in this process; it must succeed."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level

    def run(command: str, *arguments: str | Path) -> Outcome:
        main = import_module(COMMAND_LINES[command]).main
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        outcome = Outcome(stopped.value.code, *capfd.readouterr())
        assert outcome.code == 0, outcome.err
        return outcome

    yield run
    root.handlers, root.level = handlers, level


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the first frames of each aspirin file and a configuration."""
    folder = tmp_path_factory.mktemp("frames")
    for split, n_frames in FRAMES.items():
        with (ROOT / "examples" / "aspirin" / f"{split}.xyz").open() as source:
            (folder / f"{split}.xyz").write_text("".join(islice(source, 23 * n_frames)))
    (folder / "tiny.gin").write_text(TINY_GIN)
    return folder


@pytest.fixture(scope="session")
def run_chain(frames: Path, shell: Run) -> Callable[[Path], None]:
    """Return a function that runs the whole chain in a folder, file by file."""

    def run(folder: Path) -> None:
        for path in frames.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        shell(
            *("mace-jax-preprocess", "--train_file", "train.xyz", "--valid_file", "valid.xyz"),
            *("--test_file", "test.xyz", "--h5_prefix", "data", "--r_max", "4.0"),
            *("--compute_statistics", "--E0s", "average", "--shuffle", "False", "--reproducible"),
            cwd=folder,
        )
        for split in ("train", "val"):
            shell(
                *("mace-jax-plan-batches", f"data/{split}", "--r-max", "4.0", "--n-edge", "1200"),
                *("--seed", "3", "--output", f"{split}.plan.json", "--reproducible"),
                cwd=folder,
            )
        shell(
            *("mace-jax-train", "tiny.gin", "--train-path", "data/train", "--valid-path"),
            *("data/val", "--train-plan", "train.plan.json", "--valid-plan", "val.plan.json"),
            *("--statistics-file", "data/statistics.json", "--reproducible"),
            cwd=folder,
        )
        shell(
            *("mace-jax-predict", "run/tiny_best.msgpack", "data/val", "--output", "val.npz"),
            *("--batch-max-edges", "700", "--reproducible"),
            cwd=folder,
        )

    return run


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory, run_chain: Callable[[Path], None]) -> Path:
    """Return the folder of a chain that has run; tests write beside it, not into it."""
    folder = tmp_path_factory.mktemp("chain")
    run_chain(folder)
    return folder
