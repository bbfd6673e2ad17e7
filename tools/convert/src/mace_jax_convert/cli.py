"""The command line of mace-jax-from-torch."""

from pathlib import Path

import click

from mace_jax.cli.command import Result, ToolCommand
from mace_jax.cli.options import FilePath, force_option, reproducible_option


@click.command(
    cls=ToolCommand,
    tool="mace-jax-convert",
    examples=(
        "mace-jax-from-torch --torch-model model.pt --output model.msgpack",
        "mace-jax-from-torch --torch-model model.pt --json",
    ),
)
@click.option("--torch-model", type=FilePath, required=True, help="a torch.save(model) file")
@click.option("--output", "-o", type=FilePath, help="bundle [default: <model>-jax.msgpack]")
@force_option
@reproducible_option
def main(torch_model: Path, output: Path | None, force: bool, reproducible: bool) -> Result:
    """Convert a Torch MACE model into a model bundle, without torch and without running its code.

    MACE and ScaleShiftMACE with RealAgnostic(Residual)InteractionBlock and Bessel basis are
    supported; anything else is refused by name.
    """
    from mace_jax.artifacts.atomic_write import require_absent
    from mace_jax.artifacts.model_bundle import write_model_bundle
    from mace_jax.artifacts.provenance import external_input, make_provenance
    from mace_jax_convert.from_torch import convert_torch_model

    output = output or torch_model.with_name(f"{torch_model.stem}-jax.msgpack")
    require_absent(output, force=force)
    bundle = convert_torch_model(torch_model)
    provenance = make_provenance(
        "mace-jax-convert",
        [external_input("torch_model", torch_model, "torch_checkpoint")],
        reproducible=reproducible,
    )
    write_model_bundle(output, bundle, provenance)
    return Result(
        output,
        {
            "model": bundle.config.model,
            "heads": list(bundle.heads),
            "dtype": bundle.dtype,
            "parameters": sum(array.size for array in bundle.parameters.values()),
        },
    )
