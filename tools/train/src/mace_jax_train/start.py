"""From a configuration to everything a run needs: data, plans, statistics, network."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from flax import nnx

from mace_jax.artifacts.atomic_write import atomic_directory
from mace_jax.artifacts.batch_plan import (
    BatchPlan,
    batch_plan_input,
    read_batch_plan,
    require_plan_fits,
    write_batch_plan,
)
from mace_jax.artifacts.dataset import SUFFIXES, Dataset
from mace_jax.artifacts.model_bundle import ModelBundle, ModelConfig
from mace_jax.artifacts.provenance import Input, external_input, make_provenance
from mace_jax.artifacts.statistics import (
    read_statistics,
    statistics_input,
    write_statistics,
)
from mace_jax.artifacts.train_config import DatasetsConfig, TrainConfig
from mace_jax.batching.graph_batch import GraphBuilder
from mace_jax.batching.loader import PlannedLoader, load_graphs
from mace_jax.batching.plan import plan_batches, plan_lines
from mace_jax.elements import sorted_elements
from mace_jax.errors import ConfigError, DataError, IncompatibleError
from mace_jax.model.load import model_parameters
from mace_jax.model.mace import MACE
from mace_jax.preparation import (
    read_split,
    require_energies,
    resolve_atomic_energies,
    split_evenly,
    write_shards,
)
from mace_jax.structures.atomic_energies import require_atomic_energies, take_isolated_atoms
from mace_jax.structures.label_keys import LabelKeys
from mace_jax.structures.statistics import Statistics, compute_statistics
from mace_jax.tracking import Track

log = logging.getLogger(__name__)

TOOL = "mace-jax-train"
HEAD = "Default"


@dataclass(frozen=True)
class RunFiles:
    """Where a run writes; every name starts with the run's tag."""

    folder: Path
    tag: str

    def path(self, suffix: str) -> Path:
        """Return the path of one of the run's files, such as ``.metrics``."""
        return self.folder / f"{self.tag}{suffix}"

    def results(self) -> list[Path]:
        """Return the files whose presence means that the tag is taken."""
        suffixes = (".config.json", ".gin", ".metrics", "_best.msgpack", "_last.msgpack")
        return [self.path(suffix) for suffix in suffixes]


@dataclass(frozen=True)
class Run:
    """A run that is ready to start."""

    config: TrainConfig
    statistics: Statistics
    model: MACE
    bundle: ModelBundle
    loaders: dict[str, PlannedLoader]
    inputs: tuple[Input, ...]


def run_files(config: TrainConfig, default_name: str) -> RunFiles:
    """Return where the run writes; the tag is its name, with a timestamp if asked for."""
    tag = config.logs.name or default_name
    if config.logs.include_timestamp:
        tag = f"{datetime.now().astimezone():%Y%m%d_%H%M}_{tag}"
    return RunFiles(Path(config.logs.directory), tag)


def prepare_run(config: TrainConfig, files: RunFiles, track: Track) -> Run:
    """Read and check everything; make plans, statistics and HDF5 files that are missing.

    Args:
        config: of the run.
        files: where to keep what is made.
        track: progress.

    Raises:
        MaceJaxError: something is wrong with a file, or two do not belong together.
    """
    with ExitStack() as stack:
        isolated, datasets = _open_datasets(config.datasets, files, stack)
        inputs = [dataset.as_input(split) for split, dataset in datasets.items()]
        statistics, r_max = _statistics(config, datasets["train"], isolated, files, inputs)
        plans = {
            split: _plan(config, split, dataset, r_max, files, inputs, track)
            for split, dataset in datasets.items()
        }
        bundle = _untrained_bundle(config, statistics, r_max)
        builder = GraphBuilder(
            r_max, bundle.config.atomic_numbers, bundle.heads, bundle.atomic_energies
        )
        loaders = {
            split: PlannedLoader(
                load_graphs(dataset, builder, f"reading {split}", track),
                plans[split],
                config.flags.dtype,
            )
            for split, dataset in datasets.items()
        }
    _require_labels(config, loaders["train"], str(config.datasets.train_path))
    model = MACE(
        bundle.config,
        scale=[bundle.scale[HEAD]],
        shift=[bundle.shift[HEAD]],
        dtype=bundle.dtype,
        rngs=nnx.Rngs(config.flags.seed),
    )
    bundle = replace(bundle, parameters=model_parameters(model))
    return Run(config, statistics, model, bundle, loaders, tuple(inputs))


def _open_datasets(
    config: DatasetsConfig, files: RunFiles, stack: ExitStack
) -> tuple[dict[int, float], dict[str, Dataset]]:
    """Open the splits, converting extxyz to HDF5 in the run's folder first."""
    keys = {"energy": config.energy_key, "forces": config.forces_key, "stress": config.stress_key}
    label_keys = LabelKeys({name: key for name, key in keys.items() if key})
    isolated: dict[int, float] = {}
    datasets = {}
    for split in ("train", "valid", "test"):
        text = getattr(config, f"{split}_path")
        if text is None:
            continue
        path = Path(text)
        if path.is_file() and path.suffix not in SUFFIXES:
            folder = files.path(".data") / split
            found = _convert(split, path, label_keys, folder)
            isolated.update(found)
            path = folder
        datasets[split] = stack.enter_context(Dataset(path))
    return isolated, datasets


def _convert(split: str, path: Path, keys: LabelKeys, folder: Path) -> dict[int, float]:
    """Write the HDF5 dataset of an extxyz file; return the E0s of its isolated atoms."""
    data = read_split(split, [path], keys)
    isolated: dict[int, float] = {}
    if split == "train":
        structures, isolated = take_isolated_atoms(data.structures)
        data = replace(data, structures=structures)
    if split != "test":
        require_energies(data, keys)
    provenance = make_provenance(TOOL, [external_input(split, path, "extxyz")])
    (part,) = split_evenly(data.structures, 1)
    with atomic_directory(folder) as temporary:
        write_shards(temporary, {f"{split}_0.h5": part}, provenance)
    log.info("%s: converted %s to %s", split, path, folder)
    return isolated


def _statistics(
    config: TrainConfig,
    train: Dataset,
    isolated: dict[int, float],
    files: RunFiles,
    inputs: list[Input],
) -> tuple[Statistics, float]:
    """Return the statistics, read or computed, and the cutoff they were made for."""
    if config.datasets.statistics_file:
        path = Path(config.datasets.statistics_file)
        statistics = read_statistics(path)
        inputs.append(statistics_input(path))
        r_max = _r_max(config, statistics.r_max)
        if statistics.r_max != r_max:
            message = (
                f"{path}: r_max {statistics.r_max} Å, expected {r_max} Å as configured; "
                "compute the statistics again or change r_max"
            )
            raise IncompatibleError(message)
        return _with_given_energies(config, statistics, train), r_max
    r_max = _r_max(config, None)
    structures = list(train)
    elements = config.datasets.atomic_numbers or sorted_elements(
        z for structure in structures for z in structure.atomic_numbers
    )
    energies = resolve_atomic_energies(config.datasets.E0s, structures, isolated, elements)
    statistics = compute_statistics(structures, tuple(sorted(elements)), energies, r_max)
    path = files.path(".statistics.json")
    write_statistics(path, statistics, make_provenance(TOOL, [train.as_input("train")]))
    inputs.append(statistics_input(path))
    log.info("statistics: computed from the training data, saved to %s", path)
    return statistics, r_max


def _r_max(config: TrainConfig, from_statistics: float | None) -> float:
    given = {value for value in (config.datasets.r_max, config.model.r_max) if value is not None}
    if len(given) > 1:
        message = (
            f"datasets.r_max {config.datasets.r_max} and model.r_max {config.model.r_max} differ; "
            "set one of them"
        )
        raise ConfigError(message)
    r_max = given.pop() if given else from_statistics
    if r_max is None:
        message = "r_max is not set; give --r-max or model.r_max"
        raise ConfigError(message)
    return r_max


def _with_given_energies(config: TrainConfig, statistics: Statistics, train: Dataset) -> Statistics:
    """Let E0s and elements of the configuration win over those of the statistics file."""
    elements = statistics.atomic_numbers
    if config.datasets.atomic_numbers:
        elements = tuple(sorted(config.datasets.atomic_numbers))
    if config.datasets.E0s and config.datasets.E0s.lower() != "average":
        energies = resolve_atomic_energies(config.datasets.E0s, [], {}, elements)
    else:
        source = str(config.datasets.statistics_file)
        energies = require_atomic_energies(statistics.atomic_energies, elements, source)
    if energies != statistics.atomic_energies:
        # mean is taken relative to the E0s, so other E0s need another mean
        return compute_statistics(train, elements, energies, statistics.r_max)
    return replace(statistics, atomic_numbers=elements, atomic_energies=energies)


def _plan(
    config: TrainConfig,
    split: str,
    dataset: Dataset,
    r_max: float,
    files: RunFiles,
    inputs: list[Input],
    track: Track,
) -> BatchPlan:
    """Read the plan of a split, or make and keep one."""
    text = getattr(config.datasets, f"{split}_plan")
    if text:
        path = Path(text)
        plan = read_batch_plan(path)
        require_plan_fits(plan, path, dataset, r_max)
    else:
        if config.datasets.n_edge is None:
            message = (
                f"no plan for {split} and datasets.n_edge is not set; "
                f"give --{split}-plan or --batch-max-edges"
            )
            raise ConfigError(message)
        path = files.path(f".{split}.plan.json")
        plan = plan_batches(dataset, r_max, config.datasets.n_edge, config.flags.seed, track)
        provenance = make_provenance(TOOL, [dataset.as_input("dataset")], seed=config.flags.seed)
        write_batch_plan(path, plan, provenance)
    inputs.append(batch_plan_input(f"{split}_plan", path))
    for line in plan_lines(plan):
        log.info("%s: %s", split, line)
    return plan


def _untrained_bundle(config: TrainConfig, statistics: Statistics, r_max: float) -> ModelBundle:
    """Return the run's model bundle, complete but for its parameters."""
    section = config.model
    scaled = section.scaling == "rms_forces_scaling"
    shifted = scaled and section.model == "ScaleShiftMACE"
    return ModelBundle(
        config=ModelConfig(
            model="ScaleShiftMACE",
            r_max=r_max,
            num_bessel=section.num_bessel,
            num_polynomial_cutoff=section.num_polynomial_cutoff,
            max_ell=section.max_ell,
            num_interactions=section.num_interactions,
            hidden_irreps=section.hidden_irreps,
            MLP_irreps=section.MLP_irreps,
            correlation=section.correlation,
            radial_MLP=section.radial_MLP,
            gate=section.gate,
            interaction_cls=section.interaction_cls,
            interaction_cls_first=section.interaction_cls_first,
            avg_num_neighbors=section.avg_num_neighbors or statistics.avg_num_neighbors,
            atomic_numbers=statistics.atomic_numbers,
        ),
        dtype=config.flags.dtype,
        heads=(HEAD,),
        atomic_energies={HEAD: statistics.atomic_energies},
        scale={HEAD: statistics.std if scaled else 1.0},
        shift={HEAD: statistics.mean if shifted else 0.0},
        parameters={},
    )


def _require_labels(config: TrainConfig, train: PlannedLoader, source: str) -> None:
    """Check that every term of the loss has something to learn from.

    Raises:
        DataError: a weighted label occurs nowhere in the training data.
    """
    for name in ("energy", "forces", "stress"):
        labelled = sum(name in graph.structure.properties for graph in train.graphs)
        weight = getattr(config.loss, f"{name}_weight")
        log.info("train: %s in %d/%d structures", name, labelled, len(train.graphs))
        if weight and not labelled:
            message = (
                f"{source}: {name} found in 0 of {len(train.graphs)} structures, but "
                f"loss.{name}_weight is {weight}; set it to 0 or name the key"
            )
            raise DataError(message)


def parameter_count(bundle: ModelBundle) -> int:
    """Return the number of trainable parameters."""
    return sum(array.size for array in bundle.parameters.values())


def require_free(files: RunFiles, names: Sequence[Path], *, force: bool) -> None:
    """Refuse to write over an earlier run of the same tag.

    Raises:
        ConfigError: one of its files exists.
    """
    taken = [path for path in names if path.exists()]
    if taken and not force:
        message = (
            f"{taken[0]}: a run named {files.tag!r} exists already; "
            "give --force to replace it or --name to choose another name"
        )
        raise ConfigError(message)
