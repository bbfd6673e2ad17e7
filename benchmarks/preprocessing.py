"""Time mace-jax-preprocess beside mace_prepare_data, and its memory as the data grow.

``python benchmarks/preprocessing.py [--data FILE] [--copies N]`` needs an environment with both
programs. Each runs as a command of its own, in turn, on the same extxyz file; structures a second
count the whole command, start-up included.
"""

import argparse
import itertools
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import systems

BIN = Path(sys.executable).parent
# says its largest resident memory, workers included, on the last line
_RUN = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    peaks = [resource.getrusage(who).ru_maxrss for who in
             (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(max(peaks) * 1024 / 1e6, file=sys.stderr)
"""


def repeated(data: Path, copies: int, folder: Path) -> tuple[Path, int]:
    """Write a file ``copies`` times over; return it and its number of frames."""
    path = folder / f"{copies}.xyz"
    content = data.read_bytes()
    with path.open("wb") as file:
        for _ in range(copies):
            file.write(content)
    return path, copies * len(re.findall(rb"^\d+\s*$", content, re.MULTILINE))


def run(command: str, *arguments: str, cwd: Path) -> tuple[float, float]:
    """Return seconds and the peak memory in MB of a command."""
    start = time.perf_counter()
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-W", "ignore", "-c", _RUN, str(BIN / command), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return time.perf_counter() - start, float(done.stderr.split()[-1])


def arguments_of(program: str, path: Path, folder: Path, processes: int) -> list[str]:
    """Return what a program is asked for: split, statistics, average E0s."""
    keys = [] if b"REF_energy" in path.open("rb").read(4000) else [
        "--energy_key=energy", "--forces_key=forces"
    ]  # fmt: skip
    common = [
        f"--train_file={path}", "--valid_fraction=0.05", f"--h5_prefix={folder}/", "--r_max=5.0",
        "--compute_statistics", "--E0s=average", "--seed=1", f"--num_process={processes}", *keys,
    ]  # fmt: skip
    if program == "mace_prepare_data":
        return [*common, "--atomic_numbers=[1, 6, 8]"]
    layout = [] if program.endswith("mace") else ["--layout=flat", "--store-edges"]
    return [*common, "--force", "--atomic_numbers=[1, 6, 8]", *layout]


def main() -> None:
    """Measure and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=systems.default_data())
    parser.add_argument("--copies", type=int, default=20, help="of the data, for the comparison")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--growth", default="10,100", help="copies between which memory is compared"
    )
    options = parser.parse_args()
    programs = {
        "mace_prepare_data": "mace_prepare_data",
        "mace-jax-preprocess, layout mace": "mace-jax-preprocess",
        "mace-jax-preprocess, flat with edges": "mace-jax-preprocess",
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, n = repeated(options.data, options.copies, folder)
        for _ in range(options.repeats):
            for label, command in programs.items():
                output = folder / "output"
                shutil.rmtree(output, ignore_errors=True)
                output.mkdir()
                found[label].append(
                    run(command, *arguments_of(label, path, output, processes=2), cwd=folder)
                )
                seconds, peak = found[label][-1]
                print(f"{label}: {n / seconds:.0f} structures/s, {peak:.0f} MB", file=sys.stderr)
        reference = statistics.median(seconds for seconds, _ in found["mace_prepare_data"])
        print(f"{n} structures, two processes\n")
        print("| program | structures/s | ratio | peak, MB |\n| --- | --- | --- | --- |")
        for label, turns in found.items():
            seconds = statistics.median(seconds for seconds, _ in turns)
            peak = max(peak for _, peak in turns)
            print(f"| {label} | {n / seconds:.0f} | {reference / seconds:.1f} | {peak:.0f} |")
        print("\n| layout | processes | copies | structures | seconds | peak, MB |")
        print("| --- | --- | --- | --- | --- | --- |")
        growth = []
        for copies in map(int, options.growth.split(",")):
            path, n = repeated(options.data, copies, folder)
            for layout, processes in itertools.product(("mace", "flat"), (1, 2)):
                output = folder / "output"
                shutil.rmtree(output, ignore_errors=True)
                wanted = arguments_of(layout, path, output, processes)
                seconds, peak = run("mace-jax-preprocess", *wanted, cwd=folder)
                row = (layout, processes, copies, n, round(seconds, 1), round(peak))
                growth.append(row)
                print("|", *(f"{value} |" for value in row))
    print(json.dumps({"turns": found, "growth": growth}))


if __name__ == "__main__":
    main()
