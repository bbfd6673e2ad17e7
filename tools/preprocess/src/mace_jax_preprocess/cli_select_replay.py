"""The command line of mace-jax-select-replay."""

from pathlib import Path
from typing import Any

import click

from mace_jax.cli.command import Result, ToolCommand
from mace_jax.cli.options import (
    FilePath,
    compile_cache_option,
    device_option,
    force_option,
    head_key_option,
    label_key_options,
    reproducible_option,
    skip_bad_option,
    take_label_keys,
)
from mace_jax.elements import SYMBOLS
from mace_jax.errors import ConfigError

_FILTERING_TYPES = ("combinations", "exclusive", "inclusive", "none")
_METHODS = ("random", "farthest-point", "stratified")
_NUMBERS = {name: z for z, symbol in enumerate(SYMBOLS) if z for name in (symbol, str(z))}


class Elements(click.ParamType):
    """Chemical symbols or atomic numbers, separated by commas or blanks."""

    name = "elements"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> frozenset[int]:
        """Return atomic numbers."""
        if isinstance(value, frozenset):
            return value
        words = value.strip().strip("[]").replace(",", " ").split()
        unknown = [word for word in words if word not in _NUMBERS]
        if unknown or not words:
            found = f"unknown element {unknown[0]!r}" if unknown else f"{value!r} names no element"
            self.fail(f"{found}; give symbols or atomic numbers, such as H,C,O", param, ctx)
        return frozenset(_NUMBERS[word] for word in words)


@click.command(
    cls=ToolCommand,
    tool="mace-jax-preprocess",
    examples=(
        "mace-jax-select-replay train.xyz --number 5 --elements H,C,O --output replay.xyz",
        "mace-jax-select-replay data/train --number 5 --method farthest-point "
        "--model model.msgpack --head pt_head --output replay.h5",
    ),
)
@click.argument("structures", type=FilePath, nargs=-1, required=True)
@click.option("--output", "-o", type=FilePath, required=True, help=".xyz, .extxyz or .h5")
@click.option("--number", "-n", type=click.IntRange(1), help="of structures [default: all]")
@click.option(
    "--method",
    type=click.Choice(_METHODS),
    default=_METHODS[0],
    help="by chance, far from each other as --model sees them, or as many of each composition",
)
@click.option("--model", type=FilePath, help="bundle, for --method farthest-point")
@click.option("--elements", type=Elements(), help="such as H,C,O")
@click.option("--elements-of", type=FilePath, help="file whose elements are taken, as --elements")
@click.option(
    "--filtering-type",
    type=click.Choice(_FILTERING_TYPES),
    help="no elements but these, exactly these, or all of these at least "
    "[default: combinations with elements, none without]",
)
@click.option("--seed", type=click.IntRange(0), default=123, help="of chance")
@click.option("--head", help="head of what is written [default: each structure's own]")
@click.option("--allow-fewer", is_flag=True, help="take all where there are fewer than --number")
@click.option("--layout", type=click.Choice(["mace", "flat"]), default="mace", help="of HDF5")
@label_key_options
@head_key_option
@click.option(
    "--keep",
    multiple=True,
    help="further entry or column that extended XYZ keeps, such as total_charge; may be repeated",
)
@skip_bad_option
@click.option(
    "--batch-max-edges", type=click.IntRange(1), default=8192, help="edges per batch of the model"
)
@device_option
@compile_cache_option
@force_option
@reproducible_option
def main(
    structures: tuple[Path, ...],
    elements: frozenset[int] | None,
    filtering_type: str | None,
    head_key: str,
    **flags: Any,
) -> Result:
    """Choose structures of a model's training data, to be trained on again beside new data.

    STRUCTURES are extended XYZ (also compressed, or - for standard input), HDF5 of either layout,
    or anything else that ASE reads; several files, folders of HDF5, globs. Labels stay what they
    are. Beside the output stands which structures they are, <output>.selection.json.
    """
    from mace_jax.artifacts.structures_file import require_structures_suffix
    from mace_jax.structures.input_files import expand_inputs
    from mace_jax.structures.label_keys import LabelKeys
    from mace_jax_preprocess.select_replay import ReplayOptions, select_replay

    output = flags["output"]
    require_structures_suffix(output)
    _require_model(flags)
    kind = _filtering_type(filtering_type, elements, flags["elements_of"])
    keys = LabelKeys(take_label_keys(flags), head=head_key)
    options = ReplayOptions(
        structures=tuple(expand_inputs(structures)),
        elements=elements or frozenset(),
        filtering_type=kind,
        keys=keys,
        **flags,
    )
    return Result(output, select_replay(options))


def _require_model(flags: dict[str, Any]) -> None:
    """Check that there is a model where one is needed, and only there.

    Raises:
        ConfigError: it is missing or has no use, or jax is not installed.
    """
    from mace_jax_preprocess.model_descriptors import require_jax

    farthest = flags["method"] == "farthest-point"
    if farthest != (flags["model"] is not None):
        message = "--method farthest-point and --model: one without the other; give both or none"
        raise ConfigError(message)
    if farthest and flags["number"] is None:
        message = "--method farthest-point: chooses nothing without --number; give how many"
        raise ConfigError(message)
    if farthest:
        require_jax()


def _filtering_type(
    given: str | None, elements: frozenset[int] | None, elements_of: Path | None
) -> Any:
    """Return what the elements mean.

    Raises:
        ConfigError: there are none to mean something, or they are given twice.
    """
    if elements is not None and elements_of is not None:
        message = "--elements and --elements-of: both say which elements; give one of them"
        raise ConfigError(message)
    has_elements = elements is not None or elements_of is not None
    if given is None:
        return "combinations" if has_elements else "none"
    if has_elements != (given != "none"):
        message = (
            f"--filtering-type: {given} {'with' if has_elements else 'without'} --elements; "
            f"{'leave one out' if has_elements else 'give --elements or --elements-of'}"
        )
        raise ConfigError(message)
    return given


if __name__ == "__main__":
    main()
