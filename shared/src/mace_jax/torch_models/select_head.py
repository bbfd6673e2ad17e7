"""Keep one head of a model with several."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.equivariance.irreps import SCALAR, Irreps
from mace_jax.errors import ConfigError


def select_head(bundle: ModelBundle, head: str) -> ModelBundle:
    """Return the model of one head, with the same energies.

    The hidden layers of a readout lose the channels of the other heads. As a layer divides by the
    square root of its number of inputs, its weights shrink by as much.

    Raises:
        ConfigError: there is no such head.
    """
    if head not in bundle.heads:
        message = f"head {head!r}, expected one of {list(bundle.heads)}"
        raise ConfigError(message)
    index, n_heads = bundle.heads.index(head), len(bundle.heads)
    parameters = dict(bundle.parameters)
    if n_heads > 1:
        hidden = Irreps.parse(bundle.config.MLP_irreps, "MLP_irreps")[SCALAR]
        own = slice(index * hidden, (index + 1) * hidden)
        parameters |= _of_head(bundle.parameters, index, own, n_heads**-0.5)

    def only(values: Mapping[str, Any]) -> dict[str, Any]:
        return {head: values[head]} if values else {}

    return replace(
        bundle,
        heads=(head,),
        atomic_energies=only(bundle.atomic_energies),
        scale=only(bundle.scale),
        shift=only(bundle.shift),
        parameters=parameters,
        parity=None,
    )


def _of_head(
    parameters: Mapping[str, NDArray[Any]], index: int, own: slice, factor: float
) -> dict[str, NDArray[Any]]:
    """Return what changes in readouts: ``own`` channels of hidden layers, output ``index``."""
    changed = {}
    output = slice(index, index + 1)
    for path, array in parameters.items():
        if not path.startswith(("readouts/", "embedding_readout/")):
            continue
        layer = path.split("/")[-3 if "/weights/" in path else -2]
        bias = path.endswith("/bias")
        match layer:
            case "linear":
                changed[path] = array[:, output]
            case "linear_1":
                changed[path] = array[:, own]
            case "linear_mid":
                changed[path] = array[own] if bias else array[own, own] * factor
            case "linear_2":
                changed[path] = array[output] if bias else array[own, output] * factor
    return changed
