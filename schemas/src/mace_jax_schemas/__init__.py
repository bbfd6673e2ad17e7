"""The file contract of the MACE-JAX tools: one frozen JSON schema per kind and version."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

_ROOT = files(__name__)


@cache
def kinds() -> tuple[str, ...]:
    """Return the names of all kinds that have a schema."""
    return tuple(
        sorted(
            entry.name for entry in _ROOT.iterdir() if entry.joinpath("v1.schema.json").is_file()
        )
    )


@cache
def current_version(kind: str) -> int:
    """Return the newest version of ``kind``, the one that is written."""
    names = [entry.name for entry in _ROOT.joinpath(kind).iterdir()]
    return max(int(name[1:].split(".")[0]) for name in names if name.endswith(".schema.json"))


@cache
def load_schema(kind: str, version: int) -> dict[str, Any]:
    """Return the JSON schema of ``kind`` at ``version``.

    Raises:
        KeyError: there is no such kind or version.
    """
    file = _ROOT.joinpath(kind, f"v{version}.schema.json")
    if not file.is_file():
        message = f"no schema {kind} v{version}"
        raise KeyError(message)
    return json.loads(file.read_text(encoding="utf-8"))
