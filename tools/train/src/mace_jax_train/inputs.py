"""What a run reads, and what it makes first where something is missing.

extxyz becomes HDF5 and batches are planned by the same code as in the tools for it, and kept with
the run.
"""

import glob
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py

from mace_jax.artifacts.batch_plan import (
    BatchPlan,
    batch_plan_input,
    read_batch_plan,
    require_plan_fits,
    write_batch_plan,
)
from mace_jax.artifacts.dataset import SUFFIXES, Dataset, keep_frames
from mace_jax.artifacts.dataset_attributes import read_attributes
from mace_jax.artifacts.model_bundle import EmbeddingSpec
from mace_jax.artifacts.provenance import Input, file_sha256
from mace_jax.artifacts.train_config import term_weights
from mace_jax.artifacts.train_config_sections import DatasetsConfig, HeadConfig, TrainConfig
from mace_jax.batching.plan import plan_batches
from mace_jax.batching.plan_report import plan_lines
from mace_jax.errors import ConfigError, DataError, IncompatibleError
from mace_jax.preparation.collect import Choice, Collected, collect
from mace_jax.preparation.processes import Processes
from mace_jax.preparation.sources import Source, require_energies
from mace_jax.preparation.spool import read_origins
from mace_jax.structures.input_files import expand_inputs, require_file
from mace_jax.structures.isolated_atoms import IsolatedAtoms
from mace_jax.structures.label_keys import LabelKeys
from mace_jax.structures.structure import PROPERTY_SHAPES
from mace_jax.tracking import Track
from mace_jax_train.run_files import RunFiles
from mace_jax_train.run_heads import configured_heads, have_own_paths
from mace_jax_train.split_data import SplitData, require_distinct

log = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")


def open_datasets(
    config: TrainConfig,
    told: Sequence[EmbeddingSpec],
    files: RunFiles,
    stack: ExitStack,
    *,
    converted: bool = False,
) -> tuple[IsolatedAtoms, dict[str, SplitData]]:
    """Open the splits, converting extxyz to HDF5 in the run's folder first.

    Args:
        config: of the run.
        told: what the model is told of a structure beside atoms and positions.
        files: where to keep what is made.
        stack: closes the datasets.
        converted: whether the run goes on with the HDF5 files that it has.

    Raises:
        ArtifactError, DataError: a file is missing, damaged or named twice, a frame is wrong, or a
            file has what HDF5 does not keep.
        IncompatibleError: a file is not what was converted.
    """
    isolated = IsolatedAtoms()
    splits = {split: split_sources(config.datasets, split) for split in SPLITS}
    return isolated, {
        split: _open_split(split, sources, config, told, isolated, files, stack, converted)
        for split, sources in splits.items()
        if sources
    }


def split_paths(config: DatasetsConfig | HeadConfig, split: str) -> tuple[str, ...]:
    """Return the paths that a split, or a head's part of it, is read from; maybe none."""
    given: str | tuple[str, ...] | None = getattr(config, f"{split}_path")
    return (given,) if isinstance(given, str) else given or ()


def split_sources(config: DatasetsConfig, split: str) -> list[Source]:
    """Return what a split is read from, head by head; a glob of HDF5 files is one dataset.

    Raises:
        DataError: another glob names no file.
    """
    if not have_own_paths(config):
        return [Source(path, split) for path in _expanded(split_paths(config, split))]
    return [
        Source(path, split, head.name)
        for head in config.heads
        for path in _expanded(split_paths(head, split))
    ]


def _expanded(texts: Sequence[str]) -> Iterator[Path]:
    for text in texts:
        path = Path(text)
        as_named = path.suffix in SUFFIXES or path.exists() or not glob.has_magic(text)
        yield from [path] if as_named else expand_inputs([path])


def converted_path(files: RunFiles, split: str, number: int) -> Path:
    """Return where what source ``number`` of a split, of all heads, was converted to is kept."""
    return files.path(".data") / split / f"{split}_{number}.h5"


def label_keys(config: DatasetsConfig, head: str | None = None) -> LabelKeys:
    """Return the user's own keys of what extxyz has, maybe those of a head's files."""
    sections: dict[str | None, DatasetsConfig | HeadConfig] = {
        section.name: section for section in configured_heads(config)
    }
    section = sections.get(head, config)
    keys = {name: getattr(section, f"{name}_key") for name in PROPERTY_SHAPES}
    given = {name: key for name, key in keys.items() if key}
    return LabelKeys(given, head=config.head_key) if config.head_key else LabelKeys(given)


def _open_split(
    split: str,
    sources: Sequence[Source],
    config: TrainConfig,
    told: Sequence[EmbeddingSpec],
    isolated: IsolatedAtoms,
    files: RunFiles,
    stack: ExitStack,
    converted: bool,
) -> SplitData:
    datasets: list[tuple[Dataset, str | None]] = []
    digests: list[str] = []
    given: dict[str, list[tuple[Path, str, Sequence[Path]]]] = {}
    for number, source in enumerate(sources):
        target = converted_path(files, split, number)
        paths: Sequence[Path] = [source.path]
        dataset: Dataset | None = None
        if source.is_dataset:
            dataset = stack.enter_context(Dataset(source.path))
            digest, paths = dataset.sha256(), dataset.paths
        elif converted and target.exists():
            digest = _origin_sha256(source, target)
            dataset = stack.enter_context(Dataset(target, source.name))
        else:
            require_file(source.path)
            origin = source.as_input()
            digest = origin.sha256
            if _convert(source, origin, target, config, told, isolated, files):
                dataset = stack.enter_context(Dataset(target, source.name))
        if dataset is not None:
            datasets.append((dataset, source.head if have_own_paths(config.datasets) else None))
        given.setdefault(source.head, []).append((source.path, digest, paths))
        digests.append(digest)
    for items in given.values():
        require_distinct(split, items)
    if not datasets:
        names = ", ".join(str(source.path) for source in sources)
        message = f"{names}: isolated atoms only, expected structures to train on; name their file"
        raise DataError(message)
    filled = [item for item in datasets if len(item[0])] or datasets
    found, heads = zip(*filled, strict=True)
    return SplitData(split, found, heads, tuple(digests))


def _origin_sha256(source: Source, converted: Path) -> str:
    """Return the digest of the file that a run has converted.

    Raises:
        IncompatibleError: the source is still there, but holds something else now.
    """
    with h5py.File(converted) as file:
        attributes = read_attributes(file, converted)
    (origin,) = attributes["provenance"]["inputs"] if attributes else []
    if source.path.is_file() and file_sha256(source.path) != origin["sha256"]:
        message = (
            f"{source.path}: is not what {converted} was converted from when the run began; give "
            "that file, or begin the run anew with --force"
        )
        raise IncompatibleError(message)
    return str(origin["sha256"])


def _convert(
    source: Source,
    origin: Input,
    target: Path,
    config: TrainConfig,
    told: Sequence[EmbeddingSpec],
    isolated: IsolatedAtoms,
    files: RunFiles,
) -> bool:
    """Write the dataset of an extxyz file; isolated atoms of the training data go elsewhere.

    Its bytes follow from those of the file, so that a run of another name that goes on from a
    checkpoint finds the same data.

    Returns: whether there is anything in it.
    """
    own = have_own_paths(config.datasets)
    keys = label_keys(config.datasets, source.head if own else None)
    provenance = replace(files, reproducible=True).provenance([origin])
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as folder, Processes(1) as processes:
        read = collect([source], Choice(keys), Path(folder), provenance, processes)
        _require_told(source, read, told)
        spool = read.spools.get(source.split)
        if spool is not None:
            if source.split != "test" and term_weights(config.loss).get("energy"):
                require_energies(spool.labels["energy"], len(spool), read.counts, keys)
            keep_frames(spool.path, read_origins(spool.path)["frame"])
            spool.path.replace(target)
            log.info("%s: converted %s to %s", source.split, source.path, target.name)
    for head, energies in read.isolated.heads.items():
        isolated.merge(IsolatedAtoms({source.head if own else head: energies}))
    return spool is not None


def _require_told(source: Source, read: Collected, told: Sequence[EmbeddingSpec]) -> None:
    """Check that nothing is lost that the model is told.

    Raises:
        DataError: the file has it, but HDF5 does not keep it.
    """
    names = {spec.source for spec in told} - PROPERTY_SHAPES.keys()
    lost = sorted(names & read.counts[source].seen_keys.keys())
    if lost:
        message = (
            f"{source.path}: has {', '.join(lost)}, which the model is told but HDF5 does not "
            "keep, so that it cannot be trained on; begin with a model that does not need it"
        )
        raise DataError(message)


def run_plan(
    config: TrainConfig,
    data: SplitData,
    r_max: float,
    files: RunFiles,
    inputs: list[Input],
    track: Track,
    n_devices: int = 1,
) -> BatchPlan:
    """Read the plan of a split, or make and keep one, for as many batches at a time as devices.

    Raises:
        ConfigError: there is none, and nothing says how large batches are.
        IncompatibleError: it is a plan for other data, another cutoff or other processes.
    """
    split = data.name
    text = getattr(config.datasets, f"{split}_plan")
    if text:
        path = Path(text)
        plan = read_batch_plan(path)
        require_plan_fits(plan, path, data.datasets, r_max)
        if n_devices not in (1, plan.processes):
            message = (
                f"{path}: made for {plan.processes} processes, but {n_devices} devices train "
                f"together; plan again with --processes {n_devices}"
            )
            raise IncompatibleError(message)
    else:
        if config.datasets.n_edge is None:
            message = (
                f"no plan for {split} and datasets.n_edge is not set; "
                f"give --{split}-plan or --batch-max-edges"
            )
            raise ConfigError(message)
        path = files.path(f".{split}.plan.json")
        n_edge, seed = config.datasets.n_edge, config.flags.seed
        plan = plan_batches(data.datasets, r_max, n_edge, seed, track, n_devices)
        write_batch_plan(path, plan, files.provenance(data.inputs("dataset"), seed))
    inputs.append(batch_plan_input(f"{split}_plan", path))
    for line in plan_lines(plan):
        log.info("%s: %s", split, line)
    return plan
