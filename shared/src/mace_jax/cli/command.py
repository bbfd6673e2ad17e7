"""One behaviour for all commands: flags, exit codes, results on stdout and talk on stderr."""

import json
import logging
import sys
import traceback
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from threading import Timer
from typing import Any

import click

from mace_jax.errors import MaceJaxError

EXIT_BUG = 70
EXIT_INTERRUPTED = 130

EXIT_CODES = (
    "Exit codes: 0 done · 1 bad data or file · 2 usage · 3 a requested check failed · "
    "70 a bug · 75 stopped by a signal, can go on · 130 interrupted"
)


@dataclass(frozen=True)
class Result:
    """What a command made: printed to stdout, as a path or with ``--json`` as an object."""

    artifact: Path
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0

    def __str__(self) -> str:
        """Return what is printed without ``--json``."""
        return str(self.artifact)

    def as_json(self) -> str:
        """Return ``{artifact, sha256, summary}``; a folder has no digest of its own."""
        from mace_jax.artifacts.provenance import file_sha256

        digest = file_sha256(self.artifact) if self.artifact.is_file() else None
        return json.dumps(
            {"artifact": str(self.artifact), "sha256": digest, "summary": self.summary}
        )


class ToolCommand(click.Command):
    """A click command whose callback returns a ``Result`` and raises ``MaceJaxError``.

    Dashes and underscores in flags are the same. Every command has ``--json``, ``--quiet``,
    ``--debug`` and ``--version``.
    """

    def __init__(self, *args: Any, tool: str, examples: tuple[str, ...], **kwargs: Any) -> None:
        """Add the common flags, the examples and the exit codes.

        Args:
            args: of ``click.Command``.
            tool: distribution name, for ``--version``.
            examples: command lines shown at the end of ``--help``.
            kwargs: of ``click.Command``.
        """
        kwargs["context_settings"] = {
            "token_normalize_func": lambda token: token.replace("_", "-"),
            "help_option_names": ["-h", "--help"],
            "show_default": True,
            "max_content_width": 100,
        }
        lines = "\n".join(f"  {example}" for example in examples)
        kwargs["epilog"] = f"\b\nExamples:\n{lines}\n\n{EXIT_CODES}"
        own = kwargs.get("params") or []
        taken = {name for param in own for name in param.opts}
        common = [option for option in _common_options(tool) if not taken & set(option.opts)]
        kwargs["params"] = [*own, *common]
        super().__init__(*args, **kwargs)

    def main(self, args: list[str] | None = None, **_: Any) -> None:  # type: ignore[override]
        """Run and exit with the right code; the traceback only with ``--debug``."""
        args = sys.argv[1:] if args is None else args
        as_json = "--json" in args
        try:
            with _no_interrupt_lost():
                result = super().main(args, standalone_mode=False)
            code = 0
            if isinstance(result, Result):
                print(result.as_json() if as_json else result)
                code = result.exit_code
        except click.ClickException as error:
            code = error.exit_code
            if as_json:
                _print_error(error.format_message(), as_json=True)
            else:
                error.show()
        except MaceJaxError as error:
            code = error.exit_code
            _debug_traceback(args)
            _print_error(" ".join(str(error).split()), as_json=as_json)
        except BrokenPipeError:
            code = 0
        except OSError as error:
            code = MaceJaxError.exit_code
            _debug_traceback(args)
            _print_error(f"{error.filename}: {error.strerror or error}", as_json=as_json)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - a bug gets its code here
            code, message = _unexpected(error)
            _print_error(message, as_json=as_json)
        sys.exit(code)


@contextmanager
def _no_interrupt_lost() -> Iterator[None]:
    """Interrupt once more where Python had to ignore it, as in jax's hook of the collector."""
    previous = sys.unraisablehook

    def hook(ignored: Any) -> None:
        if ignored.exc_type is KeyboardInterrupt:
            Timer(0.01, interrupt_main).start()
        else:
            previous(ignored)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous


def _unexpected(error: BaseException) -> tuple[int, str]:
    """Tell an interrupt from a bug; click turns the interrupt, but an EOFError too, into Abort."""
    aborted = isinstance(error, click.Abort) and not isinstance(error.__cause__, EOFError)
    if aborted or isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED, "interrupted"
    traceback.print_exc()
    return EXIT_BUG, f"this is a bug, please report it: {type(error).__name__}: {error}"


def _common_options(tool: str) -> list[click.Parameter]:
    return [
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            expose_value=False,
            help="print the result, or the error, as one JSON object",
        ),
        click.Option(
            ["--quiet", "-q"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_start_logging,
            help="only warnings and errors on stderr",
        ),
        click.Option(
            ["--debug"], is_flag=True, expose_value=False, help="show the traceback of an error"
        ),
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_version_printer(tool),
            help="show the versions and exit",
        ),
    ]


def _start_logging(_context: click.Context, _option: click.Parameter, quiet: bool) -> bool:
    handler = _CurrentStderr()
    handler.setFormatter(_PlainFormatter())
    logger = logging.getLogger()
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING)
    for name in ("mace_jax", _running_package()):
        logging.getLogger(name).setLevel(logging.WARNING if quiet else logging.INFO)
    return quiet


def set_log_level(level: str) -> None:
    """Say more or less on stderr from now on; what ``--quiet`` silences stays silent."""
    for name in ("mace_jax", _running_package()):
        logger = logging.getLogger(name)
        if logger.level < logging.WARNING:
            logger.setLevel(level)


def _running_package() -> str:
    """Return the package of the running command, such as ``mace_jax_plot``."""
    context = click.get_current_context()
    return str(context.command.callback.__module__).split(".")[0]


class _CurrentStderr(logging.Handler):
    """Prints to what ``sys.stderr`` is now: a progress bar puts itself in its place for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return prefix + record.getMessage()


def _version_printer(tool: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def print_versions(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            names = dict.fromkeys((tool, "mace-jax-shared", "mace-jax-schemas"))
            print(", ".join(f"{name} {version(name)}" for name in names))
            context.exit()

    return print_versions


def _print_error(message: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": {"message": message}}))
    else:
        print(f"error: {message}", file=sys.stderr)


def _debug_traceback(args: list[str]) -> None:
    if "--debug" in args:
        traceback.print_exc()
