"""Values that users write as Python literals or JSON; nothing in them may be given twice."""

import ast
import json
from typing import Any

from mace_jax.errors import ConfigError


def parse_literal(text: str) -> Any:
    """Return what a Python literal says.

    Raises:
        ValueError, SyntaxError: it is none.
        ConfigError: a dict in it has a key twice.
    """
    tree = ast.parse(text.strip(), mode="eval")
    found = ast.literal_eval(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            require_distinct([ast.literal_eval(key) for key in node.keys if key])
    return found


def parse_json(text: str) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: it is none.
        ConfigError: an object in it has a key twice.
    """

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        require_distinct([key for key, _ in pairs])
        return dict(pairs)

    return json.loads(text, object_pairs_hook=mapping)


def require_distinct(keys: list[Any]) -> None:
    """Check that no key of a mapping is there twice, of which Python would keep the last value.

    Raises:
        ConfigError: one is.
    """
    for key in keys:
        if keys.count(key) > 1:
            message = f"{key!r} is given {keys.count(key)} times, expected once; keep one of them"
            raise ConfigError(message)
