"""The E0s of a run that begins with a model: its own, corrected ones, or those of the data."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import numpy as np
from flax import nnx
from jax import Array

from mace_jax.architecture import model_inputs, predicts_energy
from mace_jax.artifacts.batch_plan import BatchPlan
from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.artifacts.provenance import Input
from mace_jax.artifacts.train_config_sections import TrainConfig
from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.batching.graph_source import DatasetGraphs, GraphSource
from mace_jax.elements import MAX_ATOMIC_NUMBER
from mace_jax.errors import DataError
from mace_jax.model.backend import Backend
from mace_jax.model.load import graph_builder, load_model
from mace_jax.model.predict import properties
from mace_jax.structures.atomic_energies import AVERAGE
from mace_jax.structures.atomic_energy_table import AtomicEnergyTable, atomic_energy_table
from mace_jax.structures.composition_rows import CompositionRows
from mace_jax.structures.model_energies import ESTIMATED, estimated_energies, kept_energies
from mace_jax.tracking import Track
from mace_jax_train.run_files import RunFiles
from mace_jax_train.starting_model import HEAD, StartingModel
from mace_jax_train.survey import TrainingData
from mace_jax_train.training_statistics import (
    FOUNDATION,
    ISOLATED_ATOM,
    keep_statistics,
    log_table,
)


def continued_bundle(
    config: TrainConfig,
    starting: StartingModel,
    train: TrainingData,
    plan: BatchPlan,
    files: RunFiles,
    inputs: list[Input],
    backend: Backend,
    track: Track,
) -> ModelBundle:
    """Return the starting model as the run needs it: of its elements, with its E0s.

    Args:
        config: of the run.
        starting: the model.
        train: training data.
        plan: of the training data.
        files: where to keep statistics that are computed.
        inputs: what was read; the statistics are added.
        backend: what computes the network.
        track: progress.

    Raises:
        ConfigError, DataError: the model lacks an element, or its E0 cannot be had.
    """
    bundle = starting.of_elements(train.elements, config.flags.dtype)
    if not predicts_energy(bundle.config):
        return bundle

    def errors() -> CompositionRows:
        graphs = DatasetGraphs(train.data.datasets, graph_builder(bundle))
        return prediction_errors(
            bundle, graphs, plan, source=starting.name, backend=backend, track=track
        )

    table = _energies(config.datasets.E0s, bundle.atomic_energies[HEAD], train, errors)
    if train.given:
        log_table(table)
    else:
        keep_statistics(table, train, files, inputs)
    return replace(bundle, atomic_energies={HEAD: table.of_elements(train.elements)})


def _energies(
    e0s: str | None,
    own: Mapping[int, float],
    train: TrainingData,
    errors: Callable[[], CompositionRows],
) -> AtomicEnergyTable:
    """Find the E0s of a run that begins with a model.

    Args:
        e0s: ``foundation`` for the model's own, ``estimated`` for those with the least errors;
            ``average``, ``isolated_atom``, a dict or a file as for a fresh network. None: those of
            the statistics file, without one the model's own.
        own: E0s of the model, eV.
        train: training data.
        errors: computes what ``prediction_errors`` does.
    """
    sums, given = train.sums, train.given
    ((head, of_head),) = sums.heads.items()
    choice = (e0s or (AVERAGE if given else FOUNDATION)).lower()
    if choice == FOUNDATION:
        return kept_energies(own, head, of_head, sums.isolated_atoms.of_head(head))
    if choice == ESTIMATED:
        return estimated_energies(own, head, of_head, errors())
    if given and choice in (AVERAGE, ISOLATED_ATOM):
        return atomic_energy_table(
            str(dict(given.of_head(head).atomic_energies)), sums, train.elements
        )
    return atomic_energy_table(None if choice == ISOLATED_ATOM else e0s, sums, train.elements)


def prediction_errors(
    bundle: ModelBundle,
    graphs: GraphSource,
    plan: BatchPlan,
    *,
    source: str,
    backend: Backend,
    track: Track,
) -> CompositionRows:
    """Predict planned structures; return compositions and errors, label minus prediction, eV.

    Args:
        bundle: the model.
        graphs: of the plan, built with the model's E0s.
        plan: which graphs share a batch.
        source: the model's file, for messages.
        backend: what computes the network.
        track: progress.

    Raises:
        DataError: a prediction is not finite.
    """
    graphdef, state = nnx.split(load_model(bundle, source, backend))

    @jax.jit
    def energies(state: nnx.State, batch: GraphBatch) -> Array:
        return properties(nnx.merge(graphdef, state), batch)["energy"]

    rows = CompositionRows()
    planned = list(zip(plan.batches, plan.shape.tolist(), strict=True))
    for ids, shape in track(planned, "estimating E0s", len(planned)):
        batch = graphs(ids) if len(ids) else []
        predicted = energies(
            state, pad_batch(batch, plan.shapes[shape], bundle.dtype, model_inputs(bundle.config))
        )
        for graph, energy in zip(batch, np.asarray(predicted, np.float64), strict=False):
            structure = graph.structure
            if not np.isfinite(energy):
                message = (
                    f"{structure.place}: {source} predicts an energy of {energy}, expected a "
                    "finite number; check the structure"
                )
                raise DataError(message)
            if "energy" in structure.properties:
                counts = np.bincount(structure.atomic_numbers, minlength=MAX_ATOMIC_NUMBER + 1)
                rows.add(counts[None], np.array([graph.interaction_energy - energy]))
    return rows
