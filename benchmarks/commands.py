"""Start-up, time and peak memory of commands: ``--help`` and the conversion of a model.

The converted model is shaped like MACE-MP-0 medium, with random weights.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONVERSION = "convert a model like MACE-MP-0 medium"
# ours beside mace-torch's, where it has one
HELP = {"mace-jax-train": "mace_run_train", "mace-jax-plan-batches": None}

_MAKE = (
    "import sys, torch; sys.path.insert(0, sys.argv[1]); import torch_models;"
    "torch.save(torch_models.build('mp0_medium'), sys.argv[2])"
)
# a script does the same; this one says its peak memory, too
_CONVERT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from mace_jax_convert.cli import main
from protocol import peak_mb
try:
    main(sys.argv[1:])
finally:
    print(peak_mb())
"""


def make_model(folder: Path) -> Path:
    """Write the model to be converted."""
    path = folder / "mp0_medium.model"
    tests = ROOT / "tests" / "parity"
    command = [sys.executable, "-W", "ignore", "-c", _MAKE, str(tests), str(path)]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    return path


def convert(model: Path, bundle: Path) -> dict[str, float]:
    """Convert a model; return seconds and peak MB."""
    start = time.perf_counter()
    done = _run(
        *(sys.executable, "-c", _CONVERT, str(Path(__file__).parent)),
        *("--torch-model", str(model), "--output", str(bundle), "--force"),
    )
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": float(done.split()[-1])}


def show_help(command: str) -> dict[str, float]:
    """Run ``command --help`` of this environment; return seconds."""
    start = time.perf_counter()
    _run(str(Path(sys.executable).parent / command), "--help")
    return {"seconds": time.perf_counter() - start}


def measure(folder: Path, n: int) -> dict[str, Any]:
    """Return what each command took in each of ``n`` rounds; before, all run once."""
    model = make_model(folder)
    names = [name for pair in HELP.items() for name in pair if name]
    rounds = []
    for _ in range(n + 1):
        turn = {name: show_help(name) for name in names}
        turn[CONVERSION] = convert(model, folder / "converted.msgpack")
        rounds.append(turn)
    return {"file_mb": model.stat().st_size / 1e6, "rounds": rounds[1:]}


def _run(*command: str) -> str:
    """Return what a command prints.

    Raises:
        RuntimeError: it fails.
    """
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        message = f"{' '.join(command)}: status {done.returncode}: {done.stderr[-500:]}"
        raise RuntimeError(message)
    return done.stdout
