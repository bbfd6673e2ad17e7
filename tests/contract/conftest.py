"""The chain run once through the real commands; every test works in a copy of its folder."""

import lzma
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
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


Shell = Callable[..., Any]


@pytest.fixture(scope="session")
def chain(
    tmp_path_factory: pytest.TempPathFactory,
    shell: Shell,
    write_frames: Callable[[Path, Mapping[str, int]], None],
) -> Path:
    """Return a folder with every file that the examples in ``--help`` name, made by the chain."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "examples" / "aspirin").mkdir(parents=True)
    (folder / "configs").mkdir()
    shutil.copy(ROOT / "configs" / "aspirin_small.gin", folder / "configs")
    for place in (folder, folder / "examples" / "aspirin"):
        write_frames(place, FRAMES)
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
