"""The command line of mace-jax-predict."""

import logging
from pathlib import Path
from typing import Literal

import click

from mace_jax.cli.command import Result, ToolCommand
from mace_jax.cli.options import (
    FilePath,
    backend_option,
    compile_cache_option,
    force_option,
    reproducible_option,
)

log = logging.getLogger(__name__)


@click.command(
    cls=ToolCommand,
    tool="mace-jax-predict",
    examples=(
        "mace-jax-predict model.msgpack structures.xyz --output predictions.npz",
        "mace-jax-predict model.msgpack structures.xyz --output predictions.extxyz --json",
    ),
)
@click.argument("model", type=FilePath)
@click.argument("structures", type=FilePath)
@click.option("--output", "-o", type=FilePath, required=True, help=".npz, .extxyz or .parquet")
@click.option("--head", help="readout head for all structures [default: each one's own]")
@click.option("--batch-max-edges", type=click.IntRange(1), default=8192, help="edges per batch")
@backend_option
@compile_cache_option
@force_option
@reproducible_option
def main(
    model: Path,
    structures: Path,
    output: Path,
    head: str | None,
    batch_max_edges: int,
    backend: Literal["dense", "cueq"] | None,
    compile_cache: bool,
    force: bool,
    reproducible: bool,
) -> Result:
    """Predict all that MODEL can of STRUCTURES (extxyz or HDF5): energy, forces, stress and so on.

    The order is that of the input. Where the input has labels, the errors are shown.
    """
    from mace_jax.architecture import model_inputs
    from mace_jax.artifacts.atomic_write import require_absent
    from mace_jax.artifacts.model_bundle import model_bundle_input, read_model_bundle
    from mace_jax.artifacts.predictions import require_predictions_suffix, write_predictions
    from mace_jax.artifacts.provenance import make_provenance
    from mace_jax.batching.graph import assumed_inputs
    from mace_jax.cli.progress import track_on_stderr
    from mace_jax.errors import ConfigError
    from mace_jax_predict.inputs import read_input
    from mace_jax_predict.label_errors import label_errors

    require_predictions_suffix(output)
    require_absent(output, force=force)
    bundle = read_model_bundle(model)
    if head is not None and head not in bundle.heads:
        message = f"--head: {head!r}, expected one of {list(bundle.heads)}"
        raise ConfigError(message)
    needed = model_inputs(bundle.config)
    loaded = read_input(structures, [spec.source for spec in needed])
    for sentence in assumed_inputs(loaded.structures, needed):
        log.warning("%s: %s", structures, sentence)

    from mace_jax.model.backend import BACKENDS
    from mace_jax.model.computing import computing
    from mace_jax.model.predict import predict

    chosen = BACKENDS[backend or "dense"]
    with computing(bundle.dtype, backend=chosen, compile_cache=compile_cache):
        predictions = predict(
            bundle,
            str(model),
            loaded.structures,
            n_edge=batch_max_edges,
            head=head,
            backend=chosen,
            track=track_on_stderr,
        )
    provenance = make_provenance(
        "mace-jax-predict",
        [model_bundle_input(model), loaded.as_input],
        reproducible=reproducible,
    )
    named_head = head or (bundle.heads[0] if len(bundle.heads) == 1 else "each structure's own")
    write_predictions(output, predictions, loaded.structures, named_head, provenance)
    errors = label_errors(predictions, loaded.structures)
    for name, value in errors.items():
        log.info("%s %.6g", name, value)
    return Result(output, {"n_graph": len(loaded.structures), **errors})
