"""Inputs beside atoms and positions, such as total charge and spin, joined into one vector."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from mace_jax.artifacts.model_bundle import EmbeddingSpec
from mace_jax.model.initial_weights import Dense, normal


class CategoricalEmbedding(nnx.Module):
    """A vector for each value of an input; torch's ``Embedding``."""

    def __init__(self, spec: EmbeddingSpec, *, dtype: str, rng: np.random.Generator) -> None:
        """Draw standard normal vectors, ``[num_classes, emb_dim]``."""
        self.offset = spec.offset
        self.weight = nnx.Param(normal(rng, (spec.num_classes, spec.emb_dim), dtype))

    def __call__(self, values: Array) -> Array:
        """Map ``[n, 1]`` to ``[n, emb_dim]``."""
        return self.weight[...][(values[:, 0] + self.offset).astype(jnp.int32)]


class ContinuousEmbedding(nnx.Module):
    """Two layers with silu between them."""

    def __init__(self, spec: EmbeddingSpec, *, dtype: str, rng: np.random.Generator) -> None:
        """Draw the weights."""
        widths = ((spec.in_dim, spec.emb_dim), (spec.emb_dim, spec.emb_dim))
        self.layers = nnx.List(
            Dense(n_in, n_out, use_bias=spec.use_bias, dtype=dtype, rng=rng)
            for n_in, n_out in widths
        )

    def __call__(self, values: Array) -> Array:
        """Map ``[n, in_dim]`` to ``[n, emb_dim]``."""
        return self.layers[1](jax.nn.silu(self.layers[0](values)))


_EMBEDDINGS = {"categorical": CategoricalEmbedding, "continuous": ContinuousEmbedding}


class GenericJointEmbedding(nnx.Module):
    """Embeds each input, joins them and projects; mace-torch class of the same name."""

    def __init__(
        self,
        specs: Sequence[EmbeddingSpec],
        channels: int,
        *,
        dtype: str,
        rng: np.random.Generator,
    ) -> None:
        """Build the block for inputs ``specs``."""
        self.per_graph = tuple((spec.name, spec.per == "graph") for spec in specs)
        self.embedders = nnx.Dict(
            {spec.name: _EMBEDDINGS[spec.type](spec, dtype=dtype, rng=rng) for spec in specs}
        )
        width = sum(spec.emb_dim for spec in specs)
        self.project = Dense(width, channels, use_bias=False, dtype=dtype, rng=rng)

    def __call__(self, inputs: Mapping[str, Array], node_graph: Array) -> Array:
        """Return ``[n_node, 1, channels]``.

        Args:
            inputs: name -> ``[n_graph, in_dim]`` or ``[n_node, in_dim]``.
            node_graph: graph of each node, ``[n_node]``.
        """
        embedded = []
        for name, per_graph in self.per_graph:
            values = self.embedders[name](inputs[name])
            embedded.append(values[node_graph] if per_graph else values)
        return jax.nn.silu(self.project(jnp.concatenate(embedded, axis=-1)))[:, None]
