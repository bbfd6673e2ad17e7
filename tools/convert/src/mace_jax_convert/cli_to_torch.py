"""The command line of mace-jax-to-torch."""

from pathlib import Path

import click

from mace_jax.cli.command import Result, ToolCommand
from mace_jax.cli.options import FilePath, force_option


@click.command(
    cls=ToolCommand,
    tool="mace-jax-convert",
    examples=(
        "mace-jax-to-torch model.msgpack --output model.pt",
        "mace-jax-to-torch model.msgpack --head Default --dtype float32 --verify",
    ),
)
@click.argument("model", type=FilePath)
@click.option("--output", "-o", type=FilePath, help="Torch model [default: <model>-torch.model]")
@click.option("--head", help="keep this readout head only [default: all]")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    help="of the weights [default: the bundle's]",
)
@click.option(
    "--verify", is_flag=True, help="compare mace-torch's numbers with ours [extra: model]"
)
@force_option
def main(
    model: Path, output: Path | None, head: str | None, dtype: str | None, verify: bool, force: bool
) -> Result:
    """Convert the model bundle MODEL into a file that mace-torch loads with torch.load.

    Needs torch and mace-torch: pip install "./tools/convert[torch]".
    """
    from mace_jax.artifacts.atomic_write import require_absent
    from mace_jax.artifacts.model_bundle import read_model_bundle
    from mace_jax.torch_models.select_head import select_head
    from mace_jax_convert.to_torch import require_mace_torch, write_torch_model

    require_mace_torch()
    output = output or model.with_name(f"{model.stem}-torch.model")
    require_absent(output, force=force, inputs=[model])
    bundle = read_model_bundle(model)
    if head is not None:
        bundle = select_head(bundle, head)
    if dtype is not None:
        bundle = bundle.astype(dtype)
    summary = {"model": bundle.config.model, "heads": list(bundle.heads), "dtype": bundle.dtype}
    if verify:
        from mace_jax_convert.verify import verified

        parity = verified(bundle, str(model)).parity
        summary["errors"] = parity["errors"] if parity else {}
    write_torch_model(output, bundle)
    return Result(output, summary)


if __name__ == "__main__":
    main()
