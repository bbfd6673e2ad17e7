"""The command line of mace-jax-preprocess."""

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

_LABELS = ("energy", "forces", "stress", "virials", "dipole", "charges", "polarizability")
_SCALINGS = ("rms_forces_scaling", "std_scaling", "no_scaling")


def _key_options(command: Any) -> Any:
    for name in reversed(_LABELS):
        command = click.option(
            f"--{name}-key", help=f"where {name} is read [default: REF_{name}, then {name}]"
        )(command)
    return command


class Shard(click.ParamType):
    """One part of several, such as ``2/8``."""

    name = "i/n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Parse the part and the number of parts."""
        if isinstance(value, tuple):
            return value
        numbers = value.split("/")
        if not (len(numbers) == 2 and all(number.isdigit() for number in numbers)):
            self.fail(f"{value!r} is not a part of several such as 2/8", param, ctx)
        part, n_parts = map(int, numbers)
        if not 1 <= part <= n_parts:
            self.fail(f"{value!r}: parts are counted from 1 to {n_parts}", param, ctx)
        return part, n_parts


@click.command(
    cls=ToolCommand,
    tool="mace-jax-preprocess",
    examples=(
        "mace-jax-preprocess --train_file train.xyz --valid_file valid.xyz --h5_prefix data/ "
        "--compute_statistics --E0s average",
        "mace-jax-preprocess --train_file train.xyz --valid_fraction 0.1 --h5_prefix data/ "
        "--layout flat --store-edges",
    ),
)
@click.option(
    "--train-file", type=Paths(), help="extxyz (.gz, .zst, -), HDF5 or what ASE reads; list or glob"
)
@click.option("--valid-file", type=Paths(), help="validation data; else a fraction of training")
@click.option("--test-file", type=Paths(), help="test data, one file per config_type")
@click.option("--valid-fraction", type=click.FloatRange(0, 1, max_open=True), default=0.1)
@click.option("--test-fraction", type=click.FloatRange(0, 1, max_open=True), default=0.0)
@click.option(
    "--split",
    type=click.Choice(["random", "hash", "group"]),
    default="random",
    help="how fractions are chosen: by seed, by a hash of each geometry, or group by group",
)
@click.option("--group-key", help="what names the group of a frame, for --split group")
@click.option("--h5-prefix", type=FilePath, default=Path(), help="folder of the output")
@click.option("--layout", type=click.Choice(["mace", "flat"]), default="mace", help="of the HDF5")
@click.option("--store-edges", is_flag=True, help="keep neighbours in the HDF5; layout flat only")
@click.option("--r-max", type=PositiveFloat(), default=5.0, help="cutoff of the neighbours, Å")
@click.option("--compute-statistics", is_flag=True, help="write statistics.json")
@click.option("--scaling", type=click.Choice(_SCALINGS), default=_SCALINGS[0])
@click.option("--atomic-numbers", type=AtomicNumbers(), help='such as "[1, 6, 8]"')
@click.option(
    "--E0s", "e0s", help="average, a dict such as '{1: -13.6}', or JSON [default: isolated atoms]"
)
@click.option("--shuffle", type=bool, default=True, help="shuffle train and valid")
@click.option("--seed", type=click.IntRange(0), default=123, help="of the split and the shuffle")
@click.option("--num-process", type=click.IntRange(1), default=1, help="writers, files per split")
@click.option("--batch-size", type=click.IntRange(1), default=256, help="structures at a time")
@click.option("--work-dir", type=FilePath, help="for temporary files [default: --h5_prefix]")
@click.option("--config-type-weights", default="{}", help="dict: config_type -> weight")
@_key_options
@click.option("--head-key", default="head", help="where the head of a frame is read")
@click.option("--heads", help="dict: head -> its train_file, valid_file, test_file, E0s")
@click.option("--skip-bad", type=click.IntRange(0), default=0, help="bad frames to pass over, at most")
@click.option("--check", is_flag=True, help="look for what is wrong with the data; write check.json")
@click.option("--shard", type=Shard(), help="do this part of the frames only")
@click.option("--merge", is_flag=True, help="join the parts that --shard made below --h5_prefix")
@force_option
@reproducible_option
def main(h5_prefix: Path, config_type_weights: str, **options: Any) -> Result:
    """Turn DFT data into HDF5 datasets that Torch MACE reads, too, and statistics.json."""
