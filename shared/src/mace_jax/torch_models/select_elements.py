"""Keep some of the chemical elements that a model knows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.model_bundle import ModelBundle, ModelConfig
from mace_jax.elements import symbol
from mace_jax.errors import ConfigError
from mace_jax.torch_models.torch_layout import contractions, torch_layout


def select_elements(bundle: ModelBundle, atomic_numbers: Sequence[int]) -> ModelBundle:
    """Return the model of some of its elements, with the same energies.

    As a linear map of an element's one-hot divides by the square root of the number of elements,
    its weights shrink by as much.

    Args:
        bundle: the model.
        atomic_numbers: elements to keep, ascending.

    Raises:
        ConfigError: the model does not know one of them.

    Source: mace-torch ``load_foundations_elements``.
    """
    known = bundle.config.atomic_numbers
    if tuple(atomic_numbers) == known:
        return bundle
    missing = [f"{symbol(number)} ({number})" for number in atomic_numbers if number not in known]
    if missing:
        message = f"elements {', '.join(missing)}: not among those of the model, {list(known)}"
        raise ConfigError(message)
    kept = [known.index(number) for number in atomic_numbers]
    factor = (len(kept) / len(known)) ** 0.5
    scaled, plain = _by_element(bundle.config, len(bundle.heads))
    parameters = dict(bundle.parameters)
    for path, axis in plain.items():
        parameters[path] = _taken(parameters[path], kept, axis)
    for path, axis in scaled.items():
        parameters[path] = _taken(parameters[path], kept, axis) * factor
    return replace(
        bundle,
        config=replace(bundle.config, atomic_numbers=tuple(atomic_numbers)),
        atomic_energies={
            head: {number: energies[number] for number in atomic_numbers}
            for head, energies in bundle.atomic_energies.items()
        },
        parameters=parameters,
        parity=None,
    )


def _taken(array: NDArray[Any], kept: Sequence[int], axis: int) -> NDArray[Any]:
    return np.ascontiguousarray(array.take(kept, axis=axis))


def _by_element(config: ModelConfig, n_heads: int) -> tuple[dict[str, int], dict[str, int]]:
    """Return the axis that counts elements, by path: of maps of one-hots, and of other arrays."""
    scaled: dict[str, int] = {}
    plain: dict[str, int] = {}
    products = {
        part.path for contraction in contractions(config) for part in contraction.tensor.parts
    }
    for part in (part for tensor in torch_layout(config, n_heads) for part in tensor.parts):
        if part.path.endswith("covalent_radii"):
            plain[part.path] = 0
        elif part.element_axis is not None:
            (plain if part.path in products else scaled)[part.path] = part.element_axis
    return scaled, plain
