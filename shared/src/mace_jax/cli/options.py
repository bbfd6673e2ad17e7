"""Flags and parameter types that several commands have."""

import ast
import math
from pathlib import Path
from typing import Any

import click

from mace_jax.elements import MAX_ATOMIC_NUMBER

FilePath = click.Path(path_type=Path)

LABELS = ("energy", "forces", "stress", "virials", "dipole", "charges", "polarizability")

force_option = click.option("--force", is_flag=True, help="replace existing output")
reproducible_option = click.option(
    "--reproducible",
    is_flag=True,
    help="leave time, host and command line out of the files: same inputs, same bytes",
)

compile_cache_option = click.option(
    "--compile-cache/--no-compile-cache",
    default=True,
    help="keep compiled programs for later runs",
)

backend_option = click.option(
    "--backend",
    type=click.Choice(["dense", "cueq"]),
    help="plain jax, or the kernels of cuequivariance  [default: dense]",
)

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "tpu"]),
    default="auto",
    help="where to compute; auto: as jax chooses",
)

head_key_option = click.option("--head-key", default="head", help="key of the head in the input")

skip_bad_option = click.option(
    "--skip-bad", type=click.IntRange(0), default=0, help="bad frames to pass over, at most"
)


def label_key_options(command: Any) -> Any:
    """Add a flag for the key of each label, such as ``--energy-key``."""
    for name in reversed(LABELS):
        command = click.option(
            f"--{name}-key", help=f"key of {name} in the input [default: REF_{name}, then {name}]"
        )(command)
    return command


def take_label_keys(flags: dict[str, Any]) -> dict[str, str]:
    """Take the flags of ``label_key_options`` out of ``flags``; return those that were given."""
    keys = {name: flags.pop(f"{name}_key") for name in LABELS}
    return {name: key for name, key in keys.items() if key}


class PositiveFloat(click.ParamType):
    """A finite number above zero."""

    name = "number > 0"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse the number."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            self.fail(f"{value!r} is not a number above 0", param, ctx)
        return number


class AtomicNumbers(click.ParamType):
    """A list literal such as ``[1, 6, 8]``, or numbers separated by commas or spaces."""

    name = "list"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Parse the list."""
        if isinstance(value, tuple):
            return value
        try:
            text = (
                value
                if value.strip().startswith("[")
                else f"[{','.join(value.replace(',', ' ').split())}]"
            )
            numbers = tuple(ast.literal_eval(text))
            if not all(isinstance(number, int) for number in numbers):
                numbers = ()
        except (ValueError, SyntaxError, TypeError):
            numbers = ()
        if not numbers or min(numbers) < 1 or max(numbers) > MAX_ATOMIC_NUMBER:
            self.fail(f'{value!r} is not a list of atomic numbers such as "[1, 6, 8]"', param, ctx)
        return numbers


class Paths(click.ParamType):
    """A path, or a list literal of paths such as ``['a.xyz', 'b.xyz']``."""

    name = "path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Path, ...]:
        """Parse the path or list."""
        if isinstance(value, tuple):
            return value
        if not value.strip().startswith("["):
            return (Path(value),)
        try:
            paths = tuple(Path(path) for path in ast.literal_eval(value))
        except (ValueError, SyntaxError, TypeError):
            paths = ()
        if not paths:
            self.fail(f"{value!r} is not a path or a list of paths", param, ctx)
        return paths
