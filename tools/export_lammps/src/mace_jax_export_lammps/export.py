"""From a bundle to what LAMMPS needs of it: one head, one precision, and the self-test."""

import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from mace_jax.architecture import model_inputs
from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.batching.graph import DEFAULT_INPUTS
from mace_jax.errors import ConfigError, DataError
from mace_jax.torch_models.select_head import select_head
from mace_jax_export_lammps.lammps_model import LammpsModel
from mace_jax_export_lammps.self_test import reference

log = logging.getLogger(__name__)

_ENERGY_MODELS = ("MACE", "ScaleShiftMACE")


def export(
    bundle: ModelBundle, source: str, *, head: str | None, dtype: str | None, self_test: bool
) -> LammpsModel:
    """Return the model that LAMMPS gets.

    Args:
        bundle: the model.
        source: its file, for messages.
        head: readout head; by default the only one.
        dtype: of weights and computation; by default the bundle's.
        self_test: whether to keep reference numbers; needs jax.

    Raises:
        DataError: the model does not predict energies alone, or needs what LAMMPS cannot tell it.
        ConfigError: the head is missing or unknown, or jax is not installed.
    """
    _check_model(bundle, source)
    if self_test and any(find_spec(name) is None for name in ("jax", "flax", "extxyz", "vesin")):
        message = (
            "--self-test computes with the network, which is not installed; "
            'pip install "./tools/export_lammps[model]" or give --no-self-test'
        )
        raise ConfigError(message)
    bundle = _one_head(bundle, source, head)
    bundle = replace(bundle if dtype is None else bundle.astype(dtype), parity=None)
    record = reference(bundle, source) if self_test else None
    return LammpsModel(bundle, record, Path(source).name)


def _check_model(bundle: ModelBundle, source: str) -> None:
    """Check that LAMMPS can use the model, and say what is assumed of its inputs."""
    if bundle.config.model not in _ENERGY_MODELS:
        message = (
            f"{source}: {bundle.config.model}, expected one of {list(_ENERGY_MODELS)}; LAMMPS's "
            "pair_style takes models of energies alone"
        )
        raise DataError(message)
    for spec in model_inputs(bundle.config):
        if spec.name not in DEFAULT_INPUTS:
            message = (
                f"{source}: needs {spec.name}, which LAMMPS cannot tell it; export a model "
                "without that input"
            )
            raise DataError(message)
        log.warning(
            "%s: %s: LAMMPS cannot tell it; %g is assumed",
            source,
            spec.name,
            DEFAULT_INPUTS[spec.name],
        )


def _one_head(bundle: ModelBundle, source: str, head: str | None) -> ModelBundle:
    if head is None and len(bundle.heads) > 1:
        message = f"{source}: heads {list(bundle.heads)}, expected one; choose it with --head"
        raise ConfigError(message)
    return select_head(bundle, head or bundle.heads[0])
