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
    head_key_option,
    label_key_options,
    reproducible_option,
    skip_bad_option,
    take_label_keys,
)
from mace_jax.errors import ConfigError
from mace_jax_preprocess.config_file import read_flags

_SCALINGS = ("rms_forces_scaling", "std_scaling", "no_scaling")


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
    "--config",
    type=FilePath,
    expose_value=False,
    callback=read_flags,  # click comes to what was given before it comes to what was not
    help="YAML file of flags, over which the command line wins",
)
@click.option(
    "--train-file",
    type=Paths(),
    help="extxyz (plain, .gz, .zst, -), HDF5, or what ASE reads; a list or glob",
)
@click.option("--valid-file", type=Paths(), help="validation data; else a fraction of training")
@click.option("--test-file", type=Paths(), help="test data, one file per config_type")
@click.option(
    "--valid-fraction",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    help="of training that becomes validation data",
)
@click.option(
    "--test-fraction",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="of training that becomes test data",
)
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
@click.option(
    "--scaling",
    type=click.Choice(_SCALINGS),
    default=_SCALINGS[0],
    help="whose scale and shift are shown; statistics.json has all",
)
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
@label_key_options
@head_key_option
@click.option("--heads", help="dict: head -> its train_file, valid_file, test_file, E0s")
@skip_bad_option
@click.option(
    "--check", is_flag=True, help="look for what is wrong with the data; write check.json"
)
@click.option(
    "--close-fraction",
    type=PositiveFloat(),
    default=0.5,
    help="for --check: atoms nearer than this share of their covalent radii",
)
@click.option("--shard", type=Shard(), help="do this part of the frames only")
@click.option("--merge", is_flag=True, help="join the parts that --shard made below --h5_prefix")
@force_option
@reproducible_option
def main(check: bool, merge: bool, **flags: Any) -> Result:
    """Turn DFT data into HDF5 datasets that Torch MACE reads, too, and statistics.json."""
    from mace_jax_preprocess.check import REPORT, check_data
    from mace_jax_preprocess.merge import merge_parts
    from mace_jax_preprocess.prepare import prepare

    options = _options(**flags)
    if merge:
        return Result(options.h5_prefix, merge_parts(options))
    if not options.sources():
        message = "--train_file: is missing; give it, or --merge to join parts"
        raise ConfigError(message)
    if check:
        return Result(options.h5_prefix / REPORT, check_data(options))
    return Result(options.folder, prepare(options))


def _options(
    train_file: tuple[Path, ...] | None,
    valid_file: tuple[Path, ...] | None,
    test_file: tuple[Path, ...] | None,
    config_type_weights: str,
    head_key: str,
    group_key: str | None,
    heads: str | None,
    shard: tuple[int, int] | None,
    **flags: Any,
) -> Any:
    """Return the flags as the rest of the tool knows them."""
    from mace_jax.structures.label_keys import LabelKeys
    from mace_jax_preprocess.options import Options

    if (flags["split"] == "group") != (group_key is not None):
        message = "--split group and --group-key: one without the other; give both or none"
        raise ConfigError(message)
    if flags["store_edges"] and flags["layout"] == "mace":
        message = "--store-edges: layout mace has no place for them; add --layout flat"
        raise ConfigError(message)
    return Options(
        train_file=_expanded(train_file),
        valid_file=_expanded(valid_file),
        test_file=_expanded(test_file),
        config_type_weights=_parse_weights(config_type_weights),
        keys=LabelKeys(take_label_keys(flags), head=head_key, group=group_key),
        heads=_parse_heads(heads),
        part=(shard[0] - 1, shard[1]) if shard else None,
        **flags,
    )


def _expanded(patterns: tuple[Path, ...] | None) -> tuple[Path, ...]:
    from mace_jax.structures.input_files import expand_inputs

    return tuple(expand_inputs(patterns or ()))


def _parse_heads(text: str | None) -> dict[str, dict[str, Any]]:
    """Read ``--heads``, a dict of dicts; file names become paths, a list of them or one."""
    if text is None:
        return {}
    names = {"train_file", "valid_file", "test_file", "E0s"}
    try:
        heads = {str(head): dict(files) for head, files in ast.literal_eval(text).items()}
        known = all(files and files.keys() <= names for files in heads.values())
    except (ValueError, SyntaxError, AttributeError, TypeError):
        known = False
    if not known:
        message = (
            f"--heads: {text!r}, expected a dict of dicts with some of {sorted(names)}, such as "
            "\"{'surface': {'train_file': 's.xyz', 'E0s': 'average'}}\""
        )
        raise ConfigError(message)
    for files in heads.values():
        for name in names & files.keys() - {"E0s"}:
            paths = [files[name]] if isinstance(files[name], str) else files[name]
            files[name] = _expanded(tuple(map(Path, paths)))
    return heads


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
