"""Between a network and the parameter table of a model bundle."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from mace_jax.architecture import READOUT_IRREPS, architecture, model_inputs, predicts_energy
from mace_jax.artifacts.model_bundle import ModelBundle, ModelConfig
from mace_jax.batching.graph import GraphBuilder
from mace_jax.errors import ArtifactError, ConfigError
from mace_jax.model.backend import DENSE, Backend
from mace_jax.model.constant import Constant
from mace_jax.model.mace import MACE, DipoleMACE


def build_model(
    config: ModelConfig,
    *,
    scale: Sequence[float],
    shift: Sequence[float],
    dtype: str,
    rng: np.random.Generator,
    backend: Backend = DENSE,
) -> MACE | DipoleMACE:
    """Build the network of the class that ``config`` names, with random weights.

    Args and raises as in ``MACE``.
    """
    if config.model in READOUT_IRREPS:
        return DipoleMACE(config, dtype=dtype, rng=rng, backend=backend)
    return MACE(config, scale=scale, shift=shift, dtype=dtype, rng=rng, backend=backend)


def load_model(bundle: ModelBundle, source: str, backend: Backend = DENSE) -> MACE | DipoleMACE:
    """Build the network of a bundle.

    Args:
        bundle: configuration and parameters.
        source: the bundle's file, for messages.
        backend: what computes the costly parts.

    Raises:
        ArtifactError: the configuration is impossible, or parameters are missing, left over, or
            of another shape.
    """
    try:
        architecture(bundle.config)
    except ConfigError as error:
        message = f"{source}: header/model/{error}; get the file again"
        raise ArtifactError(message) from error
    _check_heads(bundle, source)
    heads = bundle.heads if predicts_energy(bundle.config) else ()
    model = build_model(
        bundle.config,
        scale=[bundle.scale[head] for head in heads],
        shift=[bundle.shift[head] for head in heads],
        dtype=bundle.dtype,
        rng=np.random.default_rng(0),
        backend=backend,
    )
    _check_parameters(model_parameters(model), dict(bundle.parameters), source)
    state = nnx.state(model)
    leaves = {
        path: leaf.replace(jnp.asarray(bundle.parameters[_name(path)]))
        for path, leaf in nnx.to_flat_state(state)
    }
    nnx.update(model, nnx.from_flat_state(leaves))
    return model


def split_trainable(
    model: MACE | DipoleMACE,
) -> tuple[Callable[[nnx.State], MACE], nnx.State]:
    """Return the trained arrays of a network, and the network as a function of them."""
    parts: Any = nnx.split(model, nnx.Param, Constant)
    graphdef, parameters, constants = parts
    return lambda parameters: nnx.merge(graphdef, parameters, constants), parameters


def model_parameters(model: MACE | DipoleMACE) -> dict[str, NDArray[np.floating]]:
    """Return the arrays of a network, trained or constant, by path: ``products/0/linear/…``."""
    return parameter_table(nnx.state(model))


def parameter_table(state: nnx.State) -> dict[str, NDArray[np.floating]]:
    """Return the arrays of a parameter state by path."""
    return {_name(path): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}


def graph_builder(bundle: ModelBundle) -> GraphBuilder:
    """Return what turns structures into this bundle's graphs."""
    return GraphBuilder(
        bundle.config.r_max,
        bundle.config.atomic_numbers,
        bundle.heads,
        bundle.atomic_energies,
        model_inputs(bundle.config),
    )


def _name(path: Iterable[Any]) -> str:
    return "/".join(str(part) for part in path)


def _check_heads(bundle: ModelBundle, source: str) -> None:
    """Check that each head has what a model of energies needs of it."""
    heads = set(bundle.heads) if predicts_energy(bundle.config) else set()
    for name in ("atomic_energies", "scale", "shift"):
        found = set(getattr(bundle, name))
        if found != heads:
            message = (
                f"{source}: header/{name}: of heads {sorted(found)}, expected {sorted(heads)}; "
                "get the file again"
            )
            raise ArtifactError(message)


def _check_parameters(
    expected: dict[str, NDArray[np.floating]], found: dict[str, NDArray[np.floating]], source: str
) -> None:
    remedy = "bundle and configuration disagree; get the file again"
    for name in sorted(expected.keys() ^ found.keys()):
        state = "missing" if name in expected else "not part of this network"
        message = f"{source}: arrays/{name}: {state}; {remedy}"
        raise ArtifactError(message)
    for name, array in expected.items():
        if found[name].shape != array.shape or found[name].dtype != array.dtype:
            message = (
                f"{source}: arrays/{name}: {found[name].dtype} {found[name].shape}, "
                f"expected {array.dtype} {array.shape}; {remedy}"
            )
            raise ArtifactError(message)
