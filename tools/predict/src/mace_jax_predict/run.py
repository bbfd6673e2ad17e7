"""From checked inputs to the file of predictions, in memory that does not grow with them."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from mace_jax.architecture import model_inputs
from mace_jax.artifacts.batch_plan import (
    BatchPlan,
    PlannedDataset,
    batch_plan_input,
    read_batch_plan,
    require_plan_fits,
)
from mace_jax.artifacts.dataset import Layout
from mace_jax.artifacts.label_errors import LabelErrors
from mace_jax.artifacts.model_bundle import ModelBundle, model_bundle_input
from mace_jax.artifacts.predictions import (
    OWN_HEADS,
    PredictedBlock,
    is_per_atom,
    predictions_metadata,
)
from mace_jax.artifacts.predictions_file import PredictionsBlock
from mace_jax.artifacts.predictions_writer import BlockWriter, writing_predictions
from mace_jax.artifacts.provenance import Input, make_provenance
from mace_jax.batching.graph import GraphBuilder
from mace_jax.batching.graph_sizes import SizedDataset
from mace_jax.batching.graph_source import DatasetGraphs
from mace_jax.batching.loader import PlannedLoader
from mace_jax.batching.plan import PlanSettings, plan_sized
from mace_jax.cli.progress import track_on_stderr
from mace_jax.errors import DataError, IncompatibleError
from mace_jax.model.backend import BACKENDS
from mace_jax.model.computing import computing
from mace_jax.model.load import graph_builder
from mace_jax.model.predict import InputOrder, Predictor
from mace_jax.preparation.skipped import Skipped
from mace_jax.structures.label_keys import LabelKeys
from mace_jax.structures.ragged import offsets_of
from mace_jax_predict.error_table import error_table
from mace_jax_predict.inputs import TOOL, Inputs, open_inputs
from mace_jax_predict.pseudo_labels import label_names, source_of_labels, writing_labels

log = logging.getLogger(__name__)

_BLOCK = 256  # structures that are written at once


@dataclass(frozen=True)
class Options:
    """What is asked for; the flags of the command line by their names.

    Attributes:
        bundle: the model, of the head and dtype that are wanted.
        head: which one, if one was named.
        keys: where labels are.
        as_labels: whether predictions become the labels of a dataset.
        head_name: head of its structures.
    """

    model: Path
    bundle: ModelBundle
    structures: tuple[Path, ...]
    output: Path
    head: str | None
    keys: LabelKeys
    plan: Path | None
    batch_max_edges: int
    descriptors: bool
    skip_bad: int
    info_prefix: str
    as_labels: bool
    head_name: str | None
    layout: Layout
    backend: Literal["dense", "cueq"]
    device: str
    compile_cache: bool
    reproducible: bool


def run(options: Options) -> dict[str, Any]:
    """Predict everything and write the file.

    Returns: how many structures there are, have labels and were passed over, and the errors.

    Raises:
        DataError, ArtifactError, IncompatibleError: nothing has been written then.
    """
    folder, skipped = options.output.parent, Skipped(options.skip_bad)
    folder.mkdir(parents=True, exist_ok=True)
    builder = graph_builder(options.bundle)
    with (
        TemporaryDirectory(prefix=f".{options.output.name}.", suffix=".tmp", dir=folder) as name,
        ExitStack() as stack,
    ):
        scratch = Path(name)
        inputs = open_inputs(options.structures, builder, options.keys, skipped, scratch, stack)
        plan = _plan(inputs, builder.r_max, options)
        found = _predict(inputs, builder, plan, options, scratch)
        errors = _write(inputs, found, len(skipped.messages), options)
    for line in error_table(errors):
        log.info("%s", line)
    return _summary(inputs, found, skipped, errors)


def _plan(inputs: Inputs, r_max: float, options: Options) -> BatchPlan:
    """Return the user's plan if it is for these inputs, or else a new one.

    Raises:
        IncompatibleError: it is for others, or leaves structures out.
    """
    if options.plan is None:
        n_graph = len(inputs.sizes.n_node)
        everything = SizedDataset(
            PlannedDataset("structures", "", n_graph),
            r_max,
            inputs.sizes,
            inputs.place,
            inputs.as_inputs[0],
        )
        return plan_sized([everything], PlanSettings(options.batch_max_edges))
    plan = read_batch_plan(options.plan)
    require_plan_fits(plan, options.plan, inputs.datasets, r_max)
    if plan.skipped:
        message = (
            f"{options.plan}: skips {len(plan.skipped)} structures, expected none, as all are to "
            "be predicted; plan again without --oversize skip"
        )
        raise IncompatibleError(message)
    return plan


def _predict(
    inputs: Inputs, builder: GraphBuilder, plan: BatchPlan, options: Options, scratch: Path
) -> dict[str, NDArray[np.floating]]:
    """Return arrays of all predictions, which are files in ``scratch``.

    Raises:
        DataError: a prediction is not finite.
    """
    bundle, backend = options.bundle, BACKENDS[options.backend]

    def make(name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        return open_memmap(scratch / f"{name}.npy", "w+", dtype, shape)

    found = InputOrder(inputs.sizes.n_node, make)
    with (
        computing(
            bundle.dtype,
            backend=backend,
            device=options.device,
            compile_cache=options.compile_cache,
        ),
        PlannedLoader(DatasetGraphs(inputs.datasets, builder), plan, bundle.dtype) as loader,
    ):
        predictor = Predictor(
            bundle, str(options.model), backend, with_descriptors=options.descriptors
        )
        batches = track_on_stderr(loader.in_order(), "predicting", len(loader))
        for index, rows in predictor(batches):
            ids = plan.batches[index]
            for name, values in rows.items():
                _require_finite(name, values, ids, inputs)
            found.put(ids, rows)
    return found.quantities


def _require_finite(
    name: str, values: NDArray[np.floating], ids: NDArray[np.int64], inputs: Inputs
) -> None:
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if finite.all():
        return
    row = int(np.argmin(finite))
    graph = ids[row]
    if is_per_atom(name):
        ends = np.cumsum(inputs.sizes.n_node[ids])
        graph = ids[np.searchsorted(ends, row, side="right")]
    message = (
        f"{inputs.place(int(graph))}: {name} is predicted as {values[row].ravel()[0]:g}, expected "
        "finite numbers; look for atoms at one place, or for weights of a diverged training"
    )
    raise DataError(message)


def _write(
    inputs: Inputs, found: dict[str, NDArray[np.floating]], n_skipped: int, options: Options
) -> LabelErrors:
    """Write the file, and return the errors."""
    writing = _writing_labels if options.as_labels else _writing_predictions
    errors = LabelErrors()
    with writing(inputs, list(found), n_skipped, options) as writer:
        for block in _blocks(inputs, found, options.bundle.heads):
            writer.write(block)
            errors.add(PredictionsBlock.of(block))
    return errors


def _writing_predictions(
    inputs: Inputs, quantities: list[str], n_skipped: int, options: Options
) -> AbstractContextManager[BlockWriter]:
    heads = options.bundle.heads
    metadata = predictions_metadata(
        options.output,
        _provenance(model_bundle_input(options.model), inputs, options),
        head=heads[0] if len(heads) == 1 else OWN_HEADS,
        quantities=quantities,
        labels=inputs.labels,
        n_graph=len(inputs.sizes.n_node),
        n_skipped=n_skipped,
    )
    return writing_predictions(options.output, metadata, prefix=options.info_prefix)


def _writing_labels(
    inputs: Inputs, quantities: list[str], _n_skipped: int, options: Options
) -> AbstractContextManager[BlockWriter]:
    names = ", ".join(label_names(quantities))
    log.info("%s: labels are predictions of %s: %s", options.output, options.model, names)
    return writing_labels(
        options.output,
        _provenance(source_of_labels(options.model), inputs, options),
        told=[spec.source for spec in model_inputs(options.bundle.config)],
        head_name=options.head_name,
        layout=options.layout,
    )


def _provenance(model: Input, inputs: Inputs, options: Options) -> dict[str, Any]:
    used = [model, *inputs.as_inputs]
    if options.plan:
        used.append(batch_plan_input("plan", options.plan))
    return make_provenance(TOOL, used, reproducible=options.reproducible)


def _blocks(
    inputs: Inputs, found: dict[str, NDArray[np.floating]], heads: tuple[str, ...]
) -> Iterator[PredictedBlock]:
    """Yield structures with their predictions, in order."""
    offsets = offsets_of(inputs.sizes.n_node)
    (source,), (frame,), (head,) = inputs.source, inputs.frame, inputs.head
    start = 0
    for structures in inputs.structures(_BLOCK):
        graphs = slice(start, start + len(structures))
        atoms = slice(offsets[graphs.start], offsets[graphs.stop])
        yield PredictedBlock(
            structures,
            [inputs.sources[number].path.name for number in source[graphs].tolist()],
            frame[graphs],
            [heads[number] for number in head[graphs].tolist()],
            {name: array[atoms if is_per_atom(name) else graphs] for name, array in found.items()},
        )
        start = graphs.stop


def _summary(
    inputs: Inputs,
    found: dict[str, NDArray[np.floating]],
    skipped: Skipped,
    errors: LabelErrors,
) -> dict[str, Any]:
    n_graph = len(inputs.sizes.n_node)
    n_labels = {name: inputs.n_labels[name] for name in inputs.labels if name in found}
    for name, count in n_labels.items():
        if count < n_graph:
            log.info(
                "%s: %d of %d structures have no label and no part in the errors",
                *(name, n_graph - count, n_graph),
            )
    return {
        "n_graph": n_graph,
        "n_atoms": int(inputs.sizes.n_node.sum()),
        "skipped": skipped.messages,
        "n_labels": n_labels,
        **errors.summary(),
    }
