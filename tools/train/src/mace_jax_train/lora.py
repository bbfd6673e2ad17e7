"""Adapters of low rank beside the matrices of the linear layers: they alone train (LoRA).

The adapter of a matrix ``[inputs, outputs]`` is a product A B, ``[inputs, rank]`` by ``[rank,
outputs]``, that is added to it. An equivariant layer has a matrix for each irrep, and so an adapter
for each: it commutes with rotations as before.

Source: Hu et al. 2021 (arXiv:2106.09685); mace-torch ``inject_lora``, which adapts the same layers.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mace_jax.artifacts.train_config_sections import LoRAConfig
from mace_jax.model.initial_weights import Dense
from mace_jax.model.linear import EquivariantLinear, SpeciesEmbedding
from mace_jax.model.mlp import FullyConnectedNet

A, B = "lora_A", "lora_B"
ADAPTER = {A, B}
Path = tuple[Any, ...]

_INITIAL_SPREAD = 1e-3  # of A, as in mace-torch; B is 0


def adapted_matrices(model: nnx.Module, config: LoRAConfig) -> dict[Path, float]:
    """Return the path of every matrix of a linear layer, and the factor of A B beside it.

    It is alpha / rank, and in equivariant layers that over √rank: mace-torch's adapters are layers
    of e3nn there, which divide by the root of their inputs.
    """
    dense = config.alpha / config.rank
    equivariant = dense / config.rank**0.5
    factors: dict[Path, float] = {}
    for path, layer in nnx.iter_modules(model):
        match layer:
            case EquivariantLinear():
                factors |= {(*path, "weights", irrep): equivariant for irrep in layer.weights}
            case SpeciesEmbedding():
                factors[*path, "weight"] = equivariant
            case FullyConnectedNet():
                factors |= {(*path, "layers", index): dense for index in range(len(layer.layers))}
            case Dense():
                factors[*path, "weight"] = dense
    return factors


def new_adapters(matrices: Mapping[Path, Any], rank: int, seed: int) -> nnx.State:
    """Return adapters that add nothing yet.

    Args:
        matrices: path -> matrix ``[inputs, outputs]``.
        rank: of each adapter.
        seed: of the run.
    """
    rng = np.random.default_rng([seed, rank])  # not the numbers of the initial weights
    adapters: dict[Path, nnx.Param[Any]] = {}
    for path, matrix in matrices.items():
        n_in, n_out = matrix.shape
        drawn = _INITIAL_SPREAD * rng.standard_normal((n_in, rank))
        adapters[*path, A] = nnx.Param(jnp.asarray(drawn, matrix.dtype))
        adapters[*path, B] = nnx.Param(jnp.asarray(np.zeros((rank, n_out)), matrix.dtype))
    return nnx.from_flat_state(adapters)


def merged(adapters: nnx.State, weights: nnx.State, factors: Mapping[Path, float]) -> nnx.State:
    """Return the weights of the network without adapters that computes the same.

    Args:
        adapters: of the matrices in ``factors``.
        weights: of the network.
        factors: path of a matrix -> factor of the product beside it.
    """
    found, result = dict(nnx.to_flat_state(adapters)), dict(nnx.to_flat_state(weights))
    for path, factor in factors.items():
        product = found[*path, A][...] @ found[*path, B][...]
        result[path] = result[path].replace(result[path][...] + factor * product)
    return nnx.from_flat_state(result)
