"""What tests that cross packages share: the commands by name, and frames of the example."""

from collections.abc import Callable, Mapping
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
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


@pytest.fixture
def invoke(call: Callable[..., Any], compilation_cache: None) -> Callable[..., Any]:
    """Return a function that runs a command by its name in this process, in the current folder."""
    return lambda command, *arguments: call(import_module(COMMAND_LINES[command]).main, *arguments)


@pytest.fixture(scope="session")
def write_frames() -> Callable[[Path, Mapping[str, int]], None]:
    """Return a function that writes the first frames of each aspirin file into a folder."""

    def write(folder: Path, n_frames: Mapping[str, int]) -> None:
        for split, n in n_frames.items():
            with (ROOT / "examples" / "aspirin" / f"{split}.xyz").open() as source:
                (folder / f"{split}.xyz").write_text("".join(islice(source, 23 * n)))

    return write
