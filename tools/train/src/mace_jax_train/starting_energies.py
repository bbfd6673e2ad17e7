"""The E0s of a run that begins with a model: its own, corrected ones, or those of the data."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from flax import nnx
from jax import Array

from mace_jax.artifacts.batch_plan import BatchPlan
from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.batching.graph_source import GraphSource
from mace_jax.elements import MAX_ATOMIC_NUMBER
from mace_jax.errors import DataError
from mace_jax.model.backend import Backend
from mace_jax.model.load import load_model
from mace_jax.model.predict import properties
from mace_jax.structures.atomic_energies import AVERAGE
from mace_jax.structures.atomic_energy_table import AtomicEnergyTable, atomic_energy_table
from mace_jax.structures.composition_rows import CompositionRows
from mace_jax.structures.model_energies import ESTIMATED, estimated_energies, kept_energies
from mace_jax.structures.statistics import Statistics
from mace_jax.structures.training_sums import TrainingSums
from mace_jax.tracking import Track
from mace_jax_train.training_statistics import FOUNDATION, ISOLATED_ATOM


def starting_energies(
    e0s: str | None,
    own: Mapping[int, float],
    sums: TrainingSums,
    given: Statistics | None,
    errors: Callable[[], CompositionRows],
) -> AtomicEnergyTable:
    """Find the E0s of a run that begins with a model.

    Args:
        e0s: ``foundation`` or None for the model's own, ``estimated`` for those with the least
            errors; ``average``, ``isolated_atom``, a dict or a file as for a fresh network.
        own: E0s of the model, eV, of the elements that are trained.
        sums: over the training set, of one head.
        given: the statistics file, which holds averages and isolated atoms of its data.
        errors: computes what ``prediction_errors`` does.

    Raises:
        ConfigError, DataError: ``e0s`` cannot be read, or leaves out an element.
    """
    ((head, of_head),) = sums.heads.items()
    elements = tuple(own)
    choice = (e0s or FOUNDATION).lower()
    if choice == FOUNDATION:
        others: dict[str, Mapping[int, float]] = {
            "isolated atoms in the data": sums.isolated_atoms.of_head(head)
        }
        if given:
            others["the statistics file"] = given.of_head(head).atomic_energies
        return kept_energies(own, head, of_head, others)
    if choice == ESTIMATED:
        return estimated_energies(own, head, of_head, errors())
    if given and choice in (AVERAGE, ISOLATED_ATOM):
        return atomic_energy_table(str(dict(given.of_head(head).atomic_energies)), sums, elements)
    return atomic_energy_table(None if choice == ISOLATED_ATOM else e0s, sums, elements)


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
        predicted = energies(state, pad_batch(batch, plan.shapes[shape], bundle.dtype))
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
                rows.add(counts, graph.interaction_energy - energy)
    return rows
