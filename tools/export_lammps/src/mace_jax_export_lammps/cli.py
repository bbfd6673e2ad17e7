"""The command line of mace-create-lammps-model."""

import math
from pathlib import Path
from typing import Any

import click

from mace_jax.cli.command import Result, ToolCommand
from mace_jax.cli.options import FilePath, force_option, reproducible_option

TOOL = "mace-jax-export-lammps"


class NamedNumber(click.ParamType):
    """A name and a finite number, such as ``total_charge=-1``."""

    name = "NAME=NUMBER"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """Parse both."""
        name, _, text = str(value).partition("=")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (name and math.isfinite(number)):
            self.fail(f"{value!r} is not a name and a number such as total_charge=-1", param, ctx)
        return name, number


@click.command(
    cls=ToolCommand,
    tool=TOOL,
    examples=(
        "mace-create-lammps-model model.msgpack --output model.pkl",
        "mace-create-lammps-model model.pt --dtype float32 --no-self-test --json",
    ),
)
@click.argument("model", type=FilePath)
@click.option("--head", help="readout head [default: the only one]")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    help="of weights and computation [default: the model's]",
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    type=NamedNumber(),
    help="what else the model is told, such as total_charge=-1; once for each",
)
@click.option("--output", "-o", type=FilePath, help="[default: <model>-lammps.pkl]")
@click.option(
    "--self-test/--no-self-test",
    default=True,
    help="keep a few atoms' energy and forces, which LAMMPS computes again first [extra: model]",
)
@force_option
@reproducible_option
def main(
    model: Path,
    head: str | None,
    dtype: str | None,
    inputs: tuple[tuple[str, float], ...],
    output: Path | None,
    self_test: bool,
    force: bool,
    reproducible: bool,
) -> Result:
    """Make of MODEL a file for LAMMPS's pair_style mliap unified.

    MODEL is a model bundle or a Torch MACE model, which is converted without torch and without
    running its code. LAMMPS needs this package with its extra model in the Python it runs.
    """
    from mace_jax.artifacts.atomic_write import require_absent
    from mace_jax.artifacts.provenance import make_provenance
    from mace_jax.torch_models.source import Source
    from mace_jax_export_lammps.export import export
    from mace_jax_export_lammps.lammps_model import write_lammps_model

    output = output or model.with_name(f"{model.stem}-lammps.pkl")
    require_absent(output, force=force, inputs=[model])
    source = Source(model)
    exported = export(
        source.read(),
        str(model),
        head=head,
        dtype=dtype,
        inputs=dict(inputs),
        self_test=self_test,
    )
    provenance = make_provenance(TOOL, [source.as_input()], reproducible=reproducible)
    write_lammps_model(output, exported, provenance)
    bundle = exported.bundle
    summary = {
        "model": bundle.config.model,
        "head": bundle.heads[0],
        "dtype": bundle.dtype,
        "elements": exported.elements,
        "r_max": bundle.config.r_max,
        "num_interactions": bundle.config.num_interactions,
        "inputs": exported.inputs,
        "self_test": exported.self_test is not None,
    }
    return Result(output, summary)
