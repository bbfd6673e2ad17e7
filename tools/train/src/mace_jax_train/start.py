"""From a configuration to everything a run needs: data, plans, energies, network."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import jax
import numpy as np
from flax import nnx

from mace_jax.architecture import READOUT_IRREPS, architecture, model_inputs
from mace_jax.artifacts.batch_plan import BatchPlan, Caps
from mace_jax.artifacts.model_bundle import ModelBundle, ModelConfig
from mace_jax.artifacts.provenance import Input
from mace_jax.artifacts.train_config_sections import FlagsConfig, HeadConfig, TrainConfig
from mace_jax.batching.graph_source import DatasetGraphs
from mace_jax.batching.loader import PlannedLoader
from mace_jax.errors import ConfigError
from mace_jax.model.backend import DENSE, Backend
from mace_jax.model.load import build_model, graph_builder, load_model, model_parameters
from mace_jax.model.mace import MACE, DipoleMACE
from mace_jax.tracking import Track
from mace_jax_train.data_parallel import ONE_DEVICE, Devices
from mace_jax_train.head_losses import HeadFactors, head_factors
from mace_jax_train.inputs import open_datasets, run_plan
from mace_jax_train.run_files import RunFiles
from mace_jax_train.run_heads import HEAD, configured_heads, require_cutoff
from mace_jax_train.split_data import SplitData
from mace_jax_train.starting_energies import continued_bundle
from mace_jax_train.starting_model import read_starting_model
from mace_jax_train.survey import TrainingData, survey_splits
from mace_jax_train.trained_parts import TrainedParts, log_parts, trained_parts
from mace_jax_train.training_statistics import given_statistics, run_r_max
from mace_jax_train.untrained_model import configured_network, untrained_bundle

log = logging.getLogger(__name__)

__all__ = ["Run", "chosen_backend", "parameter_count", "prepare_run"]

# Batches of a split are kept for later epochs up to this.
_CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class Run:
    """A run that is ready to start; ``close`` it at the end.

    Attributes:
        model: the network that training begins with.
        bundle: the same as it is saved.
        loaders: of each split.
        inputs: what was read.
        resources: the open files and the workers that they read from.
        devices: that train together.
        labels: split -> label -> structures that have it with a weight above 0.
        digests: split -> digest of the data of each path.
        heads: of the network, in order.
        energy_sources: head -> where its E0s are from.
        kept: a model of all heads, in order, if some are not trained: those are saved, too.
    """

    config: TrainConfig
    model: MACE | DipoleMACE
    bundle: ModelBundle
    loaders: dict[str, PlannedLoader]
    inputs: tuple[Input, ...]
    resources: ExitStack
    devices: Devices = ONE_DEVICE
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    digests: Mapping[str, Sequence[str]] = field(default_factory=dict)
    heads: tuple[HeadConfig, ...] = (HeadConfig(HEAD),)
    energy_sources: Mapping[str, str] = field(default_factory=dict)
    kept: ModelBundle | None = None

    @property
    def factors(self) -> HeadFactors:
        """What each head counts in the loss."""
        return head_factors(self.heads)

    @property
    def n_steps(self) -> int:
        """Steps of an epoch."""
        return len(self.loaders["train"]) // len(self.devices.own)

    @property
    def parts(self) -> TrainedParts:
        """What of the network trains."""
        return trained_parts(self.model, self.config)

    def close(self) -> None:
        """Close the datasets and end the workers."""
        self.resources.close()


def prepare_run(
    config: TrainConfig,
    files: RunFiles,
    track: Track,
    devices: Devices = ONE_DEVICE,
    *,
    converted: bool = False,
) -> Run:
    """Read and check everything; make plans, statistics and HDF5 files that are missing.

    Args:
        config: of the run.
        files: where to keep what is made.
        track: progress.
        devices: that train together; each gets batches of its own.
        converted: whether the HDF5 files that were missing have been made already.

    Raises:
        MaceJaxError: something is wrong with a file, or two do not belong together.
    """
    starting = read_starting_model(config, track)
    network = starting.bundle.config if starting else configured_network(config.model)
    architecture(network)  # what is impossible is said before data are read
    told, backend = model_inputs(network), chosen_backend(config.flags)
    with ExitStack() as stack:
        isolated, splits = open_datasets(config, told, files, stack, converted=converted)
        inputs = [starting.source.as_input()] if starting else []
        inputs += [item for split, data in splits.items() for item in data.inputs(split)]
        given = given_statistics(config.datasets, splits["train"], inputs)
        r_max = run_r_max(config, given, network.r_max if starting else None)
        require_cutoff(config.datasets.heads, r_max)
        train = survey_splits(config, splits, starting, given, told, r_max)
        _require_readouts(network, train)
        train.sums.isolated_atoms.merge(isolated)
        planned: list[Input] = []
        plans = {
            split: run_plan(config, data, r_max, files, planned, track, devices.n_batch)
            for split, data in splits.items()
        }
        if starting:
            bundle, sources, kept = continued_bundle(
                config, starting, train, plans["train"], files, inputs, backend, track
            )
            model = load_model(bundle, starting.name, backend)
        else:
            network = replace(network, r_max=r_max)
            bundle, sources = untrained_bundle(config, network, train, files, inputs)
            kept = None
            model = _fresh_network(bundle, config.flags.seed, backend)
            bundle = replace(bundle, parameters=model_parameters(model))
        loaders = _loaders(config, bundle, splits, plans, files, devices, stack)
        read = (*inputs, *planned)  # in this order, whether the run begins or goes on
        heads = tuple(head.config for head in train.heads)
        digests = {split: data.digests for split, data in splits.items()}
        run = Run(
            config,
            model,
            bundle,
            loaders,
            read,
            stack,
            devices,
            train.labels,
            digests,
            heads,
            sources,
            kept,
        )
        _log_heads(train, sources)
        _require_enough_batches(run)
        log_parts(run.parts, config.optimizer)
        return replace(run, resources=stack.pop_all())


def _require_readouts(network: ModelConfig, train: TrainingData) -> None:
    """Check that the network can have the heads of the data.

    Raises:
        ConfigError: it is a model of dipoles, whose readouts know no heads.
    """
    heads = [*(head.name for head in train.heads), *train.kept]
    if network.model in READOUT_IRREPS and len(heads) > 1:
        names = ", ".join(heads)
        message = (
            f"{network.model} has one head only, but there are {names}; train one of them, or "
            "choose another model.model"
        )
        raise ConfigError(message)


def _log_heads(train: TrainingData, energy_sources: Mapping[str, str]) -> None:
    """Say what each of several heads has; a dry run measures what it counts."""
    for head in train.heads if len(train.heads) > 1 else ():
        log.info(
            "head %s: %d structures, weight %g, E0s %s",
            head.name,
            train.sums.heads[head.data_name].n_structures,
            head.config.weight,
            energy_sources.get(head.name, "none"),
        )


def _require_enough_batches(run: Run) -> None:
    """Check that an epoch has the batches of one update.

    Raises:
        ConfigError: it has fewer.
    """
    accumulate = run.config.optimizer.accumulate
    if accumulate > run.n_steps:
        message = (
            f"optimizer.accumulate = {accumulate}, but an epoch has only {run.n_steps} steps to "
            "accumulate; lower it, or plan smaller batches"
        )
        raise ConfigError(message)


def chosen_backend(flags: FlagsConfig) -> Backend:
    """Return what computes the costly parts of the network."""
    if flags.backend == "dense":
        return DENSE
    return Backend(convolution=flags.cueq_conv_fusion, products=flags.cueq_optimize_all)


def _fresh_network(bundle: ModelBundle, seed: int, backend: Backend) -> MACE | DipoleMACE:
    """Return a network with random weights."""
    return build_model(
        bundle.config,
        scale=list(bundle.scale.values()),
        shift=list(bundle.shift.values()),
        dtype=bundle.dtype,
        rng=np.random.default_rng(seed),
        backend=backend,
    )


def _loaders(
    config: TrainConfig,
    bundle: ModelBundle,
    splits: dict[str, SplitData],
    plans: dict[str, BatchPlan],
    files: RunFiles,
    devices: Devices,
    stack: ExitStack,
) -> dict[str, PlannedLoader]:
    """Return the batches of each split; all that is only evaluated has one shape."""
    builder = graph_builder(bundle)._replace(
        config_type_weights=config.datasets.config_type_weights or {},
        config_type_weights_of_heads={
            head.name: head.config_type_weights or {} for head in configured_heads(config.datasets)
        },
    )
    evaluated = [plans[split].caps for split in splits if split != "train"]
    caps = Caps.covering(evaluated) if evaluated else None  # so that it is compiled once
    max_batches = config.datasets.max_batches
    if max_batches is not None:
        max_batches *= len(devices.own)
    graphs = {
        split: DatasetGraphs(
            data.datasets, builder, [files.final(one.path) for one in data.datasets], data.heads
        )
        for split, data in splits.items()
    }
    return {
        split: stack.enter_context(
            PlannedLoader(
                of_split,
                plans[split],
                config.flags.dtype,
                None if split == "train" else caps,
                process=devices.own if devices.n_batch > 1 else None,
                n_workers=config.datasets.num_workers,
                cache_bytes=_CACHE_BYTES,
                shuffle=config.datasets.shuffle,
                max_batches=max_batches if split == "train" else None,
                told=builder.inputs,
                places=of_split.places,
            )
        )
        for split, of_split in graphs.items()
    }


def parameter_count(run: Run) -> int:
    """Return the number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(run.model, nnx.Param)))
