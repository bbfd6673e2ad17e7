"""Compare a bundle's numbers with those of mace-torch, or with those kept from an earlier time.

Needs the network, hence the extra ``model``; mace-torch if it is to be compared with.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.architecture import model_inputs
from mace_jax.artifacts.model_bundle import EmbeddingSpec, ModelBundle
from mace_jax.artifacts.predictions import SHAPES
from mace_jax.errors import CheckFailedError, ConfigError
from mace_jax.structures.structure import Structure
from mace_jax_convert.evaluate_torch import evaluate_torch
from mace_jax_convert.to_torch import has_mace_torch, mace_torch_version

log = logging.getLogger(__name__)

# Of float64 runs, relative to the largest number of a quantity, at least 1: rounding gives 1e-13.
# The couplings inside a float32 file are rounded, as is the prefactor of mace-torch's ZBL.
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}

Numbers = Mapping[str, NDArray[np.floating]]


def verified(bundle: ModelBundle, source: str) -> ModelBundle:
    """Return the bundle after its predictions were found equal to mace-torch's, or those it keeps.

    Both run in float64 on a few small structures of the model's elements.

    Args:
        bundle: the model.
        source: its file, for messages.

    Returns: the bundle with structures, reference numbers and differences in ``parity``.

    Raises:
        CheckFailedError: they differ beyond the tolerance.
        ConfigError: mace-torch is not installed, and the bundle keeps no numbers.
    """
    structures = verification_structures(bundle)
    if has_mace_torch():
        reference = mace_torch_version()
        numbers = evaluate_torch(bundle, structures)
    elif bundle.parity is not None:
        reference = bundle.parity["reference"]
        structures = [_kept_structure(record) for record in bundle.parity["structures"]]
        numbers = [_kept_numbers(record) for record in bundle.parity["structures"]]
    else:
        message = (
            f"{source}: --verify: mace-torch is not installed and the bundle keeps no numbers of "
            'it; pip install "./tools/convert[torch]"'
        )
        raise ConfigError(message)
    found = _our_numbers(bundle, source, structures)
    errors = _largest_differences(found, numbers)
    tolerance = TOLERANCE[bundle.dtype]
    for name, error in errors.items():
        log.info("verify: %s differs from %s by %.1e at most", name, reference, error)
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    if wrong:
        name, error = max(wrong.items(), key=lambda item: item[1])
        message = (
            f"{source}: {name} differs from {reference} by {error:.1e} of its size, expected at "
            f"most {tolerance:.0e}; do not use this model, and report it"
        )
        raise CheckFailedError(message)
    return replace(
        bundle,
        parity={
            "reference": reference,
            "dtype": "float64",
            "tolerance": tolerance,
            "errors": errors,
            "structures": [
                _record(structure, values)
                for structure, values in zip(structures, numbers, strict=True)
            ],
        },
    )


def verification_structures(bundle: ModelBundle) -> list[Structure]:
    """Return the same few structures for every model of the same elements and heads.

    All elements meet; there are single atoms, short distances, a cluster and a skewed crystal.
    """
    elements = np.array(bundle.config.atomic_numbers)
    rng = np.random.default_rng(7)
    no_cell, crystal = (
        np.zeros((3, 3)),
        np.array([[3.9, 0.2, -0.1], [1.3, 3.6, 0.3], [-0.7, 0.9, 4.4]]),
    )
    few = elements[np.linspace(0, len(elements) - 1, 4).astype(int)]
    grid = np.argwhere(np.ones((5, 5, 5)))[: len(elements)] * 1.9
    shapes = {
        "atom": (elements[:1], np.zeros((1, 3)), no_cell),
        "dimer": (few[[0, -1]], np.array([[0.0, 0.0, 0.0], [0.5, 0.4, 0.6]]), no_cell),
        "cluster": (elements, grid + rng.uniform(-0.3, 0.3, grid.shape), no_cell),
        "crystal": (few, rng.uniform(0, 1, (4, 3)) @ crystal, crystal),
    }
    return [
        Structure(
            numbers,
            positions,
            cell,
            np.full(3, bool(cell.any())),
            head=head,
            place=name,
            inputs={
                spec.source: _input(spec, len(numbers), rng) for spec in model_inputs(bundle.config)
            },
        )
        for head in bundle.heads
        for name, (numbers, positions, cell) in shapes.items()
    ]


def _input(spec: EmbeddingSpec, n_atoms: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a value that the model knows, of one graph or of every atom."""
    shape = (1 if spec.per == "graph" else n_atoms, spec.in_dim)
    if spec.type == "categorical":
        low, high = -spec.offset, spec.num_classes - spec.offset
        return rng.integers(max(low, -2), min(high, 4), shape).astype(np.float64)
    return rng.uniform(-0.5, 0.5, shape)


def _our_numbers(
    bundle: ModelBundle, source: str, structures: Sequence[Structure]
) -> list[Numbers]:
    import jax

    from mace_jax.model.predict import predict

    with jax.enable_x64(True):
        predicted = predict(bundle.astype("float64"), source, structures, n_edge=4096)
    return [predicted.of_structure(index) for index in range(len(structures))]


def _largest_differences(
    found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return, by quantity, the largest difference relative to its size in that structure."""
    errors: dict[str, float] = {}
    for ours, reference in zip(found, expected, strict=True):
        for name, values in reference.items():
            size = max(1.0, float(np.abs(values).max()))
            difference = float(np.abs(ours[name] - values).max()) / size
            errors[name] = float(np.maximum(errors.get(name, 0.0), difference))  # keeps a NaN
    return errors


def _record(structure: Structure, numbers: Numbers) -> dict[str, Any]:
    return {
        "name": structure.place,
        "head": structure.head,
        "atomic_numbers": structure.atomic_numbers.tolist(),
        "positions": structure.positions.tolist(),
        "cell": structure.cell.tolist(),
        "pbc": structure.pbc.tolist(),
        "inputs": {name: value.tolist() for name, value in structure.inputs.items()},
        "quantities": {name: value.tolist() for name, value in numbers.items()},
    }


def _kept_structure(record: Mapping[str, Any]) -> Structure:
    return Structure(
        np.array(record["atomic_numbers"]),
        np.array(record["positions"]),
        np.array(record["cell"]),
        np.array(record["pbc"]),
        head=record["head"],
        place=record["name"],
        inputs={name: np.array(value) for name, value in record["inputs"].items()},
    )


def _kept_numbers(record: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    return {name: np.array(value) for name, value in record["quantities"].items() if name in SHAPES}
