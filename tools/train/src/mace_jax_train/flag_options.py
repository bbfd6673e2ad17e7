"""The flags as options of click, and what was given of them."""

import logging
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

import click

from mace_jax.artifacts.train_config_fields import FIELDS, choices, is_optional, without_none
from mace_jax.cli.command import ToolCommand
from mace_jax.cli.options import AtomicNumbers, Paths
from mace_jax.errors import ConfigError
from mace_jax.literal import parse_literal, require_distinct
from mace_jax_train.flags import FLAGS, IGNORED, TITLES, Flag
from mace_jax_train.replay_finetuning import REPLAY_FIELDS

log = logging.getLogger(__name__)

_GIVEN = f"{__name__}.given"
_PAIR = r"\s*[^\s=,{]+\s*=\s*[-+.\deE]+\s*"
_PAIRS = re.compile(f"{_PAIR}(,{_PAIR})*")


class _Nothing:
    """What the word ``None`` stands for, because None is a flag that was not given."""


_NOTHING = _Nothing()


class _OrNone(click.ParamType):
    """What another type takes, or the word None."""

    def __init__(self, kind: click.ParamType) -> None:
        self.kind, self.name = kind, kind.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the value."""
        return _NOTHING if value in ("None", _NOTHING) else self.kind.convert(value, param, ctx)


class _Literal(click.ParamType):
    """A Python literal, or ``name=number,…``; what it must be is checked with the configuration."""

    name = "literal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the literal."""
        try:
            if isinstance(value, str):
                return _pairs(value) if _PAIRS.fullmatch(value) else parse_literal(value)
            return value
        except (ValueError, SyntaxError):
            self.fail(f"{value!r} is not a literal such as \"{{'Default': 1.0}}\"", param, ctx)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


def _pairs(text: str) -> dict[str, float]:
    pairs = [pair.split("=") for pair in text.split(",")]
    found = {name.strip(): float(number) for name, number in pairs}
    require_distinct([name.strip() for name, _ in pairs])
    return found


class _PathOrPaths(click.ParamType):
    """A path, or a list literal of paths."""

    name = "path or list"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | tuple[str, ...]:
        """Parse the path or list."""
        if not str(value).strip().startswith("["):
            return str(value)
        return tuple(map(str, Paths().convert(value, param, ctx)))


class _ConfigOption(click.Option):
    """The option of a flag: it keeps what was given instead of passing it on."""

    def __init__(self, flag: Flag) -> None:
        super().__init__(
            flag.names.split(),
            default=None,
            help=flag.help,
            hidden=flag.hidden,
            expose_value=False,
            callback=self._keep,
            **_settings(flag),
        )
        self.flag = flag
        self.title = next(
            title for name, title in reversed(TITLES.items()) if flag.target.startswith(name)
        )

    def _keep(self, ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value in (None, ()):
            return
        if self.flag.value is not None:
            value = self.flag.value
        elif self.flag.words:
            value = self.flag.words[value]
        elif self.flag.parse:
            value = self.flag.parse(value)
        given: list[tuple[Flag, Any]] = ctx.meta.setdefault(_GIVEN, [])
        given.append((self.flag, None if value is _NOTHING else value))


def _settings(flag: Flag) -> dict[str, Any]:
    """Return what click needs to know of the values that a flag takes."""
    hint = {**FIELDS, **REPLAY_FIELDS}[flag.target]
    kind = without_none(hint)
    if flag.value is not None:
        return {"is_flag": True, "flag_value": True}
    if flag.parse:
        return {"type": click.STRING}
    if words := flag.words or choices(hint):
        # with a metavar of its own, because click would write the words with dashes
        return {"type": click.Choice(list(words)), "metavar": f"[{'|'.join(words)}]"}
    if kind is bool:
        return {"type": click.BOOL, "is_flag": "/" in flag.names}
    if get_origin(kind) is tuple and str in get_args(kind):
        return {"type": click.STRING, "multiple": True}
    found = _type(kind)
    return {"type": _OrNone(found) if is_optional(hint) else found}


def _type(kind: Any) -> click.ParamType:
    """Return what parses the value of a flag of this type."""
    plain: dict[Any, click.ParamType] = {int: click.INT, float: click.FLOAT, str: click.STRING}
    if tuple[str, ...] in get_args(kind):
        return _PathOrPaths()
    return plain.get(kind) or (AtomicNumbers() if get_origin(kind) is tuple else _Literal())


def _ignored_option(name: str) -> click.Option:
    """Return an option that only warns, unless it asks for what is done anyway."""
    words, used = IGNORED[name]

    def warn(_ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value is not None and not used.startswith(f"{value} "):
            log.warning("%s %s: %s", name, value, used)

    return click.Option(
        [name],
        type=click.Choice(words) if words else click.FLOAT,
        expose_value=False,
        callback=warn,
        hidden=True,
        help=used,
    )


def config_options() -> list[click.Parameter]:
    """Return the options of all flags; ``given_flags`` says what was given."""
    return [*map(_ConfigOption, FLAGS), *map(_ignored_option, IGNORED)]


def given_flags(ctx: click.Context) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return section -> name -> value of the flags that were given, and which flag set each.

    Raises:
        click.UsageError: two of them contradict each other.
    """
    weak: dict[str, tuple[str, Any]] = {}
    strong: dict[str, tuple[str, Any]] = {}
    for flag, value in ctx.meta.get(_GIVEN, []):
        name = re.split("[ /]", flag.names)[0]
        other, before = strong.get(flag.target, (name, value))
        if not flag.weak and before is not value and before != value:
            message = f"{other} and {name} contradict each other; give one of them"
            raise click.UsageError(message, ctx)
        (weak if flag.weak else strong)[flag.target] = name, value
        section = flag.target.partition(".")[0]
        if section in ("wandb_run", "tensorboard"):
            weak[f"{section}.enabled"] = name, True
    given = weak | strong
    values = {target: value for target, (_, value) in given.items()}
    return _nested(values), {target: name for target, (name, _) in given.items()}


def _nested(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return values by dotted name as sections inside sections."""
    sections: dict[str, dict[str, Any]] = {}
    for name in sorted(values, key=lambda name: name.count(".")):
        *path, key = name.split(".")
        inner: dict[str, Any] = sections
        for part in path:
            inner = inner.setdefault(part, {})
        inner[key] = dict(values[name]) if values[name] == {} else values[name]
    return sections


class TrainCommand(ToolCommand):
    """The command: its help by sections, its errors with the nearest flag.

    It does not wait for the other processes of a run when it has failed.
    """

    def main(self, args: list[str] | None = None, **_: Any) -> None:  # type: ignore[override]
        """Run and exit."""
        try:
            super().main(args)
        except SystemExit as end:
            if "mace_jax_train.processes" in sys.modules:
                from mace_jax_train.processes import leave

                leave(int(end.code or 0))
            raise

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and say of an unknown flag what it may have meant."""
        try:
            return super().parse_args(ctx, list(_joined(list(_switched(args)))))
        except click.NoSuchOption as error:
            name = error.option_name
            if "." in name:
                message = f"No such option {name!r}. A binding is given as -b {name[2:]}=VALUE."
                raise click.UsageError(message, ctx) from error
            options = [param for param in self.params if isinstance(param, click.Option)]
            shown = [option for option in options if not option.hidden]
            names = [name for option in shown for name in (*option.opts, *option.secondary_opts)]
            raise click.NoSuchOption(name, possibilities=names, ctx=ctx) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of each section under a title of their own."""
        titled: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if isinstance(param, click.Option) and record:
                titled[getattr(param, "title", "Options")].append(record)
        for title in ("Options", *TITLES.values()):
            with formatter.section(title):
                formatter.write_dl(titled[title])


# flags that take several values, as of argparse, and what is one
_SEVERAL: Mapping[str, Callable[[str], bool]] = {
    "--atomic-numbers": str.isdecimal,
    "--heads": lambda arg: arg.isidentifier(),
}


# switches that mace_run_train gives the words True and False
_TOLD = ("--multiheads-finetuning", "--force-mh-ft-lr")


def _switched(args: Sequence[str]) -> Iterator[str]:
    """Yield arguments, where ``--multiheads_finetuning=True`` and such are switches."""
    waiting = ""
    for arg in args:
        name, _, word = arg.partition("=")
        flag = name.replace("_", "-")
        if waiting and arg.lower() in ("true", "false"):
            yield waiting if arg.lower() == "true" else waiting.replace("--", "--no-", 1)
            waiting = ""
            continue
        if waiting:
            yield waiting
        waiting = flag if flag in _TOLD and not word else ""
        if flag in _TOLD and word.lower() in ("true", "false"):
            yield flag if word.lower() == "true" else flag.replace("--", "--no-", 1)
        elif not waiting:
            yield arg
    if waiting:
        yield waiting


def _joined(args: Sequence[str]) -> Iterator[str]:
    """Make one value of the numbers in ``--atomic-numbers 1 6 8``, and of names of heads."""
    values: list[str] | None = None
    is_one: Callable[[str], bool] = str.isdecimal
    for arg in (*args, None):
        if values is not None and arg is not None and is_one(arg):
            values.append(arg)
            continue
        if values:
            yield " ".join(values)
        if arg is None:
            return
        flag = arg.replace("_", "-")
        values, is_one = ([], _SEVERAL[flag]) if flag in _SEVERAL else (None, is_one)
        yield arg
