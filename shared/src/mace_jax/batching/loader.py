"""Batches in the order of a plan: the same for every process, worker and machine."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import BatchPlan, Caps
from mace_jax.batching.graph_batch import Graph, GraphBatch, batch_bytes, pad_batch
from mace_jax.batching.graph_source import GraphSource
from mace_jax.batching.workers import Workers
from mace_jax.errors import IncompatibleError

# Graphs that are read at once where no plan says which belong together.
_CHUNK = 256


def epoch_order(plan: BatchPlan, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the batches of an epoch, shuffled."""
    return np.random.default_rng([seed, epoch]).permutation(len(plan.batches))


class Cursor(NamedTuple):
    """A place inside an epoch.

    Attributes:
        plan_digest: of the plan whose batches are meant.
        epoch: number of the epoch.
        batch: batches of it that are done.
    """

    plan_digest: str
    epoch: int
    batch: int


class PlannedLoader:
    """The batches of a plan, in an order that depends on (plan, seed, epoch) only.

    Every batch is yielded with its index; ``plan.batches[index]`` says which graphs it holds. Use
    it as a context manager, or call ``close``, if there are workers.
    """

    def __init__(
        self,
        graphs: GraphSource,
        plan: BatchPlan,
        dtype: str,
        caps: Caps | None = None,
        *,
        n_workers: int = 0,
        cache_bytes: int = 0,
    ) -> None:
        """Read nothing yet.

        Args:
            graphs: of the plan's dataset.
            plan: which graphs share a batch.
            dtype: of the floating-point arrays.
            caps: one padded shape for all batches, that holds those of the plan.
            n_workers: processes that make batches ahead; 0 makes them when they are asked for.
            cache_bytes: how much memory may be used to keep batches for later epochs.
        """
        self.graphs = graphs
        self.plan = plan
        self.caps = caps
        self._cache: dict[int, GraphBatch] = {}
        self._room = cache_bytes
        self._workers = Workers(_BatchMaker(graphs, dtype), n_workers)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return len(self.plan.batches)

    def epoch(self, seed: int, epoch: int, done: int = 0) -> Iterator[tuple[int, GraphBatch]]:
        """Yield ``(index, batch)`` in the order of an epoch, without the first ``done`` of them."""
        return self._batches(epoch_order(self.plan, seed, epoch)[done:])

    def cursor(self, epoch: int, done: int) -> Cursor:
        """Return the place in ``epoch`` where ``done`` batches have been yielded."""
        return Cursor(self.plan.digest, epoch, done)

    def resume(self, seed: int, cursor: Cursor) -> Iterator[tuple[int, GraphBatch]]:
        """Yield what an epoch would have yielded after ``cursor``.

        Raises:
            IncompatibleError: the cursor belongs to another plan.
        """
        if cursor.plan_digest != self.plan.digest:
            message = (
                f"cursor: of plan {cursor.plan_digest[:12]}…, expected {self.plan.digest[:12]}…; "
                "resume with the plan that the run began with"
            )
            raise IncompatibleError(message)
        return self.epoch(seed, cursor.epoch, cursor.batch)

    def in_order(self) -> Iterator[tuple[int, GraphBatch]]:
        """Yield ``(index, batch)`` in the plan's own order, for evaluation.

        Results for its graphs, put one after another, are in dataset order when they are indexed
        by ``dataset_order``.
        """
        return self._batches(range(len(self)))

    def dataset_order(self) -> NDArray[np.intp]:
        """Return where each graph of the dataset comes among those of ``in_order``."""
        return np.argsort(np.fromiter(chain.from_iterable(self.plan.batches), np.intp))

    def in_dataset_order(self) -> Iterator[Graph]:
        """Yield every graph once, as the dataset has them, a few read at a time."""
        n = self.plan.n_structures
        for start in range(0, n, _CHUNK):
            yield from self.graphs(range(start, min(start + _CHUNK, n)))

    def batch(self, index: int) -> GraphBatch:
        """Return batch ``index`` of the plan."""
        ((_, batch),) = self._batches([index])
        return batch

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    def __enter__(self) -> "PlannedLoader":
        """Return the loader."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the workers."""
        self.close()

    def _batches(self, indices: Iterable[int]) -> Iterator[tuple[int, GraphBatch]]:
        indices = [int(index) for index in indices]
        missing = {index: self._task(index) for index in indices if index not in self._cache}
        with closing(self._workers.map(missing.values())) as made:
            for index in indices:
                if index in missing:
                    batch = next(made)
                    self._keep(index, batch)
                else:
                    batch = self._cache[index]
                yield index, batch

    def _task(self, index: int) -> tuple[Sequence[int], Caps]:
        return self.plan.batches[index], self.caps or self.plan.caps

    def _keep(self, index: int, batch: GraphBatch) -> None:
        size = batch_bytes(batch)
        if size <= self._room:
            self._room -= size
            self._cache[index] = batch


@dataclass(frozen=True)
class _BatchMaker:
    """Makes the batch of some graphs, in whichever process."""

    graphs: GraphSource
    dtype: str

    def __call__(self, task: tuple[Sequence[int], Caps]) -> GraphBatch:
        ids, caps = task
        return pad_batch(self.graphs(ids), caps, self.dtype)
