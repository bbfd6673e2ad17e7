"""Thirty frames of aspirin, and the commands as processes or, to save time, in this process."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FRAMES = {"train": 20, "valid": 6, "test": 4}
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


Run = Callable[..., Any]


@pytest.fixture(scope="session")
def shell(shell: Run) -> Run:
    """Return a function that runs a console script as a process of its own; it must succeed."""

    def run(command: str, *arguments: str | Path, cwd: Path) -> Any:
        outcome = shell(command, *arguments, cwd=cwd)
        assert outcome.code == 0, outcome.err
        return outcome

    return run


@pytest.fixture
def invoke(invoke: Run) -> Run:
    """Return a function that runs a command in this process; it must succeed."""

    def run(command: str, *arguments: str | Path) -> Any:
        outcome = invoke(command, *arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    return run


@pytest.fixture(scope="session")
def frames(
    tmp_path_factory: pytest.TempPathFactory,
    write_frames: Callable[[Path, Mapping[str, int]], None],
) -> Path:
    """Return a folder with the first frames of each aspirin file and a configuration."""
    folder = tmp_path_factory.mktemp("frames")
    write_frames(folder, FRAMES)
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
