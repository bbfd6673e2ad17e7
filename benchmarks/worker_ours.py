"""The worker that measures this project: the training step, the network and the calculator."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import machine
import numpy as np
import systems
from ase import Atoms
from dynamics import Dynamics
from jax import Array
from protocol import serve

from mace_jax.artifacts.batch_plan import BatchPlan, PlannedDataset
from mace_jax.artifacts.batches import Batches
from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.artifacts.train_config_sections import (
    DatasetsConfig,
    LossConfig,
    OptimizerConfig,
    TrainConfig,
    TrainSection,
)
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.batching.loader import PlannedLoader
from mace_jax.batching.plan_report import report_waste
from mace_jax.batching.shape_classes import padded_shapes
from mace_jax.calculator import MACECalculator
from mace_jax.model.computing import computing
from mace_jax.model.energy_forces import energy_and_forces
from mace_jax.model.load import graph_builder, load_model, split_trainable
from mace_jax.structures.structure import Structure
from mace_jax_train.method import StepReport, make_method

_context = ExitStack()


def set_up(dtype: str) -> None:
    """Compute as the commands do, but compile everything anew."""
    _context.enter_context(computing(dtype, device="cpu", compile_cache=False))


class _Batches:
    """A bundle's network and the batches for it."""

    def __init__(self, *, network: str, dtype: str, batch: int, structures: dict[str, Any]) -> None:
        set_up(dtype)
        bundle = read_model_bundle(Path(network))
        self.network, self.parameters = split_trainable(load_model(bundle, network))
        builder = graph_builder(bundle)
        graphs = [builder.build(_structure(atoms)) for atoms in systems.structures(**structures)]
        plan = _plan([graph.n_neighbors for graph in graphs], batch)
        self.loader = PlannedLoader(
            lambda ids: [graphs[index] for index in ids], plan, dtype, cache_bytes=1 << 30
        )
        self.batches = self._endless()

    def _endless(self) -> Iterator[GraphBatch]:
        for epoch in itertools.count():
            yield from (batch for _, batch in self.loader.epoch(seed=0, epoch=epoch))

    def compile(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Keep the compiled ``function`` and return what making it took and what XLA says of it."""
        start = time.perf_counter()
        lowered = function.lower(*arguments)
        lower_seconds = time.perf_counter() - start
        self.compiled = lowered.compile()
        compile_seconds = time.perf_counter() - start - lower_seconds
        cost = self.compiled.cost_analysis()
        return {
            "lower_seconds": lower_seconds,
            "compile_seconds": compile_seconds,
            "flops": cost["flops"],
            "bytes": cost["bytes accessed"],
            "temp_bytes": self.compiled.memory_analysis().temp_size_in_bytes,
        }


def _structure(atoms: Atoms) -> Structure:
    labels = {"energy": np.array(atoms.info["REF_energy"]), "forces": atoms.arrays["REF_forces"]}
    return Structure(
        atoms.numbers.astype(np.int64), atoms.positions, np.array(atoms.cell), atoms.pbc, labels
    )


def _plan(n_neighbors: list[Any], batch: int) -> BatchPlan:
    """Return the plan of batches of ``batch`` graphs in file order."""
    n = len(n_neighbors)
    batches = Batches.from_lists(
        range(start, min(start + batch, n)) for start in range(0, n, batch)
    )
    sizes = GraphSizes.from_lists(n_neighbors)
    shape = np.zeros(len(batches), np.int64)
    shapes = padded_shapes(sizes, batches, shape)
    waste = report_waste(
        sizes,
        batches,
        shapes,
        shape,
        n_batches_lower_bound=len(batches),
        requested_n_edge=shapes[0].n_edge,
    )
    data = PlannedDataset("benchmark", "", n)
    return BatchPlan((data,), systems.R_MAX, 0, 1, shapes, (len(batches),), batches, (), waste)


class Train(_Batches):
    """Training steps."""

    def __init__(self, **settings: Any) -> None:
        """Set loss and optimizer up."""
        super().__init__(**settings)
        config = TrainConfig(
            DatasetsConfig("benchmark"),
            loss=LossConfig("weighted", systems.ENERGY_WEIGHT, systems.FORCES_WEIGHT, 0.0),
            optimizer=OptimizerConfig("amsgrad", systems.LEARNING_RATE),
            train=TrainSection(ema_decay=None, max_grad_norm=systems.MAX_GRAD_NORM),
        )
        method = make_method(config, self.network, len(self.loader))
        self.train_step = method.stages[0].train_step
        self.state = method.initial_state(self.parameters)

    def first(self) -> dict[str, Any]:
        """Compile and take the first step."""
        batch = self.loader.batch(0)
        start = time.perf_counter()
        facts = self.compile(self.train_step, self.state, batch)
        self.state, report = self.compiled(self.state, batch)
        loss = _loss(report)
        seconds = time.perf_counter() - start
        n_edge = 2 * int(batch.pair_mask.sum())
        return {**facts, "seconds": seconds, "n_edge": n_edge, "values": {"loss": [loss]}}

    def repeat(self, n_steps: int) -> dict[str, float]:
        """Return the seconds of a step; each report is read one step late, as in training."""
        pending: StepReport | None = None
        start = time.perf_counter()
        for batch in itertools.islice(self.batches, n_steps):
            self.state, report = self.compiled(self.state, batch)
            if pending:
                _loss(pending)
            pending = report
        _loss(pending)
        return {"seconds": (time.perf_counter() - start) / n_steps}


def _loss(report: StepReport) -> float:
    errors = jax.device_get(report.errors)
    return float(errors.loss / errors.n_graph)


class Evaluate(_Batches):
    """Energies and forces."""

    def first(self) -> dict[str, Any]:
        """Compile and evaluate the first batch."""

        @jax.jit
        def evaluate(parameters: Any, batch: GraphBatch) -> tuple[Array, Array]:
            predicted = energy_and_forces(self.network(parameters), batch)
            return predicted.energy, predicted.forces

        batch = self.loader.batch(0)
        start = time.perf_counter()
        facts = self.compile(evaluate, self.parameters, batch)
        energy, forces = jax.device_get(self.compiled(self.parameters, batch))
        seconds = time.perf_counter() - start
        values = {
            "energy": energy[batch.graph_mask].tolist(),
            "forces": forces[batch.node_mask].ravel().tolist(),
        }
        n_edge = 2 * int(batch.pair_mask.sum())
        return {**facts, "seconds": seconds, "n_edge": n_edge, "values": values}

    def repeat(self, n_steps: int) -> dict[str, float]:
        """Return the seconds of a batch."""
        start = time.perf_counter()
        for batch in itertools.islice(self.batches, n_steps):
            jax.device_get(self.compiled(self.parameters, batch))
        return {"seconds": (time.perf_counter() - start) / n_steps}


class Calculate(Dynamics):
    """Molecular dynamics with the project's calculator."""

    def __init__(self, *, network: str, dtype: str, system: str, data: str) -> None:
        """Load the calculator."""
        set_up(dtype)
        super().__init__(
            systems.moving_structure(system, data), MACECalculator(network, dtype=dtype)
        )


class Peaks:
    """What the machine can do at most, by the same library."""

    def first(self) -> dict[str, Any]:
        """Measure."""
        set_up("float64")
        return machine.peaks()


if __name__ == "__main__":
    serve({"train": Train, "evaluate": Evaluate, "calculator": Calculate, "peaks": Peaks})
