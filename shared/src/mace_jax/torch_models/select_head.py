"""Keep heads of a model, in any order and under any name, some of them more than once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.equivariance.irreps import SCALAR, Irreps
from mace_jax.errors import ConfigError

_READOUTS = ("readouts/", "embedding_readout/")
# layer -> what each head has of its inputs, and of its outputs: hidden channels or a single one;
# inputs that all heads share have none
_WIDTHS: Mapping[str, tuple[str | None, str]] = {
    "linear": (None, "one"),
    "linear_1": (None, "hidden"),
    "linear_mid": ("hidden", "hidden"),
    "linear_2": ("hidden", "one"),
}


def select_head(bundle: ModelBundle, head: str) -> ModelBundle:
    """Return the model of one head, with the same energies.

    Raises:
        ConfigError: there is no such head.
    """
    return select_heads(bundle, {head: head})


def select_heads(
    bundle: ModelBundle,
    sources: Mapping[str, str | None],
    fresh: Mapping[str, NDArray[Any]] | None = None,
) -> ModelBundle:
    """Return the model of some heads, each with the energies of the head that it comes from.

    The hidden layers of a readout have the channels of all heads; what they would do with those of
    another head is 0, because it has no effect. As a layer divides by the square root of its number
    of inputs, its weights change by as much.

    Args:
        bundle: the model.
        sources: name of a head -> head of ``bundle`` whose readout, E0s, scale and shift it has; or
            None for one from ``fresh`` without E0s, with scale 1 and shift 0.
        fresh: arrays of a network with as many heads, by path, for those.

    Raises:
        ConfigError: there is no such head.
    """
    for source in sources.values():
        if source is not None and source not in bundle.heads:
            message = f"head {source!r}, expected one of {list(bundle.heads)}"
            raise ConfigError(message)
    if tuple(sources.items()) == tuple(zip(bundle.heads, bundle.heads, strict=True)):
        return bundle
    indices = [
        None if source is None else bundle.heads.index(source) for source in sources.values()
    ]
    return replace(
        bundle,
        heads=tuple(sources),
        atomic_energies=_of_sources(bundle.atomic_energies, sources, {}),
        scale=_of_sources(bundle.scale, sources, 1.0),
        shift=_of_sources(bundle.shift, sources, 0.0),
        parameters={**bundle.parameters, **_readouts(bundle, indices, fresh or {})},
        parity=None,
    )


def _of_sources(
    values: Mapping[str, Any], sources: Mapping[str, str | None], without: Any
) -> dict[str, Any]:
    if not values:
        return {}
    return {head: without if source is None else values[source] for head, source in sources.items()}


def _readouts(
    bundle: ModelBundle, indices: Sequence[int | None], fresh: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the arrays of readouts, with the channels of some heads, by path."""
    n_before, n_heads = len(bundle.heads), len(indices)
    hidden = Irreps.parse(bundle.config.MLP_irreps, "MLP_irreps")[SCALAR]
    factor = (n_heads / n_before) ** 0.5
    found = {}
    for path, array in bundle.parameters.items():
        if not path.startswith(_READOUTS):
            continue
        layer = path.split("/")[-3 if "/weights/" in path else -2]
        inputs, outputs = _WIDTHS[layer]
        widths = [hidden if width == "hidden" else 1 for width in (inputs, outputs) if width]
        if path.endswith("/bias"):
            widths = widths[-1:]
        is_scaled = inputs == "hidden" and not path.endswith("/bias")
        shape = [*array.shape[: array.ndim - len(widths)], *(n_heads * width for width in widths)]
        result = np.zeros(shape, array.dtype)
        for to, index in enumerate(indices):
            own = tuple(slice(to * width, (to + 1) * width) for width in widths)
            if index is None:
                result[(..., *own)] = fresh[path][(..., *own)]
                continue
            theirs = tuple(slice(index * width, (index + 1) * width) for width in widths)
            result[(..., *own)] = array[(..., *theirs)] * (factor if is_scaled else 1.0)
        found[path] = result
    return found
