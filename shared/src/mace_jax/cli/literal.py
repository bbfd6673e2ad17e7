"""Python literals on the command line."""

import ast
from typing import Any

from mace_jax.errors import ConfigError


def parse_literal(text: str) -> Any:
    """Return what a literal says; of several values of a key Python would keep the last.

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


def require_distinct(keys: list[Any]) -> None:
    """Check that no key of a mapping is there twice.

    Raises:
        ConfigError: one is.
    """
    for key in keys:
        if keys.count(key) > 1:
            message = f"{key!r} is given {keys.count(key)} times, expected once; keep one of them"
            raise ConfigError(message)
