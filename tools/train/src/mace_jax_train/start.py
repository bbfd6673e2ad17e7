"""From a configuration to everything a run needs: data, plans, statistics, network."""

import logging
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import numpy as np
from flax import nnx

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.model_bundle import ModelBundle, ModelConfig
from mace_jax.artifacts.provenance import Input
from mace_jax.artifacts.train_config_sections import FlagsConfig, TrainConfig
from mace_jax.batching.graph import GraphBuilder
from mace_jax.batching.graph_source import DatasetGraphs
from mace_jax.batching.loader import PlannedLoader
from mace_jax.elements import species_index
from mace_jax.errors import DataError
from mace_jax.model.backend import DENSE, Backend
from mace_jax.model.load import model_parameters
from mace_jax.model.mace import MACE
from mace_jax.structures.statistics import Statistics
from mace_jax.tracking import Track
from mace_jax_train.data_parallel import ONE_DEVICE, Devices
from mace_jax_train.inputs import open_datasets, run_plan, run_statistics
from mace_jax_train.run_files import RunFiles

log = logging.getLogger(__name__)

HEAD = "Default"
# Batches of a split are kept for later epochs up to this.
_CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class Run:
    """A run that is ready to start; ``close`` it at the end.

    Attributes:
        loaders: of each split.
        resources: the open files and the workers that they read from.
        devices: that train together.
    """

    config: TrainConfig
    statistics: Statistics
    model: MACE
    bundle: ModelBundle
    loaders: dict[str, PlannedLoader]
    inputs: tuple[Input, ...]
    resources: ExitStack
    devices: Devices = ONE_DEVICE

    @property
    def n_steps(self) -> int:
        """Steps of an epoch."""
        return len(self.loaders["train"]) // len(self.devices.own)

    def close(self) -> None:
        """Close the datasets and end the workers."""
        self.resources.close()


def prepare_run(
    config: TrainConfig,
    files: RunFiles,
    track: Track,
    n_workers: int = 0,
    devices: Devices = ONE_DEVICE,
) -> Run:
    """Read and check everything; make plans, statistics and HDF5 files that are missing.

    Args:
        config: of the run.
        files: where to keep what is made.
        track: progress.
        n_workers: processes that make the batches of each split; 0: this one does.
        devices: that train together; each gets batches of its own.

    Raises:
        MaceJaxError: something is wrong with a file, or two do not belong together.
    """
    with ExitStack() as stack:
        isolated, datasets = open_datasets(config.datasets, files, stack)
        inputs = [dataset.as_input(split) for split, dataset in datasets.items()]
        statistics, r_max = run_statistics(config, datasets["train"], isolated, files, inputs)
        plans = {
            split: run_plan(config, split, dataset, r_max, files, inputs, track, devices.n_batch)
            for split, dataset in datasets.items()
        }
        bundle = _untrained_bundle(config, statistics, r_max)
        builder = GraphBuilder(
            r_max, bundle.config.atomic_numbers, bundle.heads, bundle.atomic_energies
        )
        for split, dataset in datasets.items():
            _require_usable(config, builder, split, dataset)
        evaluated = [plans[split].caps for split in datasets if split != "train"]
        caps = Caps.covering(evaluated) if evaluated else None  # so that it is compiled once
        own = devices.own if devices.n_batch > 1 else None
        max_batches = config.datasets.max_batches
        if max_batches is not None:
            max_batches *= len(devices.own)
        loaders = {
            split: stack.enter_context(
                PlannedLoader(
                    DatasetGraphs([dataset], builder, [files.final(dataset.path)]),
                    plans[split],
                    config.flags.dtype,
                    None if split == "train" else caps,
                    process=own,
                    n_workers=n_workers,
                    cache_bytes=_CACHE_BYTES,
                    shuffle=config.datasets.shuffle,
                    max_batches=max_batches if split == "train" else None,
                )
            )
            for split, dataset in datasets.items()
        }
        resources = stack.pop_all()
    model = MACE(
        bundle.config,
        scale=[bundle.scale[HEAD]],
        shift=[bundle.shift[HEAD]],
        dtype=bundle.dtype,
        rng=np.random.default_rng(config.flags.seed),
        backend=chosen_backend(config.flags),
    )
    bundle = replace(bundle, parameters=model_parameters(model))
    return Run(config, statistics, model, bundle, loaders, tuple(inputs), resources, devices)


def chosen_backend(flags: FlagsConfig) -> Backend:
    """Return what computes the costly parts of the network."""
    if flags.backend == "dense":
        return DENSE
    return Backend(convolution=flags.cueq_conv_fusion, products=flags.cueq_optimize_all)


def _untrained_bundle(config: TrainConfig, statistics: Statistics, r_max: float) -> ModelBundle:
    """Return the run's model bundle, complete but for its parameters."""
    section = config.model
    scaled = section.scaling == "rms_forces_scaling"
    shifted = scaled and section.model == "ScaleShiftMACE"
    network: dict[str, Any] = {
        item.name: getattr(section, item.name)
        for item in fields(ModelConfig)
        if hasattr(section, item.name)
    }
    network |= {
        "model": "ScaleShiftMACE",
        "r_max": r_max,
        "avg_num_neighbors": section.avg_num_neighbors or statistics.avg_num_neighbors,
        "atomic_numbers": statistics.atomic_numbers,
    }
    return ModelBundle(
        config=ModelConfig(**network),
        dtype=config.flags.dtype,
        heads=(HEAD,),
        atomic_energies={HEAD: statistics.atomic_energies},
        scale={HEAD: statistics.std if scaled else 1.0},
        shift={HEAD: statistics.mean if shifted else 0.0},
        parameters={},
    )


def _require_usable(config: TrainConfig, builder: GraphBuilder, split: str, data: Dataset) -> None:
    """Read a split once, so that nothing of it stops the run later.

    Raises:
        ArtifactError, DataError: a structure is damaged or has an element that the model does not
            know, or a weighted label occurs nowhere in the training data.
    """
    labels: Counter[str] = Counter()
    for structure in data:
        species_index(structure.atomic_numbers, builder.elements, structure.place)
        labels.update(structure.properties.keys())
    for name in ("energy", "forces", "stress"):
        log.info("%s: %s in %d/%d structures", split, name, labels[name], len(data))
        weight = getattr(config.loss, f"{name}_weight")
        if split == "train" and weight and not labels[name]:
            message = (
                f"{data.path}: {name} found in 0 of {len(data)} structures, but "
                f"loss.{name}_weight is {weight}; set it to 0 or name the key"
            )
            raise DataError(message)


def parameter_count(run: Run) -> int:
    """Return the number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(run.model, nnx.Param)))
