"""Heads as they may be written: names, or a mapping of names to options, in gin, JSON or YAML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mace_jax.errors import ConfigError
from mace_jax.literal import parse_json, parse_literal, require_distinct

# names of the same in mace_run_train
_MEANS = {f"{split}_file": f"{split}_path" for split in ("train", "valid", "test")}
_ONE_HEAD = ("Default",)  # what mace-jax writes where there are no heads


def head_sections(value: Any) -> Any:
    """Return the sections of heads, as plain data; what is something else is left as it is.

    Args:
        value: names, or a mapping of names to options. ``train_file`` is ``train_path``, and
            ``info_keys`` and ``arrays_keys`` map labels to keys, as in ``mace_run_train``.

    Raises:
        ConfigError: a name is mapped to something else than options.
    """
    if value is None:
        return ()
    if isinstance(value, Mapping):
        return tuple({"name": str(name), **_options(str(name), own)} for name, own in value.items())
    names = (value,) if isinstance(value, str) else value
    if isinstance(names, tuple | list) and all(isinstance(name, str) for name in names):
        return () if tuple(names) == _ONE_HEAD else tuple({"name": name} for name in names)
    return value


def _options(name: str, given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        message = (
            f"datasets.heads: {name}: {given!r}, expected a mapping of options; name its data as "
            "train_path"
        )
        raise ConfigError(message)
    options = {_MEANS.get(str(name), str(name)): value for name, value in given.items()}
    for group in ("info_keys", "arrays_keys"):
        keys = options.pop(group, None) or {}
        options |= {f"{label}_key": key for label, key in keys.items()}
    if isinstance(options.get("E0s"), Mapping):
        options["E0s"] = repr(dict(options["E0s"]))
    return {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}


def parse_heads(text: str) -> Any:
    """Return what ``--heads`` says: a mapping or list as a literal, or names.

    Raises:
        ConfigError: it begins like a literal, but is none, or names something twice.
    """
    if not text.strip().startswith(("{", "[", "(")):
        return tuple(text.replace(",", " ").split())
    try:
        return parse_literal(text)
    except (ValueError, SyntaxError) as error:
        message = f"--heads: {text!r} is not a literal such as \"{{'pbe': {{'weight': 2}}}}\""
        raise ConfigError(message) from error
    except ConfigError as error:
        message = f"--heads: {error}"
        raise ConfigError(message) from error


def read_heads(name: str) -> Any:
    """Return what the file of ``--heads-config`` says; a mapping inside ``heads`` stands for it.

    Raises:
        ConfigError: it is missing, neither JSON nor YAML with a mapping, or names something twice.
    """
    import yaml

    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
        found = parse_json(text) if path.suffix == ".json" else _yaml(text)
    except ConfigError as error:
        message = f"{path}: {error}"
        raise ConfigError(message) from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        message = f"{path}: cannot be read ({' '.join(str(error).split())}); give JSON or YAML"
        raise ConfigError(message) from error
    inner = found.get("heads") if isinstance(found, Mapping) and len(found) == 1 else None
    found = inner if isinstance(inner, Mapping) else found
    if not isinstance(found, Mapping) or not found:
        message = f"{path}: expected a mapping of head names to options; see --heads-config"
        raise ConfigError(message)
    return found


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """One that does not let the last of several values win."""

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
        require_distinct([key.value for key, _ in node.value])
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return yaml.load(text, Loader)  # noqa: S506 -- a safe one
