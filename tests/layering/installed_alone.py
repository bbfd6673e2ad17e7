"""Check an environment into which only one tool was installed.

    python installed_alone.py TOOL

Run by ``nox -s alone``, outside the checkout. Fails if the tool's command does not answer, if a
light tool brought jax or torch along, or if another tool came with it.
"""

import subprocess
import sys
from importlib import import_module
from importlib.metadata import distributions, entry_points
from pathlib import Path

TOOLS = ("preprocess", "plan_batches", "train", "predict", "convert", "export_lammps", "plot")
HEAVY_TOOLS = ("train", "predict")
HEAVY_DISTRIBUTIONS = {"jax", "jaxlib", "flax", "optax", "e3nn-jax", "torch"}


def problems(tool: str) -> list[str]:
    """Return what is wrong with this environment, one line each."""
    name = f"mace-jax-{tool.replace('_', '-')}"
    installed = {(found.name or "").lower().replace("_", "-") for found in distributions()}
    found = [f"{name} is not installed"] if name not in installed else []
    others = {f"mace-jax-{other.replace('_', '-')}" for other in TOOLS if other != tool}
    found += [f"{other} came along" for other in sorted(others & installed)]
    if tool not in HEAVY_TOOLS:
        found += [f"{heavy} came along" for heavy in sorted(HEAVY_DISTRIBUTIONS & installed)]
    package = import_module(f"mace_jax_{tool}")
    if "site-packages" not in Path(package.__file__ or "").parts:
        found.append(f"mace_jax_{tool} was imported from {package.__file__}, not from its install")
    return found + command_problems(tool)


def command_problems(tool: str) -> list[str]:
    """Run ``--help`` of every command of the tool, as a script and as a module."""
    scripts = [
        script.name
        for script in entry_points(group="console_scripts")
        if script.value.startswith(f"mace_jax_{tool}.")
    ]
    if not scripts:
        return ["has no command"]
    calls = [[str(Path(sys.executable).with_name(script))] for script in scripts]
    calls.append([sys.executable, "-m", f"mace_jax_{tool}"])
    found = []
    for call in calls:
        done = subprocess.run([*call, "--help"], capture_output=True, text=True, check=False)
        if done.returncode or "Exit codes:" not in done.stdout:
            found.append(f"{' '.join(call)} --help: exit {done.returncode}: {done.stderr.strip()}")
    return found


def main() -> None:
    """Print what is wrong and exit with 1, or exit with 0."""
    if len(sys.argv) != 2 or sys.argv[1] not in TOOLS:
        sys.exit(f"usage: python installed_alone.py [{'|'.join(TOOLS)}]")
    found = problems(sys.argv[1])
    for line in found:
        print(f"{sys.argv[1]}: {line}", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
