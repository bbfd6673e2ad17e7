"""What is to be predicted: files of any kind, read once, checked, and numbered through."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.dataset import SUFFIXES, Dataset, DatasetWriter
from mace_jax.artifacts.provenance import Input, make_provenance
from mace_jax.batching.graph import Graph, GraphBuilder, assumptions, given_inputs
from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.errors import DataError
from mace_jax.preparation.skipped import Skipped
from mace_jax.preparation.sources import Source, report_source, unparsed_frames, with_a_file
from mace_jax.structures.input_files import expand_inputs
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.read_structures import parse_frames
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure

log = logging.getLogger(__name__)

TOOL = "mace-jax-predict"
_ROLE = "structures"
_BLOCK = 256  # structures that are checked at once

_Numbered = list[tuple[int, Structure]]  # each with the number of its frame


@dataclass
class Inputs:
    """Everything that is to be predicted, in order, as far as it must be known before.

    Attributes:
        datasets: where the structures are.
        sources: what each dataset was read from.
        blocks: sizes of graphs, in succession.
        source, frame, head: of blocks: number of the source and of the frame there, and of the
            readout head.
        n_labels: structures that have each label.
        as_inputs: for the provenance record.
    """

    datasets: list[Dataset] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    blocks: list[GraphSizes] = field(default_factory=list)
    source: list[NDArray[np.int32]] = field(default_factory=list)
    frame: list[NDArray[np.int64]] = field(default_factory=list)
    head: list[NDArray[np.int32]] = field(default_factory=list)
    n_labels: Counter[str] = field(default_factory=Counter)
    as_inputs: list[Input] = field(default_factory=list)

    def add(self, frames: Sequence[int], graphs: Sequence[Graph]) -> None:
        """Take note of structures of the last source."""
        self.blocks.append(GraphSizes.from_lists([g.n_neighbors.astype("<i4") for g in graphs]))
        self.source.append(np.full(len(graphs), len(self.sources) - 1, np.int32))
        self.frame.append(np.array(frames, np.int64))
        self.head.append(np.array([graph.head for graph in graphs], np.int32))
        self.n_labels.update(name for graph in graphs for name in graph.structure.properties)

    def join(self) -> None:
        """Make one block of all."""
        self.blocks = [GraphSizes.joined(self.blocks)]
        for several in (self.source, self.frame, self.head):
            several[:] = [np.concatenate(several)]  # type: ignore[list-item]

    @property
    def sizes(self) -> GraphSizes:
        """Of all graphs."""
        return self.blocks[0]

    @property
    def labels(self) -> list[str]:
        """Labels that some structure has."""
        return [name for name in PROPERTY_SHAPES if self.n_labels[name]]

    def place(self, number: int) -> str:
        """Return where a structure was read."""
        return f"{self.sources[self.source[0][number]].name}: frame {self.frame[0][number]}"

    def structures(self, size: int) -> Iterator[list[Structure]]:
        """Yield all structures in order, ``size`` at a time; a block ends where a source does."""
        for dataset in self.datasets:
            for start in range(0, len(dataset), size):
                yield dataset.read(range(start, min(start + size, len(dataset))))


class _SpooledInput(Dataset):
    """A copy of what cannot be read at will, with inputs of models, which HDF5 does not hold."""

    def __init__(self, path: Path, told: Sequence[Mapping[str, NDArray[np.float64]]]) -> None:
        """Open the copy; ``told`` is ``inputs`` of each structure, or empty if they have none."""
        super().__init__(path)
        self._told = told

    def read(self, indices: Sequence[int]) -> list[Structure]:
        """Read structures in the given order."""
        found = super().read(indices)
        if not self._told:
            return found
        return [
            replace(structure, inputs=self._told[index])
            for structure, index in zip(found, indices, strict=True)
        ]


def open_inputs(
    patterns: Sequence[Path],
    builder: GraphBuilder,
    keys: LabelKeys,
    skipped: Skipped,
    scratch: Path,
    stack: ExitStack,
) -> Inputs:
    """Read and check everything; HDF5 stays where it is, other files are copied to ``scratch``.

    Args:
        patterns: files of any kind, folders of HDF5, globs, ``-`` for standard input.
        builder: of the model's graphs.
        keys: where labels are looked for.
        skipped: told of frames that are wrong or that the model cannot predict.
        scratch: a folder.
        stack: closes the files.

    Raises:
        DataError, ArtifactError: something is missing, damaged, or not for this model.
    """
    inputs, given = Inputs(), Counter[str]()
    for path in _files(patterns):
        source = with_a_file(Source(path, _ROLE), scratch)
        inputs.sources.append(source)
        inputs.as_inputs.append(source.as_input())
        counts = LabelCounts()
        if source.is_dataset and not skipped.limit:
            dataset = stack.enter_context(Dataset(path))
            blocks = _read(dataset, counts)
            for frames, graphs in _checked(blocks, builder, skipped):
                inputs.add(frames, graphs)
                given += given_inputs([graph.structure for graph in graphs], builder.inputs)
        else:
            target = scratch / f"{len(inputs.sources)}.h5"
            told: list[Mapping[str, NDArray[np.float64]]] = []
            blocks = _parsed(source, builder, keys, counts, skipped)
            with DatasetWriter(target, make_provenance(TOOL, []), layout="flat") as writer:
                for frames, graphs in _checked(blocks, builder, skipped):
                    inputs.add(frames, graphs)
                    structures = [graph.structure for graph in graphs]
                    writer.write(structures)
                    given += given_inputs(structures, builder.inputs)
                    told += [one.inputs for one in structures if builder.inputs]
            dataset = stack.enter_context(_SpooledInput(target, told))
        inputs.datasets.append(dataset)
        report_source(source, keys, counts)
    if not inputs.blocks:
        message = f"{', '.join(map(str, patterns))}: no structures to predict, expected some"
        raise DataError(message)
    inputs.join()
    n_graph = len(inputs.sizes.n_node)
    names = ", ".join(source.name for source in inputs.sources)
    for sentence in assumptions(given, n_graph, builder.inputs):
        log.warning("%s: %s", names, sentence)
    return inputs


def _files(patterns: Sequence[Path]) -> Iterator[Path]:
    """Yield files; a glob of HDF5 is one dataset.

    Raises:
        DataError: a file is missing, or named twice.
    """
    globs = {path for path in patterns if path.suffix in SUFFIXES and not path.exists()}
    expand_inputs([path for path in patterns if path not in globs])
    for pattern in patterns:
        yield from [pattern] if pattern in globs else expand_inputs([pattern])


def _read(dataset: Dataset, counts: LabelCounts) -> Iterator[_Numbered]:
    for start in range(0, len(dataset), _BLOCK):
        numbers = range(start, min(start + _BLOCK, len(dataset)))
        block = dataset.read(numbers)
        for structure in block:
            counts.add(structure.head, dict.fromkeys(structure.properties, "HDF5"), ())
        yield list(zip(numbers, block, strict=True))


def _parsed(
    source: Source,
    builder: GraphBuilder,
    keys: LabelKeys,
    counts: LabelCounts,
    skipped: Skipped,
) -> Iterator[_Numbered]:
    frames = parse_frames(
        unparsed_frames(source),
        source.name,
        keys,
        counts,
        inputs=[spec.source for spec in builder.inputs],
        on_bad=skipped.add,
    )
    while block := list(islice(frames, _BLOCK)):
        yield block


def _checked(
    blocks: Iterable[_Numbered], builder: GraphBuilder, skipped: Skipped
) -> Iterator[tuple[list[int], list[Graph]]]:
    """Yield the graphs of structures that the model can predict, with the numbers of frames."""
    for block in blocks:
        try:
            graphs = builder.build_all([structure for _, structure in block])
            yield [frame for frame, _ in block], graphs
        except DataError:
            good = [(frame, graph) for frame, graph in _one_by_one(block, builder, skipped)]
            if good:
                yield [frame for frame, _ in good], [graph for _, graph in good]


def _one_by_one(
    block: _Numbered, builder: GraphBuilder, skipped: Skipped
) -> Iterator[tuple[int, Graph]]:
    for frame, structure in block:
        try:
            yield frame, builder.build(structure)
        except DataError as error:
            skipped.add(error)
