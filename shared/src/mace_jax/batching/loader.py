"""Batches in the order of a plan: the same for every process, worker and machine."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import BatchPlan, Caps
from mace_jax.artifacts.model_bundle import EmbeddingSpec
from mace_jax.batching.cursor import Cursor, plan_digest, require_cursor_fits
from mace_jax.batching.graph_batch import GraphBatch, batch_bytes, pad_batch
from mace_jax.batching.graph_source import GraphSource, Ids
from mace_jax.batching.process_groups import epoch_order
from mace_jax.batching.workers import Workers

# Graphs that are read and joined at once, at least: faster so, and a worker sends fewer messages.
_AT_ONCE = 64

_Task = list[tuple[Ids, Caps]]  # the graphs and the shape of some batches


class PlannedLoader:
    """The batches of a plan, in an order that depends on (plan, seed, epoch) only.

    Every batch is yielded with its index; ``plan.batches[index]`` are the graphs that it holds. Use
    a loader as a context manager, or call ``close``, if it has workers.
    """

    def __init__(
        self,
        graphs: GraphSource,
        plan: BatchPlan,
        dtype: str,
        caps: Caps | None = None,
        *,
        process: int | Sequence[int] | None = None,
        n_workers: int = 0,
        cache_bytes: int = 0,
        shuffle: bool = True,
        max_batches: int | None = None,
        told: Sequence[EmbeddingSpec] = (),
        places: Callable[[Ids], str] = str,
    ) -> None:
        """Read nothing yet.

        Args:
            graphs: of the plan's datasets.
            plan: which graphs share a batch.
            dtype: of the floating-point arrays.
            caps: a padded shape for all batches, at least ``plan.caps``; by default each has that
                of the plan.
            process: the one, or those, of the plan's processes whose batches are wanted; by
                default all.
            n_workers: processes that make batches ahead; 0 makes some when one is asked for.
            cache_bytes: how much memory may be used to keep batches for later epochs.
            shuffle: whether each epoch has an order of its own; else all have the plan's.
            max_batches: of an epoch; the next one goes on where it ended.
            told: what the model is told beside atoms, of which an empty batch has none.
            places: says where graphs stand, for messages.
        """
        self.graphs = graphs
        self.plan = plan
        self.shapes = (caps,) if caps else plan.shapes
        self._shape = np.zeros_like(plan.shape) if caps else plan.shape
        self._process = process
        self._cache: dict[int, GraphBatch] = {}
        self._room = cache_bytes
        self._places = places
        self._shuffle, self._max_batches = shuffle, max_batches
        self._workers = Workers(_BatchMaker(graphs, dtype, tuple(told)), n_workers)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        everything = len(self._own())
        return everything if self._max_batches is None else min(self._max_batches, everything)

    def epoch(self, seed: int, epoch: int, done: int = 0) -> Iterator[tuple[int, GraphBatch]]:
        """Yield ``(index, batch)`` in the order of an epoch, without the first ``done`` of them."""
        return self._batches(self._order(seed, epoch)[done:])

    def cursor(self, epoch: int, done: int) -> Cursor:
        """Return the place in an epoch where ``done`` batches are done."""
        return Cursor(plan_digest(self.plan), epoch, done)

    def resume(self, seed: int, cursor: Cursor) -> Iterator[tuple[int, GraphBatch]]:
        """Yield what is left of an epoch.

        Raises:
            IncompatibleError: the cursor is no place in an epoch of this loader.
        """
        require_cursor_fits(cursor, self.plan, len(self))
        return self.epoch(seed, cursor.epoch, cursor.batch)

    def in_order(self) -> Iterator[tuple[int, GraphBatch]]:
        """Yield ``(index, batch)`` in the plan's own order, for evaluation.

        What is found for the graphs of all batches, put end to end, is in the order of the dataset
        when it is indexed by ``dataset_order``.
        """
        return self._batches(self._own())

    def dataset_order(self) -> NDArray[np.int64]:
        """Return the place of each planned graph of the dataset in the plan's order, ``[n]``."""
        return np.argsort(self.plan.batches.ids)

    def structures(self, *indices: int) -> str:
        """Return where the structures of batches of the plan stand, for messages."""
        return self._places(np.concatenate([self.plan.batches[index] for index in indices]))

    def batch(self, index: int) -> GraphBatch:
        """Return batch ``index`` of the plan."""
        ((_, batch),) = self._batches([index])
        return batch

    def one_of_each_shape(self) -> Iterator[GraphBatch]:
        """Yield a batch of every padded shape: all that a step is compiled for."""
        _, first = np.unique(self._shape, return_index=True)
        return (batch for _, batch in self._batches(first))

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    def __enter__(self) -> "PlannedLoader":
        """Return the loader."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the workers."""
        self.close()

    def _order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the batches of an epoch: a piece of all passes over the data, end to end."""
        n_pass, n_epoch = len(self._own()), len(self)
        start = (epoch - 1) * n_epoch
        first, last = start // n_pass, (start + n_epoch - 1) // n_pass
        passes = [self._pass(seed, number + 1) for number in range(first, last + 1)]
        return np.concatenate(passes)[start - first * n_pass :][:n_epoch]

    def _pass(self, seed: int, number: int) -> NDArray[np.int64]:
        if not self._shuffle:
            return self._own()
        return epoch_order(self.plan, seed, number, self._process)

    def _own(self) -> NDArray[np.int64]:
        """Return the batches of an epoch in the plan's own order."""
        if self._process is not None:
            groups = np.arange(len(self.plan.batches)).reshape(-1, self.plan.processes)
            return groups[:, self._process].reshape(-1)
        return np.flatnonzero(self.plan.batches.n_graph)

    def _batches(self, order: Iterable[int]) -> Iterator[tuple[int, GraphBatch]]:
        order = [int(index) for index in order]
        missing = [index for index in order if index not in self._cache]
        awaited = set(missing)
        with closing(self._workers.map(self._tasks(missing))) as several:
            made = chain.from_iterable(several)
            for index in order:
                if index in awaited:
                    batch = next(made)
                    self._keep(index, batch)
                else:
                    batch = self._cache[index]
                yield index, batch

    def _tasks(self, indices: Iterable[int]) -> Iterator[_Task]:
        """Yield what makes the batches, some at a time."""
        task: _Task = []
        for index in indices:
            task.append((self.plan.batches[index], self.shapes[self._shape[index]]))
            if sum(len(ids) for ids, _ in task) >= _AT_ONCE:
                yield task
                task = []
        if task:
            yield task

    def _keep(self, index: int, batch: GraphBatch) -> None:
        size = batch_bytes(batch)
        if index not in self._cache and size <= self._room:
            self._room -= size
            self._cache[index] = batch


@dataclass(frozen=True)
class _BatchMaker:
    """Makes batches, in whichever process."""

    graphs: GraphSource
    dtype: str
    told: tuple[EmbeddingSpec, ...] = ()

    def __call__(self, task: _Task) -> list[GraphBatch]:
        graphs = iter(self.graphs(np.concatenate([ids for ids, _ in task])))
        return [
            pad_batch(list(islice(graphs, len(ids))), caps, self.dtype, self.told)
            for ids, caps in task
        ]
