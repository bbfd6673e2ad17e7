"""The command line of mace-jax-predict."""

from pathlib import Path
from typing import Any

import click

from mace_jax.cli.command import Result, ToolCommand
from mace_jax.cli.options import (
    FilePath,
    backend_option,
    compile_cache_option,
    device_option,
    head_key_option,
    label_key_options,
    reproducible_option,
    skip_bad_option,
    take_label_keys,
)


@click.command(
    cls=ToolCommand,
    tool="mace-jax-predict",
    examples=(
        "mace-jax-predict model.msgpack structures.xyz --output predictions.h5",
        "mace-jax-predict model.msgpack structures.xyz --output predictions.extxyz --json",
    ),
)
@click.argument("model", type=FilePath)
@click.argument("structures", type=FilePath, nargs=-1, required=True)
@click.option("--output", "-o", type=FilePath, required=True, help=".h5, .extxyz, .parquet or .npz")
@click.option("--head", help="readout head for all structures [default: each one's own]")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    help="of weights and computation [default: the model's]",
)
@click.option("--batch-max-edges", type=click.IntRange(1), default=8192, help="edges per batch")
@click.option("--plan", type=FilePath, help="batches that mace-jax-plan-batches made for the HDF5")
@click.option("--descriptors", is_flag=True, help="invariant features of the atoms, too")
@click.option(
    "--as-labels",
    is_flag=True,
    help="write a dataset, .xyz or .h5, whose labels are the predictions, to be trained on",
)
@click.option("--head-name", help="head of its structures [default: the readout head of each]")
@click.option("--layout", type=click.Choice(["mace", "flat"]), help="of its HDF5  [default: mace]")
@label_key_options
@head_key_option
@click.option("--info-prefix", default="MACE_", help="of the names of what is predicted in extxyz")
@skip_bad_option
@device_option
@backend_option
@compile_cache_option
@click.option("--force", "--overwrite", is_flag=True, help="replace existing output")
@reproducible_option
def main(
    model: Path,
    head: str | None,
    dtype: str | None,
    head_key: str,
    force: bool,
    **flags: Any,
) -> Result:
    """Predict all that MODEL can of STRUCTURES: energy, forces, stress and so on.

    STRUCTURES are extended XYZ (also compressed, or - for standard input), HDF5 of either layout,
    or anything else that ASE reads; several files, folders of HDF5, globs. The order is theirs.
    Where they have labels, errors are shown. With --as-labels predictions take the place of labels.
    """
    from mace_jax.artifacts.atomic_write import require_absent
    from mace_jax.artifacts.model_bundle import read_model_bundle
    from mace_jax.artifacts.predictions import require_predictions_suffix
    from mace_jax.artifacts.structures_file import require_structures_suffix
    from mace_jax.errors import ConfigError
    from mace_jax.structures.label_keys import LabelKeys
    from mace_jax.torch_models.select_head import select_head

    output = flags["output"]
    if flags["as_labels"]:
        require_structures_suffix(output)
    else:
        require_predictions_suffix(output)
    require_absent(output, force=force)
    _require_labels_alone(flags)
    _require_plan_alone(flags)
    _require_other_prefix(flags["info_prefix"])
    bundle = read_model_bundle(model)
    if head is not None:
        if head not in bundle.heads:
            message = f"--head: {head!r}, expected one of {list(bundle.heads)}"
            raise ConfigError(message)
        bundle = select_head(bundle, head)
    if dtype is not None:
        bundle = bundle.astype(dtype)
    keys = LabelKeys(take_label_keys(flags), head=head_key)

    from mace_jax_predict.run import Options, run

    flags["backend"] = flags["backend"] or "dense"
    flags["layout"] = flags["layout"] or "mace"
    return Result(output, run(Options(model=model, bundle=bundle, head=head, keys=keys, **flags)))


def _require_labels_alone(flags: dict[str, Any]) -> None:
    """Check that what only datasets or only predictions have is not asked for of the other.

    Raises:
        ConfigError: it is.
    """
    from mace_jax.errors import ConfigError

    if flags["as_labels"] and flags["descriptors"]:
        message = "--as-labels and --descriptors: a dataset has no place for them; give one of them"
        raise ConfigError(message)
    for name in ("head_name", "layout"):
        if flags[name] is not None and not flags["as_labels"]:
            flag = f"--{name.replace('_', '-')}"
            message = f"{flag}: {flags[name]!r} is of a dataset; add --as-labels or leave it out"
            raise ConfigError(message)


def _require_plan_alone(flags: dict[str, Any]) -> None:
    """Check that a plan's numbering of structures can hold.

    Raises:
        ConfigError: structures may be passed over, or are not in HDF5.
    """
    from mace_jax.artifacts.dataset import SUFFIXES
    from mace_jax.errors import ConfigError

    if flags["plan"] is None:
        return
    if flags["skip_bad"]:
        message = "--plan and --skip-bad: a plan holds every structure; give one of them"
        raise ConfigError(message)
    for path in flags["structures"]:
        if not (path.is_dir() or path.suffix in SUFFIXES):
            message = f"--plan: {path} is not HDF5, for which alone there are plans; leave it out"
            raise ConfigError(message)


def _require_other_prefix(prefix: str) -> None:
    """Check that predictions cannot take the place of labels.

    Raises:
        ConfigError: they could.
    """
    from mace_jax.artifacts.extxyz_writer import LABEL_PREFIX
    from mace_jax.errors import ConfigError

    if prefix in ("", LABEL_PREFIX):
        message = f"--info-prefix: {prefix!r} is that of labels; choose another, such as MACE_"
        raise ConfigError(message)
