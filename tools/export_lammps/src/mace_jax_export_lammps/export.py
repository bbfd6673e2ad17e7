"""From a bundle to what LAMMPS needs of it: one head, one precision, and the self-test."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from mace_jax.architecture import model_inputs
from mace_jax.artifacts.model_bundle import EmbeddingSpec, ModelBundle
from mace_jax.batching.graph import DEFAULT_INPUTS
from mace_jax.errors import ConfigError, DataError
from mace_jax.torch_models.select_head import select_head
from mace_jax_export_lammps.lammps_model import LammpsModel
from mace_jax_export_lammps.self_test import reference

log = logging.getLogger(__name__)

_ENERGY_MODELS = ("MACE", "ScaleShiftMACE")


def export(
    bundle: ModelBundle,
    source: str,
    *,
    head: str | None = None,
    dtype: str | None = None,
    inputs: Mapping[str, float] | None = None,
    self_test: bool = True,
) -> LammpsModel:
    """Return the model that LAMMPS gets.

    Args:
        bundle: the model.
        source: its file, for messages.
        head: readout head; by default the only one.
        dtype: of weights and computation; by default the bundle's.
        inputs: what else the model is told in all simulations, such as ``total_charge``.
        self_test: whether to keep reference numbers; needs jax.

    Raises:
        DataError: the model does not predict energies alone, or needs what LAMMPS cannot tell it.
        ConfigError: the head is missing or unknown, an input is unknown, or jax is not installed.
    """
    if bundle.config.model not in _ENERGY_MODELS:
        message = (
            f"{source}: {bundle.config.model}, expected one of {list(_ENERGY_MODELS)}; LAMMPS's "
            "pair_style takes models of energies alone"
        )
        raise DataError(message)
    if self_test and any(find_spec(name) is None for name in ("jax", "flax", "extxyz", "vesin")):
        message = (
            "--self-test computes with the network, which is not installed; "
            'pip install "./tools/export_lammps[model]" or give --no-self-test'
        )
        raise ConfigError(message)
    told = _inputs(model_inputs(bundle.config), source, inputs or {})
    bundle = _one_head(bundle, source, head)
    bundle = replace(bundle if dtype is None else bundle.astype(dtype), parity=None)
    record = reference(bundle, told, source) if self_test else None
    return LammpsModel(bundle, told, record, Path(source).name)


def _inputs(
    specs: Sequence[EmbeddingSpec], source: str, given: Mapping[str, float]
) -> dict[str, float]:
    """Return a value for each input of the model; say which are assumed."""
    unknown = sorted(given.keys() - {spec.name for spec in specs})
    if unknown:
        known = [spec.name for spec in specs]
        message = f"--input: {unknown[0]!r}, expected one of {known}; leave it out"
        raise ConfigError(message)
    values = {}
    for spec in specs:
        value = given.get(spec.name, DEFAULT_INPUTS.get(spec.name))
        if value is None or spec.in_dim != 1:
            message = (
                f"{source}: needs {spec.name}, {spec.in_dim} numbers for each {spec.per}, which "
                "LAMMPS cannot tell it; give --input, or export a model without that input"
            )
            raise DataError(message)
        if spec.name not in given:
            log.warning("%s: %s: %g is assumed; --input gives it", source, spec.name, value)
        values[spec.name] = _known(spec, value)
    return values


def _known(spec: EmbeddingSpec, value: float) -> float:
    """Return the value of an input, if it is of a class that the model has."""
    low, high = -spec.offset, spec.num_classes - 1 - spec.offset
    if spec.type == "categorical" and not (low <= value <= high and value == round(value)):
        message = f"--input: {spec.name} {value:g}, expected a whole number from {low} to {high}"
        raise ConfigError(message)
    return float(value)


def _one_head(bundle: ModelBundle, source: str, head: str | None) -> ModelBundle:
    if head is None and len(bundle.heads) > 1:
        message = f"{source}: heads {list(bundle.heads)}, expected one; choose it with --head"
        raise ConfigError(message)
    return select_head(bundle, head or bundle.heads[0])
