"""What ``--heads`` says: the files of each readout head, its E0s, and where its labels are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mace_jax.cli.options import LABELS
from mace_jax.errors import ConfigError, did_you_mean
from mace_jax.literal import parse_literal
from mace_jax.structures.head_names import why_no_head_name
from mace_jax.structures.input_files import expand_inputs

FILES = ("train_file", "valid_file", "test_file")
_OPTIONS = (*FILES, "E0s", *(f"{label}_key" for label in LABELS))


def parse_heads(text: str | None) -> dict[str, dict[str, Any]]:
    """Return the options of each head; file names become paths, a list of them or one.

    Raises:
        ConfigError: it is no dict of dicts, or names a head or an option that cannot be.
        DataError: a file is missing.
    """
    if text is None:
        return {}
    try:
        heads = {str(head): dict(options) for head, options in parse_literal(text).items()}
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
        message = (
            f"--heads: {text!r}, expected a dict of dicts, such as "
            "\"{'surface': {'train_file': 's.xyz', 'E0s': 'average'}}\""
        )
        raise ConfigError(message) from error
    except ConfigError as error:
        message = f"--heads: {error}"
        raise ConfigError(message) from error
    return {head: _checked(head, options) for head, options in heads.items()}


def _checked(head: str, options: Mapping[str, Any]) -> dict[str, Any]:
    unknown = options.keys() - {*_OPTIONS}
    what = None
    if found := why_no_head_name(head):
        what = f"the name {head!r} {found}; choose another"
    elif unknown:
        name = min(map(str, unknown))
        what = f"{head}: unknown {name}; {did_you_mean(name, _OPTIONS)}"
    elif not options.keys() & {*FILES}:
        what = f"{head}: has no data; give it a train_file"
    if what:
        message = f"--heads: {what}"
        raise ConfigError(message)
    return {name: _paths(value) if name in FILES else value for name, value in options.items()}


def _paths(given: Any) -> tuple[Path, ...]:
    names = [given] if isinstance(given, str) else given
    return tuple(expand_inputs([Path(name) for name in names]))
