"""Graphs a second from HDF5 files to batches, beside mace-torch's loader, and epochs of training.

By hand: ``python benchmarks/loading.py --data frames.xyz``. Where torch and mace-torch are missing
this project is measured alone. All loaders take turns; nothing is kept in memory between epochs.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import systems
from ase import Atoms

from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.dataset_writer import DatasetWriter
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.batching.graph import GraphBuilder
from mace_jax.batching.graph_sizes import size_dataset
from mace_jax.batching.graph_source import DatasetGraphs
from mace_jax.batching.loader import PlannedLoader
from mace_jax.batching.plan import PlanSettings, plan_sized
from mace_jax.structures.neighbor_list import neighbor_list, pair_list
from mace_jax.structures.structure import Structure

N_WORKERS = (0, 1, 2, 4)
_TURN = 10  # steps
BUILDER = GraphBuilder(
    systems.R_MAX, systems.ELEMENTS, ("Default",), {"Default": dict.fromkeys(systems.ELEMENTS, 0.0)}
)


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=systems.default_data())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--hidden-irreps", default=systems.SMALL)
    parser.add_argument("--only", choices=("rates", "epochs"))
    options = parser.parse_args()
    structures = [_structure(atoms) for atoms in systems.training_frames(str(options.data))]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        mace = write(folder / "mace.h5", structures, stored_pairs=False)
        flat = write(folder / "flat.h5", structures, stored_pairs=True)
        mixed = write(folder / "mixed.h5", cut(structures), stored_pairs=True)
        loaders = dict(_torch_loaders(mace))
        for layout, path in (("mace layout", mace), ("flat layout with pairs", flat)):
            for n_workers in N_WORKERS:
                loader = make_loader(path, stack, n_workers=n_workers)
                loaders[f"mace-jax, {layout}, {n_workers} workers"] = _endless_epochs(loader)
        if options.only != "epochs":
            _print_rates(loaders, len(structures), options.repeats)
        epochs = {
            "flat layout": make_loader(flat, stack),
            "flat layout, 1 worker": make_loader(flat, stack, n_workers=1),
            "mace layout": make_loader(mace, stack),
            "mace layout, 1 worker": make_loader(mace, stack, n_workers=1),
            "frames cut to many sizes, 1 shape": make_loader(mixed, stack),
            "frames cut to many sizes, 4 shapes": make_loader(mixed, stack, n_shapes=4),
        }
        if options.only != "rates":
            _print_epochs(epochs, options.hidden_irreps, options.repeats)


def _structure(atoms: Atoms) -> Structure:
    labels = {"energy": np.array(atoms.info["REF_energy"]), "forces": atoms.arrays["REF_forces"]}
    return Structure(
        atoms.numbers.astype(np.int64), atoms.positions, np.array(atoms.cell), atoms.pbc, labels
    )


def cut(structures: list[Structure]) -> list[Structure]:
    """Return the first few atoms of each structure, as many as chance says."""
    rng = np.random.default_rng(0)
    found = []
    for structure in structures:
        n = int(rng.integers(3, len(structure) + 1))
        forces = structure.properties["forces"][:n]
        found.append(
            replace(
                structure,
                atomic_numbers=structure.atomic_numbers[:n],
                positions=structure.positions[:n],
                properties={**structure.properties, "forces": forces},
            )
        )
    return found


def write(path: Path, structures: list[Structure], *, stored_pairs: bool) -> Path:
    """Write a dataset: layout mace, or flat with stored pairs."""
    provenance = make_provenance("mace-jax-preprocess", [])
    if not stored_pairs:
        with DatasetWriter(path, provenance) as writer:
            writer.write(structures)
        return path
    with DatasetWriter(path, provenance, layout="flat", r_max=systems.R_MAX) as writer:
        writer.write(structures, [pair_list(neighbor_list(s, systems.R_MAX)) for s in structures])
    return path


def make_loader(
    path: Path, stack: ExitStack, *, n_workers: int = 0, n_shapes: int = 1
) -> PlannedLoader:
    """Return a loader of batches of as many edges as ten aspirins have."""
    dataset = stack.enter_context(Dataset(path))
    sized = size_dataset(dataset, systems.R_MAX)
    n_edge = int(sized.sizes.n_edge.max()) * systems.BATCH
    plan = plan_sized([sized], PlanSettings(n_edge, n_shapes=n_shapes))
    source = DatasetGraphs([dataset], BUILDER)
    return stack.enter_context(PlannedLoader(source, plan, "float32", n_workers=n_workers))


def _endless_epochs(loader: PlannedLoader) -> Iterator[int]:
    """Yield the number of graphs of each epoch when it is done."""
    epoch = 0
    while True:
        yield sum(int(batch.graph_mask.sum()) for _, batch in loader.epoch(0, epoch))
        epoch += 1


def _torch_loaders(path: Path) -> Iterator[tuple[str, Iterator[int]]]:
    """Yield mace-torch's loader as ``mace_run_train`` makes it, without and with workers."""
    try:
        from mace import data, tools
        from mace.tools import torch_geometric
    except ImportError:
        return
    dataset = data.HDF5Dataset(
        path, r_max=systems.R_MAX, z_table=tools.AtomicNumberTable(list(systems.ELEMENTS))
    )

    def epochs(n_workers: int) -> Iterator[int]:
        loader = torch_geometric.dataloader.DataLoader(
            dataset,
            batch_size=systems.BATCH,
            shuffle=True,
            drop_last=False,
            num_workers=n_workers,
            persistent_workers=n_workers > 0,
        )
        while True:
            yield sum(batch.num_graphs for batch in loader)

    for n_workers in (0, 2):
        yield f"mace-torch, mace layout, {n_workers} workers", epochs(n_workers)


def _print_rates(loaders: dict[str, Iterator[int]], n_graph: int, repeats: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(repeats + 1):  # the first starts workers
        for name, epochs in loaders.items():
            start = time.perf_counter()
            if next(epochs) != n_graph:
                message = f"{name}: an epoch without {n_graph} graphs"
                raise RuntimeError(message)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    rates = {name: n_graph / statistics.median(values) for name, values in seconds.items()}
    reference = rates.get("mace-torch, mace layout, 0 workers")
    print(f"| {n_graph} frames | graphs/s | ratio |\n| --- | --- | --- |")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.0f} | {f'{rate / reference:.1f}' if reference else ''} |")


def _print_epochs(loaders: dict[str, PlannedLoader], hidden_irreps: str, repeats: int) -> None:
    from mace_jax.model.computing import computing

    with computing("float32", device="cpu"):
        print(f"\n| epoch, {hidden_irreps} | bare steps, s | epoch, s | ratio | ms/graph |")
        print("| --- | --- | --- | --- | --- |")
        take = _train_step(hidden_irreps)
        for name, loader in loaders.items():
            bare, epoch = _measure_epoch(loader, take, repeats)
            per_graph = 1000 * epoch / loader.plan.report.n_graphs
            print(f"| {name} | {bare:.3f} | {epoch:.3f} | {epoch / bare:.3f} | {per_graph:.2f} |")


def _measure_epoch(
    loader: PlannedLoader, take: Callable[[Any], None], repeats: int
) -> tuple[float, float]:
    """Return the seconds of an epoch's steps on batches in memory, and of an epoch from files.

    Some steps of the one and of the other take turns: what else the machine does meets both.
    """
    from mace_jax_train.data_parallel import ONE_DEVICE
    from mace_jax_train.evaluate import ahead

    held = [ONE_DEVICE.put([batch]) for batch in loader.one_of_each_shape()]
    shape = loader.plan.shape
    bare = from_files = 0.0
    for turn in range(repeats + 1):
        if turn == 1:  # the first has compiled
            bare = from_files = 0.0
        epoch = ahead((index, ONE_DEVICE.put([batch])) for index, batch in loader.epoch(0, turn))
        seconds, indices = _seconds(take, islice(epoch, _TURN))
        while indices:
            from_files += seconds
            seconds, _ = _seconds(take, ((index, held[shape[index]]) for index in indices))
            bare += seconds
            seconds, indices = _seconds(take, islice(epoch, _TURN))
    return bare / repeats, from_files / repeats


def _seconds(
    take: Callable[[Any], None], batches: Iterable[tuple[int, Any]]
) -> tuple[float, list[int]]:
    """Return the time of the steps, and which batches they were."""
    start = time.perf_counter()
    indices = []
    for index, batch in batches:
        take(batch)
        indices.append(index)
    take(None)
    return time.perf_counter() - start, indices


def _train_step(hidden_irreps: str) -> Callable[[Any], None]:
    """Return a function that takes a step and waits for the one before, as in training."""
    import jax

    from mace_jax.artifacts.model_bundle import ModelConfig
    from mace_jax.artifacts.train_config_sections import (
        DatasetsConfig,
        LossConfig,
        OptimizerConfig,
        TrainConfig,
        TrainSection,
    )
    from mace_jax.model.load import split_trainable
    from mace_jax.model.mace import MACE
    from mace_jax_train.method import make_method

    settings = {**systems.NETWORK, "radial_MLP": tuple(systems.NETWORK["radial_MLP"])}
    config = ModelConfig(
        model="ScaleShiftMACE",
        **settings,
        hidden_irreps=hidden_irreps,
        atomic_numbers=systems.ELEMENTS,
    )
    model = MACE(config, scale=[1.0], shift=[0.0], dtype="float32", rng=np.random.default_rng(0))
    network, parameters = split_trainable(model)
    run = TrainConfig(
        DatasetsConfig("benchmark"),
        loss=LossConfig("weighted", systems.ENERGY_WEIGHT, systems.FORCES_WEIGHT, 0.0),
        optimizer=OptimizerConfig("amsgrad", systems.LEARNING_RATE),
        train=TrainSection(ema_decay=None, max_grad_norm=systems.MAX_GRAD_NORM),
    )
    method = make_method(run, network, 1)
    state, pending = method.initial_state(parameters), None

    def take(batch: Any) -> None:
        nonlocal state, pending
        report = None
        if batch is not None:
            state, report = method.train_step(state, batch)
        jax.device_get(pending)
        pending = report

    return take


if __name__ == "__main__":
    main()
