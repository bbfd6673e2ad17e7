"""Batches in the order of a plan: the same for every process, worker and machine."""

from collections.abc import Iterator, Sequence

import numpy as np

from mace_jax.artifacts.batch_plan import BatchPlan, Caps
from mace_jax.artifacts.dataset import Dataset
from mace_jax.batching.graph_batch import Graph, GraphBatch, GraphBuilder, pad_batch
from mace_jax.batching.process_groups import epoch_order
from mace_jax.tracking import Track, track_silently


def load_graphs(
    dataset: Dataset, builder: GraphBuilder, description: str, track: Track = track_silently
) -> list[Graph]:
    """Read a whole dataset and find the edges of every structure, once for all epochs."""
    structures = track(dataset, description, len(dataset))
    return [builder.build(structure) for structure in structures]


class PlannedLoader:
    """The batches of a plan, in an order that depends on (plan, seed, epoch) only."""

    def __init__(
        self, graphs: Sequence[Graph], plan: BatchPlan, dtype: str, caps: Caps | None = None
    ) -> None:
        """Keep the graphs in memory; batches are padded as they are asked for.

        Args:
            graphs: of the plan's dataset.
            plan: which graphs share a batch.
            dtype: of the floating-point arrays.
            caps: one padded shape for all batches; each batch's own by default.
        """
        self.graphs = graphs
        self.plan = plan
        self.dtype = dtype
        self.caps = caps or plan.caps
        self._shapes = [caps] if caps else list(plan.shapes)
        self._shape = np.zeros(len(plan.batches), np.int64) if caps else plan.shape

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.plan.batches)

    def batch(self, index: int) -> GraphBatch:
        """Return batch ``index`` of the plan."""
        graphs = [self.graphs[graph] for graph in self.plan.batches[index]]
        return pad_batch(graphs, self._shapes[self._shape[index]], self.dtype)

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[int, GraphBatch]]:
        """Yield ``(index, batch)`` in the shuffled order of an epoch."""
        for index in epoch_order(self.plan, seed, epoch):
            yield int(index), self.batch(int(index))

    def in_order(self) -> Iterator[tuple[int, GraphBatch]]:
        """Yield ``(index, batch)`` in the plan's own order, for evaluation."""
        return ((index, self.batch(index)) for index in range(len(self)))
