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
# layer -> what each head has of its inputs, if they are a head's own, and of its outputs
_WIDTHS: Mapping[str, tuple[str, ...]] = {
    "linear": ("one",),
    "linear_1": ("hidden",),
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


def with_heads_of(bundle: ModelBundle, other: ModelBundle) -> ModelBundle:
    """Return a model with the heads of ``other``, in its order, those that it has itself as here.

    Args:
        bundle: the model.
        other: of the same network; its other parameters don't count.
    """
    sources = {head: head if head in bundle.heads else None for head in other.heads}
    added = [head for head, source in sources.items() if source is None]
    joined = select_heads(bundle, sources, other.parameters)
    return replace(
        joined,
        atomic_energies={**joined.atomic_energies, **_of(added, other.atomic_energies)},
        scale={**joined.scale, **_of(added, other.scale)},
        shift={**joined.shift, **_of(added, other.shift)},
    )


def _of(heads: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {head: values[head] for head in heads}


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
    if list(indices) == [0] and len(bundle.heads) == 1:  # under another name
        return {}
    hidden = Irreps.parse(bundle.config.MLP_irreps, "MLP_irreps")[SCALAR]
    factor = (len(indices) / len(bundle.heads)) ** 0.5
    found = {}
    for path, array in bundle.parameters.items():
        if not path.startswith(_READOUTS):
            continue
        layer = path.split("/")[-3 if "/weights/" in path else -2]
        is_bias = path.endswith("/bias")
        parts = _WIDTHS[layer][-1:] if is_bias else _WIDTHS[layer]
        widths = [hidden if part == "hidden" else 1 for part in parts]
        scaled = array * factor if len(widths) == 2 else array
        found[path] = _blocks(scaled, widths, indices, fresh.get(path))
    return found


def _blocks(
    array: NDArray[Any],
    widths: Sequence[int],
    indices: Sequence[int | None],
    fresh: NDArray[Any] | None,
) -> NDArray[Any]:
    """Return the blocks of heads on the diagonal of the last axes, zeros beside them.

    Args:
        array: with the blocks of all heads.
        widths: of a block, along each of the last axes.
        indices: of the heads whose blocks are taken; None for one of ``fresh``.
        fresh: an array with as many blocks as are taken.
    """
    shape = [*array.shape[: array.ndim - len(widths)], *(len(indices) * w for w in widths)]
    result = np.zeros(shape, array.dtype)
    for number, index in enumerate(indices):
        own = _block(number, widths)
        if index is not None:
            result[own] = array[_block(index, widths)]
        elif fresh is not None:
            result[own] = fresh[own]
    return result


def _block(index: int, widths: Sequence[int]) -> Any:
    return (..., *(slice(index * width, (index + 1) * width) for width in widths))
