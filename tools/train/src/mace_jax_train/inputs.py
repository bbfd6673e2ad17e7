"""What a run reads, and what it makes first where something is missing.

extxyz becomes HDF5 and batches are planned by the same code as in the tools for it, and kept with
the run.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from mace_jax.artifacts.atomic_write import atomic_directory
from mace_jax.artifacts.batch_plan import (
    BatchPlan,
    batch_plan_input,
    read_batch_plan,
    require_plan_fits,
    write_batch_plan,
)
from mace_jax.artifacts.dataset import Dataset, DatasetWriter
from mace_jax.artifacts.model_bundle import EmbeddingSpec
from mace_jax.artifacts.provenance import Input
from mace_jax.artifacts.train_config import term_weights
from mace_jax.artifacts.train_config_sections import DatasetsConfig, TrainConfig
from mace_jax.batching.plan import plan_batches
from mace_jax.batching.plan_report import plan_lines
from mace_jax.errors import ConfigError, DataError, IncompatibleError
from mace_jax.preparation.sources import Source, require_energies, stream_source
from mace_jax.structures.isolated_atoms import IsolatedAtoms, is_isolated_atom
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.structure import PROPERTY_SHAPES
from mace_jax.tracking import Track
from mace_jax_train.run_files import RunFiles

log = logging.getLogger(__name__)


def open_datasets(
    config: TrainConfig, told: Sequence[EmbeddingSpec], files: RunFiles, stack: ExitStack
) -> tuple[IsolatedAtoms, dict[str, Dataset]]:
    """Open the splits, converting extxyz to HDF5 in the run's folder first.

    Args:
        config: of the run.
        told: what the model is told of a structure beside atoms and positions.
        files: where to keep what is made.
        stack: closes the datasets.

    Raises:
        ArtifactError, DataError: a file is missing or damaged, a frame is wrong, or a file has what
            HDF5 does not keep.
    """
    isolated = IsolatedAtoms()
    datasets = {}
    for split in ("train", "valid", "test"):
        text = getattr(config.datasets, f"{split}_path")
        if text is None:
            continue
        source = Source(Path(text), split)
        path = source.path
        if path.is_file() and not source.is_dataset:
            path = _convert(source, config, told, isolated, files)
        datasets[split] = stack.enter_context(Dataset(path))
    return isolated, datasets


def label_keys(config: DatasetsConfig) -> LabelKeys:
    """Return the user's own keys of what extxyz has."""
    keys = {name: getattr(config, f"{name}_key") for name in PROPERTY_SHAPES}
    given = {name: key for name, key in keys.items() if key}
    return LabelKeys(given, head=config.head_key) if config.head_key else LabelKeys(given)


def _convert(
    source: Source,
    config: TrainConfig,
    told: Sequence[EmbeddingSpec],
    isolated: IsolatedAtoms,
    files: RunFiles,
) -> Path:
    """Write the dataset of an extxyz file; isolated atoms of the training data go elsewhere."""
    folder = files.path(".data") / source.split
    keys = label_keys(config.datasets)
    counts, n_energies, n_structures = LabelCounts(), 0, 0
    with (
        atomic_directory(folder) as temporary,
        DatasetWriter(
            temporary / f"{source.split}_0.h5",
            files.provenance([source.as_input()]),
            layout="flat",
        ) as writer,
    ):
        for _, structure in stream_source(source, keys, counts):
            if source.split == "train" and is_isolated_atom(structure):
                isolated.add(structure)
                continue
            writer.write([structure])
            n_structures += 1
            n_energies += "energy" in structure.properties
        names = {spec.source for spec in told} - PROPERTY_SHAPES.keys()
        lost = sorted(names & counts.seen_keys.keys())
        if lost:
            message = (
                f"{source.path}: has {', '.join(lost)}, which the model is told but HDF5 does not "
                "keep, so that it cannot be trained on; begin with a model that does not need it"
            )
            raise DataError(message)
        if source.split != "test" and term_weights(config.loss).get("energy"):
            require_energies(n_energies, n_structures, {source: counts}, keys)
    log.info("%s: converted %s to %s", source.split, source.path, folder.parent.name)
    return folder


def run_plan(
    config: TrainConfig,
    split: str,
    dataset: Dataset,
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
    text = getattr(config.datasets, f"{split}_plan")
    if text:
        path = Path(text)
        plan = read_batch_plan(path)
        require_plan_fits(plan, path, [dataset], r_max)
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
        plan = plan_batches(dataset, r_max, n_edge, seed, track, n_devices)
        provenance = files.provenance([dataset.as_input("dataset")], seed)
        write_batch_plan(path, plan, provenance)
    inputs.append(batch_plan_input(f"{split}_plan", path))
    for line in plan_lines(plan):
        log.info("%s: %s", split, line)
    return plan
