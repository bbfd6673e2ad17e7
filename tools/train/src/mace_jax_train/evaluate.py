"""Evaluation of a split: every batch once, in the order of its plan."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import jax
from flax import nnx

from mace_jax.artifacts.train_config_sections import LogErrors
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.batching.loader import PlannedLoader
from mace_jax.errors import DivergedError
from mace_jax_train.data_parallel import Devices
from mace_jax_train.error_metrics import BatchErrors, metrics_of_heads, with_speed
from mace_jax_train.evaluation_table import evaluation_table
from mace_jax_train.method import Method
from mace_jax_train.progress import Row

log = logging.getLogger(__name__)

Item = TypeVar("Item")


def evaluate(
    method: Method,
    weights: nnx.State,
    loader: PlannedLoader,
    asked: Callable[[], bool] = lambda: False,
    pause: Callable[[bool], None] = lambda _: None,
) -> dict[str, Row]:
    """Return the metrics of a split by head, of all heads last, and how fast they were found.

    Args:
        method: what evaluates a batch.
        weights: to evaluate.
        loader: of the split.
        asked: whether this process was asked to stop.
        pause: called after every batch, with whether any process was.

    Raises:
        DivergedError: a loss is not finite.
    """
    started, devices = time.perf_counter(), method.devices
    found: list[BatchErrors] = []
    unread: list[Any] = []

    def read() -> None:
        while unread:
            group, *on_device = unread.pop()
            errors, (stop,) = jax.device_get(on_device)
            found.append(_finite(errors, group, loader))
            pause(bool(stop))

    for index, batch in sent(devices, loader.in_order()):
        with devices.processes.waiting("the other processes in an evaluation"):
            errors = method.eval_step(weights, batch)
            stop = devices.added([(asked(),)] * len(devices.own))
            read()
        unread.append((devices.group(index), errors, stop))
    read()
    seconds = time.perf_counter() - started
    n_graph = sum(int(errors.n_graph) for errors in found)
    speed = {"time": seconds, "graphs_per_second": n_graph / seconds}
    return with_speed(metrics_of_heads(found, method.heads), speed)


def _finite(errors: BatchErrors, group: range, loader: PlannedLoader) -> BatchErrors:
    if not math.isfinite(errors.loss):
        message = (
            f"evaluation of batch {', '.join(map(str, group))}: loss "
            f"{errors.loss / errors.n_graph}, expected a finite number; check the labels of "
            f"{loader.structures(*group)}, or lower optimizer.lr"
        )
        raise DivergedError(message)
    return errors


def sent(
    devices: Devices, batches: Iterable[tuple[int, GraphBatch]]
) -> Iterator[tuple[int, GraphBatch]]:
    """Send batches to the devices while those before them are computed; one index of each group."""
    return ahead(
        (group[0][0], devices.put([batch for _, batch in group]))
        for group in devices.groups(batches)
    )


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield every item when the next one is under way, so that the device never waits."""
    items = iter(items)
    waiting = list(islice(items, 1))
    for item in items:
        yield waiting.pop()
        waiting.append(item)
    yield from waiting


def log_rows(rows: Sequence[Row], log_errors: LogErrors) -> None:
    """Say what the rows of one evaluation found."""
    log.info("epoch %d:", rows[0]["epoch"])
    for line in evaluation_table(rows, log_errors):
        log.info("%s", line)
