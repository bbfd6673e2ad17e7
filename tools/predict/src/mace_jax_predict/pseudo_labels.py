"""Predictions as the labels of a dataset, which can be trained on: what the model would teach."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mace_jax.artifacts.dataset import Layout
from mace_jax.artifacts.model_bundle import model_bundle_input
from mace_jax.artifacts.predictions import PredictedBlock
from mace_jax.artifacts.predictions_writer import BlockWriter, one_by_one, with_meaning
from mace_jax.artifacts.provenance import Input
from mace_jax.artifacts.structures_file import StructuresWriter, writing_structures
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure

# A second name for the stress, which readers take as another label.
_TWICE = "virials"


def source_of_labels(model: Path) -> Input:
    """Describe a bundle in the provenance record of a dataset whose labels are its predictions."""
    return replace(model_bundle_input(model), role="labels")


def label_names(quantities: list[str]) -> list[str]:
    """Return which of the predicted quantities become labels."""
    return [name for name in PROPERTY_SHAPES if name in quantities and name != _TWICE]


def pseudo_labelled(
    block: PredictedBlock, told: Collection[str], head_name: str | None
) -> list[Structure]:
    """Return structures with predictions in the place of all the labels that they had.

    Args:
        block: structures and predictions.
        told: what the model is told; where that is a label, such as charges, it stays one.
        head_name: head of the structures; by default the readout head that predicted each.
    """
    found = []
    names = label_names(list(block.predictions))
    for structure, head, values in zip(
        block.structures, block.heads, one_by_one(block), strict=True
    ):
        given = {**structure.properties, **structure.inputs}
        stays = {name: given[name] for name in PROPERTY_SHAPES if name in told and name in given}
        predicted = {n: value for n, value in with_meaning(values, structure) if n in names}
        found.append(
            replace(
                structure,
                properties={**stays, **predicted},
                property_weights={},
                inputs={n: value for n, value in structure.inputs.items() if n not in stays},
                head=head_name or head,
            )
        )
    return found


class _LabelWriter:
    """Takes blocks of predictions, and writes structures."""

    def __init__(
        self, writer: StructuresWriter, told: Collection[str], head_name: str | None
    ) -> None:
        self._writer, self._told, self._head_name = writer, told, head_name

    def write(self, block: PredictedBlock) -> None:
        self._writer.write(pseudo_labelled(block, self._told, self._head_name))


@contextmanager
def writing_labels(
    path: Path,
    provenance: dict[str, Any],
    *,
    told: Collection[str],
    head_name: str | None,
    layout: Layout,
) -> Iterator[BlockWriter]:
    """Write a dataset atomically.

    Args:
        path: ``.xyz``, ``.extxyz`` or HDF5.
        provenance: record of ``make_provenance``.
        told, head_name: as of ``pseudo_labelled``.
        layout: of HDF5.
    """
    with writing_structures(path, provenance, layout=layout) as writer:
        yield _LabelWriter(writer, told, head_name)
