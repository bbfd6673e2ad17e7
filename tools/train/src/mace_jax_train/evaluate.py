"""Evaluation of a split: every batch once, in the order of its plan."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import jax
from flax import nnx

from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.batching.loader import PlannedLoader
from mace_jax.errors import DivergedError
from mace_jax_train.error_metrics import BatchErrors, metrics
from mace_jax_train.method import Method
from mace_jax_train.progress import Row

log = logging.getLogger(__name__)

Item = TypeVar("Item")


def evaluate(
    method: Method, weights: nnx.State, loader: PlannedLoader, pause: Callable[[], None]
) -> Row:
    """Return the metrics of a split, and how fast they were found.

    Args:
        method: what evaluates a batch.
        weights: to evaluate.
        loader: of the split.
        pause: called between batches.

    Raises:
        DivergedError: a loss is not finite.
    """
    started, found = time.perf_counter(), []
    batches = on_device(loader.in_order())
    for index, errors in ahead(
        (index, method.eval_step(weights, batch)) for index, batch in batches
    ):
        found.append(_finite(jax.device_get(errors), index, loader))
        pause()
    seconds = time.perf_counter() - started
    n_graph = sum(int(errors.n_graph) for errors in found)
    return {**metrics(found), "time": seconds, "graphs_per_second": n_graph / seconds}


def _finite(errors: BatchErrors, index: int, loader: PlannedLoader) -> BatchErrors:
    if not math.isfinite(errors.loss):
        message = (
            f"evaluation of batch {index}: loss {errors.loss / errors.n_graph}, expected a finite "
            f"number; check the labels of {loader.structures(index)}, or lower optimizer.lr"
        )
        raise DivergedError(message)
    return errors


def on_device(batches: Iterable[tuple[int, GraphBatch]]) -> Iterator[tuple[int, GraphBatch]]:
    """Send every batch to the device while the one before it is computed."""
    return ahead((index, jax.device_put(batch)) for index, batch in batches)


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield every item when the next one is under way, so that the device never waits."""
    items = iter(items)
    waiting = list(islice(items, 1))
    for item in items:
        yield waiting.pop()
        waiting.append(item)
    yield from waiting


def log_rows(rows: Iterable[Row]) -> None:
    """Say what the rows of one evaluation found."""
    units = (("rmse_e_per_atom", "meV/atom"), ("rmse_f", "meV/Å"), ("rmse_stress", "meV/Å³"))
    for row in rows:
        loss = "none" if row["loss"] is None else f"{row['loss']:.6g}"
        parts = [
            f"{name} {1000 * row[name]:.2f} {unit}"
            for name, unit in units
            if row.get(name) is not None
        ]
        text = ", ".join([f"loss {loss}", *parts])
        time_taken = "" if row["time"] is None else f" ({row['time']:.1f} s)"
        log.info("epoch %d: %s: %s%s", row["epoch"], row["mode"], text, time_taken)
