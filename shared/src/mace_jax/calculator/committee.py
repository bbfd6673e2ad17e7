"""The bundles of a committee, found by name or pattern; one graph serves all."""

from collections.abc import Iterable, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from mace_jax.architecture import model_inputs
from mace_jax.artifacts.model_bundle import ModelBundle, read_model_bundle
from mace_jax.calculator.results import property_names
from mace_jax.elements import symbol
from mace_jax.errors import ConfigError, IncompatibleError

_DTYPES = ("float32", "float64")


def read_committee(
    model: Path | str | Sequence[Path | str], dtype: str | None
) -> dict[str, ModelBundle]:
    """Return the bundles by file, of one dtype.

    Args:
        model: a bundle, a pattern such as ``committee/*.msgpack``, or a list of such.
        dtype: of all; by default that of the bundles.

    Raises:
        ArtifactError: a bundle is missing or damaged.
        ConfigError: a pattern matches nothing, or the dtype is impossible.
        IncompatibleError: two bundles differ in elements, heads, inputs or what they predict.
    """
    if dtype not in (None, *_DTYPES):
        message = f"dtype: {dtype!r}, expected one of {list(_DTYPES)}; correct the dtype"
        raise ConfigError(message)
    paths = _files([model] if isinstance(model, (str, Path)) else model)
    bundles = {str(path): read_model_bundle(path) for path in paths}
    _check_alike(bundles)
    dtypes = {bundle.dtype for bundle in bundles.values()}
    if dtype is None and len(dtypes) > 1:
        message = "dtype: bundles of float32 and of float64; say which with dtype"
        raise ConfigError(message)
    return {
        name: bundle if dtype in (None, bundle.dtype) else bundle.astype(str(dtype))
        for name, bundle in bundles.items()
    }


def _files(models: Iterable[Path | str]) -> list[Path]:
    """Return the files that are named or match a pattern, by name, each once."""
    found: list[Path] = []
    for model in models:
        pattern = str(model)
        is_name = Path(model).exists() or not set(pattern) & set("*?[")
        matches = [Path(model)] if is_name else sorted(map(Path, glob(pattern)))  # noqa: PTH207 - absolute patterns
        if not matches:
            message = f"model: {pattern} matches no file, expected one at least; correct the path"
            raise ConfigError(message)
        found += matches
    if not found:
        message = "model: no bundle, expected one at least; name a file"
        raise ConfigError(message)
    return list(dict.fromkeys(found))


def _check_alike(bundles: dict[str, ModelBundle]) -> None:
    """Check that one graph serves all bundles, and that their predictions have a mean."""
    (first, expected), *others = ((name, _character(one)) for name, one in bundles.items())
    for name, found in others:
        for what, value in found.items():
            if value != expected[what]:
                message = (
                    f"{name}: {what} {value}, expected {expected[what]} as in {first}; "
                    "leave one of the two out of the committee"
                )
                raise IncompatibleError(message)


def _character(bundle: ModelBundle) -> dict[str, Any]:
    """Return what the members of a committee share, in words that a message can use."""
    return {
        "elements": " ".join(map(symbol, bundle.config.atomic_numbers)),
        "heads": list(bundle.heads),
        "predictions": property_names(bundle.config, 1),
        "inputs": [repr(spec) for spec in model_inputs(bundle.config)],
    }
