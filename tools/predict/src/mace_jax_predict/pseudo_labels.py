"""Predictions as the labels of a dataset, which can be trained on: what the model would teach."""

from collections.abc import Iterator
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


def pseudo_labelled(block: PredictedBlock, head_name: str | None) -> list[Structure]:
    """Return structures with predictions in the place of all the labels that they had.

    Args:
        block: structures and predictions.
        head_name: head of the structures; by default the readout head that predicted each.
    """
    names = label_names(list(block.predictions))
    return [
        replace(
            structure,
            properties={
                name: value for name, value in with_meaning(values, structure) if name in names
            },
            property_weights={},
            head=head_name or head,
        )
        for structure, head, values in zip(
            block.structures, block.heads, one_by_one(block), strict=True
        )
    ]


class _LabelWriter:
    """Takes blocks of predictions, and writes structures."""

    def __init__(self, writer: StructuresWriter, head_name: str | None) -> None:
        self._writer, self._head_name = writer, head_name

    def write(self, block: PredictedBlock) -> None:
        self._writer.write(pseudo_labelled(block, self._head_name))


@contextmanager
def writing_labels(
    path: Path, provenance: dict[str, Any], *, head_name: str | None, layout: Layout
) -> Iterator[BlockWriter]:
    """Write a dataset atomically.

    Args:
        path: ``.xyz``, ``.extxyz`` or HDF5.
        provenance: record of ``make_provenance``.
        head_name: as of ``pseudo_labelled``.
        layout: of HDF5.
    """
    with writing_structures(path, provenance, layout=layout) as writer:
        yield _LabelWriter(writer, head_name)
