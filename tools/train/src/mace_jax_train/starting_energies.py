"""The E0s of a run that begins with a model: its own, corrected ones, or those of the data."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

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
from mace_jax.errors import ConfigError, DataError
from mace_jax.model.backend import Backend
from mace_jax.model.load import graph_builder, load_model
from mace_jax.model.predict import properties
from mace_jax.structures.atomic_energies import AVERAGE
from mace_jax.structures.atomic_energy_table import AtomicEnergyTable, atomic_energy_table
from mace_jax.structures.composition_rows import CompositionRows
from mace_jax.structures.model_energies import ESTIMATED, estimated_energies, kept_energies
from mace_jax.structures.statistics import Statistics
from mace_jax.tracking import Track
from mace_jax_train.run_files import RunFiles
from mace_jax_train.run_heads import RunHead
from mace_jax_train.starting_model import StartingModel
from mace_jax_train.survey import TrainingData
from mace_jax_train.training_statistics import (
    FOUNDATION,
    ISOLATED_ATOM,
    energies_of_heads,
    fresh_table,
    keep_statistics,
    statistics_of,
)


class Continued(NamedTuple):
    """A starting model as a run needs it.

    Attributes:
        bundle: of the heads that are trained, and the elements of the run.
        energy_sources: head -> where its E0s are from.
        kept: the model of all heads of the run, in their order, if some are not trained; those
            that are have readouts of zeros.
    """

    bundle: ModelBundle
    energy_sources: dict[str, str]
    kept: ModelBundle | None


def continued_bundle(
    config: TrainConfig,
    starting: StartingModel,
    train: TrainingData,
    plan: BatchPlan,
    files: RunFiles,
    inputs: list[Input],
    backend: Backend,
    track: Track,
) -> Continued:
    """Return the starting model as the run needs it.

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
    reduced = replace(starting, bundle=starting.of_elements(train.elements, config.flags.dtype))
    heads = [head.config for head in train.heads]
    bundle = reduced.of_heads(heads, config.flags.seed).bundle
    if not predicts_energy(bundle.config):
        return Continued(bundle, {}, None)
    kept = reduced.of_kept_heads(config.datasets.heads, train.kept, heads)

    own = bundle.atomic_energies

    @cache
    def errors() -> Mapping[str, CompositionRows]:
        # nothing is asked of what a fresh readout, which has no E0s, is wrong by
        none = dict.fromkeys(train.elements, 0.0)
        energies = {head: known or none for head, known in own.items()}
        model, data = replace(bundle, atomic_energies=energies), train.data
        graphs = DatasetGraphs(data.datasets, graph_builder(model), heads=data.heads)
        return prediction_errors(
            model, graphs, plan, source=starting.name, backend=backend, track=track
        )

    tables = {head.name: _energies(head, own[head.name], train, errors) for head in train.heads}
    if train.given:
        statistics, energies = train.given, energies_of_heads(tables, own, train)
    else:
        statistics, energies = keep_statistics(tables, own, train, files, inputs)
    scaling = {
        head.name: statistics_of(statistics, head, train).scale_and_shift(config.model.scaling)
        for head in train.heads
        if starting.readout_of(head.config) is None
    }
    bundle = replace(
        bundle,
        atomic_energies={head: found.energies for head, found in energies.items()},
        scale={**bundle.scale, **{head: scale for head, (scale, _) in scaling.items()}},
        shift={**bundle.shift, **{head: shift for head, (_, shift) in scaling.items()}},
    )
    return Continued(bundle, {head: found.source for head, found in energies.items()}, kept)


def _energies(
    head: RunHead,
    own: Mapping[int, float],
    train: TrainingData,
    errors: Callable[[], Mapping[str, CompositionRows]],
) -> AtomicEnergyTable:
    """Find the E0s of a head of a run that begins with a model.

    Its ``E0s`` are ``foundation`` for the model's own, ``estimated`` for those with the least
    errors; ``average``, ``isolated_atom``, a dict or a file as for a fresh network. None: those of
    the statistics file, without one the model's own, or for a fresh readout the isolated atoms'.

    Args:
        head: of the run.
        own: E0s of the model, eV; none for a fresh readout.
        train: training data.
        errors: computes what ``prediction_errors`` does.

    Raises:
        ConfigError: the model's own are asked for, but there are none.
    """
    sums, given, name = train.sums_of(head), train.given, head.data_name
    choice = (head.config.E0s or _by_default(given, own)).lower()
    if choice in (FOUNDATION, ESTIMATED) and not own:
        message = (
            f"datasets.heads: {head.name}: E0s {choice!r}, but a fresh readout has none; choose "
            "average, isolated_atom, a dict or a file"
        )
        raise ConfigError(message)
    if choice == FOUNDATION:
        return kept_energies(own, name, sums.heads[name], sums.isolated_atoms.of_head(name))
    if choice == ESTIMATED:
        return estimated_energies(own, name, sums.heads[name], errors()[head.name])
    if given and choice in (AVERAGE, ISOLATED_ATOM):
        energies = dict(given.of_head(name).atomic_energies)
        return atomic_energy_table(str(energies), sums, _alone(train), train.first_in[name])
    return fresh_table(head, train)


def _by_default(given: Statistics | None, own: Mapping[int, float]) -> str:
    if given:
        return AVERAGE
    return FOUNDATION if own else ISOLATED_ATOM


def _alone(train: TrainingData) -> tuple[int, ...] | None:
    """Return the elements of which a head needs E0s, if there is no other head."""
    return train.elements if len(train.heads) == 1 else None


def prediction_errors(
    bundle: ModelBundle,
    graphs: GraphSource,
    plan: BatchPlan,
    *,
    source: str,
    backend: Backend,
    track: Track,
) -> dict[str, CompositionRows]:
    """Predict planned structures; return compositions and errors, label minus prediction, by head.

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

    rows = {head: CompositionRows() for head in bundle.heads}
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
                error = np.array([graph.interaction_energy - energy])
                rows[bundle.heads[graph.head]].add(counts[None], error)
    return rows
