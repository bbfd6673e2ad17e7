"""Invariant features of the atoms of structures that come some at a time."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.batching.graph import assumptions, given_inputs
from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.batching.shape_classes import padded_caps
from mace_jax.batching.tight_packing import pack_graphs
from mace_jax.model.energy_forces import descriptors
from mace_jax.model.load import graph_builder, load_model
from mace_jax.structures.structure import Structure


class AtomFeatures:
    """The network of a bundle, compiled for what it predicts energies from, not for energies.

    The padded shape grows with what comes and never shrinks, so that few are compiled.
    """

    def __init__(self, bundle: ModelBundle, source: str, *, n_edge: int) -> None:
        """Build the network in the bundle's dtype; for float64 jax must have it enabled.

        Args:
            bundle: the model.
            source: its file, for messages.
            n_edge: edges of a batch, at most; raised if one structure alone has more.
        """
        graphdef, self._state = nnx.split(load_model(bundle, source))

        @jax.jit
        def evaluate(state: nnx.State, batch: GraphBatch) -> Array:
            model: Any = nnx.merge(graphdef, state)
            return descriptors(model, batch)

        self._evaluate = evaluate
        self._builder = graph_builder(bundle)
        self._head, self._dtype, self._n_edge = bundle.heads[0], bundle.dtype, n_edge
        self._caps: Caps | None = None
        self._n_structures, self._given = 0, Counter[str]()

    def __call__(self, structures: Sequence[Structure]) -> list[NDArray[np.floating]]:
        """Return the features of each structure's atoms, ``[n_atoms, k]``.

        Args:
            structures: one at least.

        Raises:
            DataError: the model lacks an element or an input.
        """
        graphs = self._builder.build_all(structures, head=self._head)
        self._n_structures += len(structures)
        self._given += given_inputs(structures, self._builder.inputs)
        sizes = GraphSizes.from_lists([graph.n_neighbors for graph in graphs])
        batches = pack_graphs(sizes, max(self._n_edge, int(sizes.n_edge.max()), 1), seed=0)
        caps = padded_caps(sizes, batches)
        self._caps = Caps.covering([caps, self._caps]) if self._caps else caps
        found: dict[int, NDArray[np.floating]] = {}
        for ids in batches:
            batch = pad_batch([graphs[i] for i in ids], self._caps, self._dtype)
            rows = np.asarray(self._evaluate(self._state, batch))
            ends = np.cumsum(sizes.n_node[ids])
            found.update(zip(ids.tolist(), np.split(rows[: ends[-1]], ends[:-1]), strict=True))
        return [found[i] for i in range(len(structures))]

    def assumptions(self) -> Iterator[str]:
        """Yield a sentence for each input that some structures so far did not give."""
        return assumptions(self._given, self._n_structures, self._builder.inputs)
