"""Dependencies point one way: tools, library, schemas; light packages never reach jax or torch."""

import ast
import json
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"jax", "jaxlib", "flax", "optax", "e3nn_jax", "torch"}
LIGHT_PACKAGES = (
    "mace_jax_schemas",
    "mace_jax.artifacts",
    "mace_jax.structures",
    "mace_jax.batching",
    "mace_jax.cli",
    "mace_jax.inspection",
    "mace_jax.torch_models",
    "mace_jax_preprocess",
    "mace_jax_plan_batches",
    "mace_jax_convert",
    "mace_jax_export_lammps",
    "mace_jax_plot",
)
TOOL_FOLDERS = sorted(path for path in (ROOT / "tools").iterdir() if (path / "src").is_dir())


def modules_of(package: str) -> list[str]:
    """Return a package and every module below it but ``__main__``, which would run."""
    found = import_module(package)
    below = pkgutil.walk_packages(found.__path__, f"{package}.")
    return [package, *(module.name for module in below if not module.name.endswith("__main__"))]


def modules_after(statement: str) -> set[str]:
    """Return the names of all modules loaded once ``statement`` has run in a new interpreter."""
    script = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_contracts():
    """The contracts of ``[tool.importlinter]`` in the root pyproject."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("package", LIGHT_PACKAGES)
def test_light_packages_load_nothing_heavy(package):
    """Every module of theirs is imported, not only the package."""
    names = modules_of(package)
    loaded = modules_after(f"import {', '.join(names)}")
    assert set(names) <= loaded
    assert not {name.split(".")[0] for name in loaded} & HEAVY


@pytest.mark.parametrize("package", ["mace_jax_train", "mace_jax_predict"])
def test_command_lines_of_heavy_tools_are_light(package):
    assert not {name.split(".")[0] for name in modules_after(f"import {package}.cli")} & HEAVY


def test_schemas_need_nothing_but_the_standard_library():
    loaded = modules_after("import mace_jax_schemas; mace_jax_schemas.kinds()")
    before = modules_after("")
    added = {name.split(".")[0] for name in loaded - before}
    assert added <= set(sys.stdlib_module_names) | {"mace_jax_schemas"}


def test_only_the_model_package_imports_jax():
    """Also inside functions, where import order would hide it."""
    library = ROOT / "shared" / "src" / "mace_jax"
    allowed = {library / "model", library / "calculator", library / "jax_md.py"}
    for path in sorted((ROOT / "shared" / "src").rglob("*.py")):
        if not allowed & {*path.parents, path}:
            assert not imported_by(path) & HEAVY, path


def test_gin_is_read_in_one_module():
    users = [
        path.name
        for path in sorted((ROOT / "tools").rglob("src/**/*.py"))
        if "gin" in imported_by(path)
    ]
    assert users == ["gin_statements.py"]


def test_no_module_reads_a_pickle():
    """Not even the reader of Torch archives, which are pickles, uses Python's own.

    What LAMMPS unpickles has to be pickled; the module that does so takes ``dumps`` alone.
    """
    users = [
        path.name
        for folder in ("schemas", "shared", "tools")
        for path in sorted((ROOT / folder).rglob("src/**/*.py"))
        if imported_by(path) & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    ]
    assert users == ["lammps_model.py"]
    (writer,) = (ROOT / "tools").rglob("src/**/lammps_model.py")
    assert re.findall(r".*pickle import.*", writer.read_text()) == ["from pickle import dumps"]


def imported_by(path: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("tool", TOOL_FOLDERS, ids=lambda path: path.name)
def test_tools_import_only_what_they_declare(tool):
    """A tool that works because another one brought its library would fail installed alone.

    What the library declares is there, too, with the extras that the tool asks for. Nothing is
    said here of which of the tool's own extras an import belongs to.
    """
    (package,) = (tool / "src").iterdir()
    imported = set().union(*(imported_by(path) for path in package.rglob("*.py")))
    imported -= set(sys.stdlib_module_names) | {package.name, "mace_jax", "mace_jax_schemas"}
    project = tomllib.loads((tool / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own, extras = declared_by(tool / "pyproject.toml", project.get("optional-dependencies", ()))
    library, _ = declared_by(ROOT / "shared" / "pyproject.toml", extras)
    assert {name.lower().replace("_", "-") for name in imported} <= own | library


def declared_by(path: Path, extras: Iterable[str] = ()) -> tuple[set[str], set[str]]:
    """Return the import names a project declares, and the extras of the library it asks for."""
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    optional = project.get("optional-dependencies", {})
    lines = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    found = [re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", line) for line in lines]
    names = {match[1].lower().replace("_", "-") for match in found}
    asked = {extra for match in found if match[2] for extra in match[2].split(",")}
    other_names = {"gin-config": {"gin"}, "mace-torch": {"mace", "e3nn"}, "pyyaml": {"yaml"}}
    return names.union(*(other_names.get(name, ()) for name in names)), asked


def test_installed_alone_refuses_an_unknown_tool():
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("installed_alone.py"), "compiler"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "usage" in done.stderr


def test_installed_alone_sees_what_else_is_installed():
    """Here all tools are installed, and from the checkout: it must not be content."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("installed_alone.py"), "plot"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "plot: mace-jax-train came along" in done.stderr
    assert "plot: jax came along" in done.stderr
    assert "--help" not in done.stderr
