"""Start-up, time and peak memory of mace-jax-from-torch on a model shaped like MACE-MP-0 medium.

``python benchmarks/convert.py [--model FILE] [--repeats 5] [--json FILE]``. Without a file the
model is built with random weights, which needs torch and mace-torch. Prints a table of medians,
and as JSON the same and every run.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAKE = (
    "import sys, torch; sys.path.insert(0, sys.argv[1]); import torch_models;"
    "torch.save(torch_models.build('mp0_medium'), sys.argv[2])"
)
RUN = """
import re, sys
from pathlib import Path
from mace_jax_convert.cli import main
try:
    main(sys.argv[1:])
finally:
    print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def measure(*arguments: str, cwd: Path) -> dict[str, float]:
    """Return seconds and peak MB of one run of the command in a process of its own."""
    start = time.perf_counter()
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", RUN, *arguments], cwd=cwd, check=True, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": int(done.stdout.split()[-1]) * 1024 / 1e6}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a torch.save file of a MACE model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model and options.model.resolve()
        if model is None:
            model = folder / "mp0_medium.model"
            make = [sys.executable, "-W", "ignore", "-c", MAKE, ROOT / "tests" / "parity", model]
            subprocess.run(make, check=True, stdout=sys.stderr)  # noqa: S603
        conversion = ("--torch-model", str(model), "--output", "model.msgpack", "--force")
        commands = {"--help": ("--help",), "conversion": conversion}
        runs = {
            label: [measure(*arguments, cwd=folder) for _ in range(options.repeats)]
            for label, arguments in commands.items()
        }
        size = model.stat().st_size / 1e6
    medians = {
        label: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for label, found in runs.items()
    }
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    result = {
        "file_mb": size,
        "peak_per_file": medians["conversion"]["peak_mb"] / size,
        "medians": medians,
        "runs": runs,
        "cpu": cpu[1] if cpu else platform.machine(),
        "n_cpus": os.cpu_count(),
        "python": platform.python_version(),
    }
    print(f"{'':12s}{'seconds':>9s}{'peak MB':>9s}   (file: {size:.1f} MB)")
    for label, found in medians.items():
        print(f"{label:12s}{found['seconds']:9.2f}{found['peak_mb']:9.0f}")
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
