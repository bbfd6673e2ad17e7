"""The command line of mace-jax-inspect."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mace_jax.cli.command import Result, ToolCommand
from mace_jax.cli.options import FilePath

if TYPE_CHECKING:
    from mace_jax.inspection.report import Report

log = logging.getLogger(__name__)


@click.command(
    cls=ToolCommand,
    tool="mace-jax-shared",
    examples=(
        "mace-jax-inspect model.msgpack data/statistics.json train.plan.json",
        "mace-jax-inspect model.msgpack --upgrade --output upgraded.msgpack",
    ),
)
@click.argument("files", nargs=-1, required=True, type=FilePath)
@click.option("--look-in", type=FilePath, multiple=True, help="folder where inputs may be, too")
@click.option("--quick", is_flag=True, help="no digests, and no structure of a dataset is read")
@click.option("--check", is_flag=True, help="exit with 3 if an input here has another digest")
@click.option("--upgrade", is_flag=True, help="write FILE at the newest version of its format")
@click.option("-o", "--output", type=FilePath, help="for --upgrade: where to")
@click.option("--overwrite", is_flag=True, help="for --upgrade: put it in the place of FILE")
@click.option("--force", is_flag=True, help="replace an existing --output")
def main(
    files: tuple[Path, ...],
    look_in: tuple[Path, ...],
    quick: bool,
    check: bool,
    upgrade: bool,
    output: Path | None,
    overwrite: bool,
    force: bool,
) -> Result:
    """Say what FILES of the tools are: kind, version, origin, digests of the inputs, content.

    A folder stands for the files in it. Inputs are looked for by name beside each file, in the
    current folder, in those of --look-in, and in folders one or two below these.
    """
    if upgrade or output or overwrite:
        return _upgraded(files, upgrade, output, overwrite, force)
    from mace_jax.inspection.inputs import InputSearch
    from mace_jax.inspection.report import Inspection, inspect_file

    paths = _expanded(files)
    search = InputSearch([Path(), *look_in])
    reports = [inspect_file(path, search, quick=quick) for path in paths]
    return Inspection(files[0], reports=reports, exit_code=_exit_code(reports, check))


def _expanded(files: Sequence[Path]) -> list[Path]:
    """Put the files of a folder in its place; what starts with a dot is unfinished."""
    from mace_jax.errors import ArtifactError

    found: list[Path] = []
    for path in files:
        inside = [path]
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.is_file() and p.name[0] != "."]
        if not inside:
            message = f"{path}: holds no file; name files, or the folder that they are in"
            raise ArtifactError(message)
        found += inside
    return found


def _exit_code(reports: "Sequence[Report]", check: bool) -> int:
    from mace_jax.errors import ArtifactError, CheckFailedError

    if any(report.problem for report in reports):
        return ArtifactError.exit_code
    differs = any(item.state == "differs" for report in reports for item in report.inputs)
    return CheckFailedError.exit_code if check and differs else 0


def _upgraded(
    files: Sequence[Path], upgrade: bool, output: Path | None, overwrite: bool, force: bool
) -> Result:
    from mace_jax.artifacts.atomic_write import require_absent
    from mace_jax.errors import ConfigError
    from mace_jax.inspection.tagged_file import read_tagged_file
    from mace_jax.inspection.upgrade import is_newest, write_upgraded
    from mace_jax_schemas import current_version

    if not upgrade or len(files) > 1:
        message = "--output and --overwrite need --upgrade, which takes one file; correct the flags"
        raise ConfigError(message)
    if (output is None) != overwrite:
        message = f"{files[0]}: --upgrade needs either --output or --overwrite; give one of them"
        raise ConfigError(message)
    file = read_tagged_file(files[0])
    newest = is_newest(file)
    summary = {"kind": file.kind, "from": file.version, "to": current_version(file.kind)}
    if newest:
        log.info("%s: %s version %s is the newest; nothing written", *file[:1], *file[3:])
        return Result(files[0], summary)
    target = output or files[0]
    if output:
        require_absent(output, force=force)
    write_upgraded(file, target)
    log.info(
        "%s: %s version %s, was %s; what was made from it names the digest it had",
        *(target, file.kind, summary["to"], file.version),
    )
    return Result(target, summary)
