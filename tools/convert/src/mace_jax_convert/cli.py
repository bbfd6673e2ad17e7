"""The command line of mace-jax-from-torch."""

from pathlib import Path

import click

from mace_jax.cli.command import Result, ToolCommand
from mace_jax.cli.options import FilePath, force_option, reproducible_option

TOOL = "mace-jax-convert"


@click.command(
    cls=ToolCommand,
    tool=TOOL,
    examples=(
        "mace-jax-from-torch --torch-model model.pt --output model.msgpack",
        "mace-jax-from-torch --torch-model model.pt --predict structures.xyz --json",
    ),
)
@click.option("--torch-model", type=FilePath, help="a torch.save file of a MACE model")
@click.option(
    "--foundation",
    type=click.Choice(["mp", "off", "anicc", "omol"]),
    help="download a released model of this family instead [default: mp]",
)
@click.option(
    "--model-name", help="which of the family, such as small [default: the one mace-torch takes]"
)
@click.option("--offline", is_flag=True, help="use models that were downloaded before only")
@click.option("--output", "-o", type=FilePath, help="bundle [default: <model>-jax.msgpack]")
@click.option("--head", help="keep this readout head only [default: all]")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    help="of the weights [default: the file's]",
)
@click.option("--predict", type=FilePath, help="predict these structures, too [extra: model]")
@click.option("--verify", is_flag=True, help="compare with mace-torch's numbers [extra: model]")
@force_option
@reproducible_option
def main(
    torch_model: Path | None,
    foundation: str | None,
    model_name: str | None,
    offline: bool,
    output: Path | None,
    head: str | None,
    dtype: str | None,
    predict: Path | None,
    verify: bool,
    force: bool,
    reproducible: bool,
) -> Result:
    """Convert a Torch MACE model into a model bundle, without torch and without running its code.

    --predict writes <bundle>-predictions.extxyz beside the bundle. --verify lets mace-torch and
    this program predict a few structures, exits with 3 if they differ, and keeps the numbers in
    the bundle; where mace-torch is not installed, a bundle that keeps such numbers can be given as
    --torch-model.
    """
    from dataclasses import replace

    from mace_jax.artifacts.atomic_write import require_absent
    from mace_jax.artifacts.model_bundle import write_model_bundle
    from mace_jax.artifacts.provenance import make_provenance
    from mace_jax.torch_models.select_head import select_head
    from mace_jax_convert.source import default_output, open_source

    if verify or predict:
        _require_network()
    source = open_source(torch_model, foundation, model_name, offline=offline)
    output = output or default_output(source)
    predictions = output.with_name(f"{output.stem}-predictions.extxyz")
    for path in [output, predictions] if predict else [output]:
        require_absent(path, force=force, inputs=[source.path])

    bundle = source.read()
    if head is not None:
        bundle = select_head(bundle, head)
    if dtype is not None and dtype != bundle.dtype:
        bundle = bundle.astype(dtype)
    if verify:
        from mace_jax_convert.verify import verified

        bundle = verified(bundle, str(source.path))
    elif dtype is not None:
        bundle = replace(bundle, parity=None)

    provenance = make_provenance(TOOL, [source.as_input()], reproducible=reproducible)
    write_model_bundle(output, bundle, provenance)
    summary = {
        "model": bundle.config.model,
        "heads": list(bundle.heads),
        "dtype": bundle.dtype,
        "parameters": sum(array.size for array in bundle.parameters.values()),
    }
    if verify and bundle.parity is not None:
        summary["errors"] = bundle.parity["errors"]
    if predict is not None:
        from mace_jax_convert.predict_beside import predict_beside

        summary["predictions"] = predict_beside(
            output, bundle, predict, predictions, reproducible=reproducible
        )
    return Result(output, summary)


def _require_network() -> None:
    """Check that what computes with a network is installed.

    Raises:
        ConfigError: it is not.
    """
    from importlib.util import find_spec

    from mace_jax.errors import ConfigError

    if any(find_spec(name) is None for name in ("jax", "flax", "extxyz", "vesin")):
        message = (
            "--predict and --verify compute with the network, which is not installed; "
            'pip install "./tools/convert[model]"'
        )
        raise ConfigError(message)
