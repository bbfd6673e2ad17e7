"""Choose structures of a model's own training data, to be trained on again beside new data."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mace_jax.architecture import model_inputs
from mace_jax.artifacts.atomic_write import atomic_directory_entries, require_absent
from mace_jax.artifacts.dataset import Dataset, Layout
from mace_jax.artifacts.model_bundle import ModelBundle, model_bundle_input, read_model_bundle
from mace_jax.artifacts.provenance import Input, file_sha256, make_provenance
from mace_jax.artifacts.selection import Selection, selection_path, write_selection
from mace_jax.artifacts.structures_file import writing_structures
from mace_jax.errors import DataError
from mace_jax.preparation.skipped import Skipped
from mace_jax.preparation.sources import BLOCK, Source, unparsed_frames, with_a_file
from mace_jax.structures.label_keys import LabelKeys
from mace_jax.structures.read_structures import parse_structure
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure, structure_digest
from mace_jax_preprocess.candidates import (
    Candidates,
    Reading,
    elements_of,
    find_candidates,
    require_elements,
)
from mace_jax_preprocess.choosing import choose_farthest, choose_random, choose_stratified
from mace_jax_preprocess.element_filter import ElementFilter, FilteringType, symbols
from mace_jax_preprocess.model_descriptors import describing
from mace_jax_preprocess.options import TOOL

log = logging.getLogger(__name__)

_ROLE = "structures"

Method = Literal["random", "farthest-point", "stratified"]


@dataclass(frozen=True)
class ReplayOptions:
    """What is asked for; the flags of the command line by their names."""

    structures: tuple[Path, ...]
    output: Path
    number: int | None
    method: Method
    model: Path | None
    elements: frozenset[int]
    elements_of: Path | None
    filtering_type: FilteringType
    seed: int
    head: str | None
    allow_fewer: bool
    layout: Layout
    keys: LabelKeys
    keep: tuple[str, ...]
    skip_bad: int
    batch_max_edges: int
    device: str
    compile_cache: bool
    force: bool
    reproducible: bool

    @property
    def names(self) -> str:
        """Return what messages call the input."""
        return ", ".join(map(str, self.structures))


def select_replay(options: ReplayOptions) -> dict[str, Any]:
    """Write the chosen structures, and which they are.

    Returns: how many were read, could be chosen and were chosen.

    Raises:
        DataError, ArtifactError, ConfigError: nothing has been written then.
    """
    target = selection_path(options.output)
    for path in (options.output, target):
        require_absent(path, force=options.force, inputs=_read_files(options))
    bundle = read_model_bundle(options.model) if options.model else None
    reading = Reading(options.keys, _kept(options, bundle), Skipped(options.skip_bad))
    with TemporaryDirectory() as work:
        sources = [with_a_file(Source(path, _ROLE), Path(work)) for path in options.structures]
        inputs = [source.as_input() for source in sources] + _further_inputs(options)
        element_filter = _element_filter(options, reading.skipped)
        found = _candidates(sources, element_filter, reading, options, bundle)
        chosen = _choose(found, element_filter, options)
        provenance = make_provenance(
            TOOL, inputs, seed=options.seed, reproducible=options.reproducible
        )
        names = (options.output.name, target.name)
        with atomic_directory_entries(options.output.parent, names) as folder:
            structures = _read_again(sources, found, chosen, reading)
            dataset = folder / options.output.name
            digests = _write(dataset, structures, provenance, options)
            selection = Selection(
                dataset.name,
                file_sha256(dataset),
                options.method,
                options.number,
                element_filter.kind,
                tuple(sorted(element_filter.elements)),
                options.head,
                found.counts(),
                tuple(source.file.name for source in sources),
                np.array(found.source)[chosen],
                np.array(found.frame)[chosen],
                tuple(digests),
            )
            write_selection(folder / target.name, selection, provenance)
    log.info("%s: which they are", target)
    return {
        **selection.counts,
        "chosen": len(chosen),
        "compositions": len(np.unique(np.array(found.composition)[chosen])),
        "selection": str(target),
        "skipped": reading.skipped.messages,
    }


def _read_files(options: ReplayOptions) -> list[Path]:
    """Return all files that are read."""
    return [*options.structures, *filter(None, (options.elements_of, options.model))]


def _kept(options: ReplayOptions, bundle: ModelBundle | None) -> tuple[str, ...]:
    """Return what is kept beside labels: what the user wants, and what the model is told."""
    told = [spec.source for spec in model_inputs(bundle.config)] if bundle else []
    names = dict.fromkeys([*options.keep, *told])
    return tuple(name for name in names if name not in PROPERTY_SHAPES)


def _further_inputs(options: ReplayOptions) -> list[Input]:
    found = [model_bundle_input(options.model)] if options.model else []
    if options.elements_of:
        found.append(Source(options.elements_of, "elements").as_input())
    return found


def _element_filter(options: ReplayOptions, skipped: Skipped) -> ElementFilter:
    if options.elements_of is None:
        return ElementFilter(options.filtering_type, options.elements)
    elements = elements_of(Source(options.elements_of, "elements"), skipped)
    return ElementFilter(options.filtering_type, elements)


def _candidates(
    sources: Sequence[Source],
    element_filter: ElementFilter,
    reading: Reading,
    options: ReplayOptions,
    bundle: ModelBundle | None,
) -> Candidates:
    """Return what may be chosen.

    Raises:
        DataError: nothing may, or an element that the user named does not occur.
    """
    computing = (
        describing(
            bundle,
            options.model,
            n_edge=options.batch_max_edges,
            device=options.device,
            compile_cache=options.compile_cache,
        )
        if bundle and options.model
        else nullcontext()
    )
    with computing as describe:
        found = find_candidates(sources, element_filter, reading, describe)
    if options.elements_of is None:
        require_elements(element_filter, found, options.names)
    elif element_filter.elements - found.elements:
        absent = symbols(element_filter.elements - found.elements)
        log.warning("%s: no structure has %s of the new data", options.names, absent)
    if not len(found):
        message = (
            f"{options.names}: 0 of {found.n_read} structures may be chosen, expected some with "
            f"{element_filter}; give other --elements or another --filtering-type"
        )
        raise DataError(message)
    log.info(
        "%d of %d structures may be chosen (%s), of %d compositions",
        *(len(found), found.n_read - found.n_isolated, element_filter, found.n_compositions),
    )
    return found


def _choose(
    found: Candidates, element_filter: ElementFilter, options: ReplayOptions
) -> NDArray[np.int64]:
    """Return numbers of candidates, ascending.

    Raises:
        DataError: there are fewer than are asked for.
    """
    n, number = len(found), options.number or len(found)
    if number > n:
        message = (
            f"{options.names}: {n} structures may be chosen ({element_filter}), expected "
            f"--number {number} at least; lower it, or give --allow-fewer to take all"
        )
        if not options.allow_fewer:
            raise DataError(message)
        log.warning("%d structures of %d that are wanted: all are taken", n, number)
    if number >= n:
        return np.arange(n)
    match options.method:
        case "random":
            chosen = choose_random(n, number, options.seed)
        case "stratified":
            chosen = choose_stratified(np.array(found.composition), number, options.seed)
        case "farthest-point":
            chosen = np.sort(choose_farthest(found.means, number, options.seed))
    log.info("%d of %d are chosen: %s, seed %d", number, n, options.method, options.seed)
    return chosen


def _read_again(
    sources: Sequence[Source], found: Candidates, chosen: NDArray[np.int64], reading: Reading
) -> Iterator[Structure]:
    """Yield the chosen structures in order; frames that are not chosen are not parsed."""
    of_source, frames = np.array(found.source)[chosen], np.array(found.frame)[chosen]
    for number, source in enumerate(sources):
        wanted = frames[of_source == number]
        if source.is_dataset:
            with Dataset(source.path) as dataset:
                for start in range(0, len(wanted), BLOCK):
                    yield from dataset.read(wanted[start : start + BLOCK].tolist())
            continue
        is_wanted = set(wanted.tolist())
        for frame, text in enumerate(unparsed_frames(source)):
            if frame in is_wanted:
                place = f"{source.name}: frame {frame}"
                yield parse_structure(text, reading.keys, source.head, place, reading.inputs)[0]


def _write(
    path: Path,
    structures: Iterator[Structure],
    provenance: dict[str, Any],
    options: ReplayOptions,
) -> list[str]:
    """Write structures, and return the digest of each."""
    digests = []
    with writing_structures(path, provenance, layout=options.layout) as writer:
        while block := list(islice(structures, BLOCK)):
            if options.head is not None:
                block = [replace(structure, head=options.head) for structure in block]
            writer.write(block)
            digests += [structure_digest(structure) for structure in block]
    log.info("%s: %d structures", options.output, len(digests))
    return digests
