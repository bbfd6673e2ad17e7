"""Predict structures with a bundle that was just written."""

import logging
from pathlib import Path
from typing import Any

from mace_jax.architecture import model_inputs
from mace_jax.artifacts.model_bundle import ModelBundle, model_bundle_input
from mace_jax.artifacts.predictions_writer import write_predictions
from mace_jax.artifacts.provenance import external_input, make_provenance
from mace_jax.batching.graph import assumed_inputs
from mace_jax.cli.progress import track_on_stderr
from mace_jax.structures.read_structures import read_structures

log = logging.getLogger(__name__)

_N_EDGE = 8192  # edges per batch


def predict_beside(
    model: Path, bundle: ModelBundle, structures: Path, output: Path, *, reproducible: bool
) -> dict[str, Any]:
    """Write predictions as extxyz and print the energies.

    Structures that name no head that the model has are predicted by its first.

    Args:
        model: the bundle's file.
        bundle: its content.
        structures: extxyz file.
        output: where the predictions go.
        reproducible: leave out what differs from run to run.

    Returns: path and energies, eV, for the command's summary.
    """
    import jax

    from mace_jax.model.predict import predict

    needed = model_inputs(bundle.config)
    head = bundle.heads[0]
    loaded, _ = read_structures(structures, inputs=[spec.source for spec in needed])
    for sentence in assumed_inputs(loaded, needed):
        log.warning("%s: %s", structures, sentence)
    with jax.enable_x64(bundle.dtype == "float64"):
        predictions = predict(
            bundle, str(model), loaded, n_edge=_N_EDGE, head=head, track=track_on_stderr
        )
    provenance = make_provenance(
        "mace-jax-convert",
        [model_bundle_input(model), external_input("structures", structures, "extxyz")],
        reproducible=reproducible,
    )
    write_predictions(output, predictions, loaded, head, provenance)
    log.info("%s: predictions by head %s", output, head)
    summary: dict[str, Any] = {"path": str(output), "head": head}
    if "energy" in predictions.quantities:
        summary["energy"] = predictions.quantities["energy"].tolist()
        for index, energy in enumerate(summary["energy"]):
            log.info("structure %d: energy %.8g eV", index, energy)
    return summary
