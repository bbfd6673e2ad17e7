"""The command line of mace-jax-preprocess."""

import ast
import math
from pathlib import Path
from typing import Any

import click

from mace_jax.cli.command import Result, ToolCommand
from mace_jax.cli.options import (
    AtomicNumbers,
    FilePath,
    Paths,
    PositiveFloat,
    force_option,
    reproducible_option,
)
from mace_jax.errors import ConfigError

_LABELS = ("energy", "forces", "stress", "virials", "dipole", "charges", "polarizability")


def _key_options(command: Any) -> Any:
    for name in reversed(_LABELS):
        command = click.option(
            f"--{name}-key", help=f"where {name} is read [default: REF_{name}, then {name}]"
        )(command)
    return command


@click.command(
    cls=ToolCommand,
    tool="mace-jax-preprocess",
    examples=(
        "mace-jax-preprocess --train_file train.xyz --valid_file valid.xyz --h5_prefix data/ "
        "--compute_statistics --E0s average",
        "mace-jax-preprocess --train_file train.xyz --valid_fraction 0.1 --h5_prefix data/",
    ),
)
@click.option("--train-file", type=Paths(), required=True, help="extxyz, or a list of them")
@click.option("--valid-file", type=Paths(), help="validation data; else a fraction of training")
@click.option("--valid-fraction", type=click.FloatRange(0, 1, True, True), default=0.1)
@click.option("--test-file", type=Paths(), help="test data, one file per config_type")
@click.option("--h5-prefix", type=FilePath, default=Path(), help="folder of the output")
@click.option("--r-max", type=PositiveFloat(), default=5.0, help="cutoff of the statistics, Å")
@click.option("--compute-statistics", is_flag=True, help="write statistics.json")
@click.option("--atomic-numbers", type=AtomicNumbers(), help='such as "[1, 6, 8]"')
@click.option(
    "--E0s", "e0s", help="average, a dict such as '{1: -13.6}', or JSON [default: isolated atoms]"
)
@click.option("--shuffle", type=bool, default=True, help="shuffle train and valid")
@click.option("--seed", type=click.IntRange(0), default=123, help="of the split and the shuffle")
@click.option("--num-process", type=click.IntRange(1), default=1, help="writers, files per split")
@click.option("--config-type-weights", default="{}", help="dict: config_type -> weight")
@_key_options
@force_option
@reproducible_option
def main(h5_prefix: Path, config_type_weights: str, **options: Any) -> Result:
    """Turn DFT data (extxyz) into an HDF5 dataset that Torch MACE reads, too."""
    from mace_jax.structures.label_keys import LabelKeys
    from mace_jax_preprocess.prepare import Options, prepare

    given = {name: options.pop(f"{name}_key") for name in _LABELS}
    summary = prepare(
        Options(
            h5_prefix=h5_prefix,
            keys=LabelKeys({name: key for name, key in given.items() if key}),
            config_type_weights=_parse_weights(config_type_weights),
            **options,
        )
    )
    return Result(h5_prefix, summary)


def _parse_weights(text: str) -> dict[str, float]:
    try:
        weights = {str(name): float(weight) for name, weight in ast.literal_eval(text).items()}
    except (ValueError, SyntaxError, AttributeError, TypeError):
        weights = {"": math.nan}
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()):
        message = (
            f"--config_type_weights: {text!r}, expected a dict of numbers ≥ 0 "
            "such as '{\"Default\": 1.0}'"
        )
        raise ConfigError(message)
    return weights
