"""Run a command once for every change it makes to the file system, killed right before it.

    python crash_points.py PACKAGE FOLDER TEMPLATE COUNT ARGUMENT...

Each run works in a copy of TEMPLATE, ``FOLDER/<k>``, and dies by SIGKILL before the k-th change
(creating, renaming or removing something there). PACKAGE may be the module of a command line. COUNT
runs are spread over all the changes; 0 means one for each. Prints the number of changes of the
uninterrupted run, which is ``FOLDER/full``.
Packages are imported once and every run is a fork, so a run costs no start-up.
"""

import os
import shutil
import signal
import sys
from importlib import import_module
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def is_change(event: str, arguments: tuple[object, ...]) -> bool:
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return (
            bool(writes) and isinstance(path, str) and Path.cwd() in Path(path).absolute().parents
        )
    return event in CHANGES


def run(package: str, folder: Path, template: Path, arguments: list[str], kill_at: int) -> int:
    """Fork; return the number of changes the child made, 0 if it was killed."""
    shutil.copytree(template, folder)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        n_changes = 0

        def count(event: str, event_arguments: tuple[object, ...]) -> None:
            nonlocal n_changes
            if is_change(event, event_arguments):
                n_changes += 1
                if n_changes == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            module = package if "." in package else f"{package}.cli"
            import_module(module).main(arguments)
        except SystemExit as stopped:
            os.write(writing, f"{n_changes if stopped.code == 0 else -1}".encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return int(pipe.read() or 0)


def main() -> None:
    package, folder, template, count = sys.argv[1], *map(Path, sys.argv[2:4]), int(sys.argv[4])
    arguments = sys.argv[5:]
    for name in PRELOAD[package]:
        import_module(name)
    total = run(package, folder / "full", template, arguments, -1)
    assert total > 0, "the uninterrupted run failed"
    points = range(1, total + 1)
    if count:
        points = sorted({1 + round(i * (total - 1) / (count - 1)) for i in range(count)})
    for point in points:
        assert run(package, folder / str(point), template, arguments, point) == 0
    print(total)


LIGHT = [
    "mace_jax.artifacts.dataset",
    "mace_jax.structures.neighbor_list",
    "extxyz.cextxyz",
    "ase.io",
]
PRELOAD = {
    "mace_jax_preprocess": [*LIGHT, "mace_jax_preprocess.prepare"],
    "mace_jax_preprocess.cli_select_replay": [*LIGHT, "mace_jax_preprocess.select_replay"],
    "mace_jax_plan_batches": [*LIGHT, "mace_jax.batching.plan"],
    "mace_jax_predict": [*LIGHT, "mace_jax_predict.run"],
    "mace_jax_train": [*LIGHT, "mace_jax_train.loop", "mace_jax_train.gin_config"],
    "mace_jax_convert": ["mace_jax.torch_models.from_torch"],
    "mace_jax_export_lammps": ["mace_jax_export_lammps.export", "mace_jax_export_lammps.potential"],
    "mace_jax_plot": ["mace_jax_plot.curves"],
}

if __name__ == "__main__":
    main()
