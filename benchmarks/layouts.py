"""How fast datasets are written and read in both layouts, beside mace-torch if it is installed.

``python benchmarks/layouts.py [--data FILE]`` prints a Markdown table. Every program does its turn
in every round; medians are shown. mace-torch reads our file of layout mace, and searches neighbors
as it reads: it has no other way. Those of layout flat can be stored and are then read along.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import systems

from mace_jax.artifacts.dataset import Dataset, DatasetWriter
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.structures.neighbor_list import PairList, neighbor_list, pair_list
from mace_jax.structures.read_structures import read_structures
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure

PROVENANCE = make_provenance("mace-jax-shared", [], reproducible=True)
BATCHES = (10, 100, 500)


class OurLayout:
    """One of our layouts, with stored pairs or without."""

    def __init__(self, layout: str, pairs: Sequence[PairList] | None) -> None:
        self.name = f"{layout}, with pairs" if pairs else layout
        self.layout, self.pairs = layout, pairs

    def write(self, path: Path, structures: Sequence[Structure]) -> None:
        """Write a file."""
        r_max = systems.R_MAX if self.pairs else None
        with DatasetWriter(path, PROVENANCE, layout=self.layout, r_max=r_max) as writer:
            writer.write(structures, self.pairs)

    def open(self, path: Path) -> Any:
        """Return what ``read`` reads from."""
        return Dataset(path)

    def read(self, dataset: Dataset, indices: Sequence[int]) -> None:
        """Read some structures."""
        dataset.read(indices)
        if self.pairs:
            dataset.read_pairs(indices)


class TorchLayout:
    """mace-torch's own functions."""

    name = "mace-torch"

    def write(self, path: Path, structures: Sequence[Structure]) -> None:
        """Write a file."""
        from mace.data.utils import save_configurations_as_HDF5

        configurations = [_configuration(structure) for structure in structures]
        with h5py.File(path, "w") as file:
            file.attrs["drop_last"] = len(structures) % 2 == 1
            save_configurations_as_HDF5(configurations, 0, file)

    def open(self, path: Path) -> Any:
        """Return what ``read`` reads from."""
        from mace.data import HDF5Dataset
        from mace.tools import AtomicNumberTable

        table = AtomicNumberTable(list(systems.ELEMENTS))
        return HDF5Dataset(path, r_max=systems.R_MAX, z_table=table)

    def read(self, dataset: Any, indices: Sequence[int]) -> None:
        """Read some structures."""
        for index in indices:
            dataset[index]


Program = OurLayout | TorchLayout


def _configuration(structure: Structure) -> Any:
    from mace.data.utils import Configuration

    names = [*PROPERTY_SHAPES, "head"]
    return Configuration(
        atomic_numbers=structure.atomic_numbers,
        positions=structure.positions,
        properties={name: structure.properties.get(name) for name in PROPERTY_SHAPES}
        | {"head": ""},
        property_weights={name: float(name in structure.properties) for name in names},
        cell=structure.cell,
        pbc=tuple(structure.pbc),
    )


def measure(program: Program, structures: Sequence[Structure], folder: Path) -> dict[str, float]:
    """Return structures/s of each kind of access, and bytes a structure."""
    n, path = len(structures), folder / f"{program.name}.h5"
    found = {"written": n / _seconds(lambda: program.write(path, structures))}
    found["bytes"] = path.stat().st_size / n
    dataset = program.open(folder / "mace.h5" if isinstance(program, TorchLayout) else path)
    runs = [range(start, min(start + 100, n)) for start in range(0, n, 100)]
    found["in order"] = n / _seconds(lambda: _read_all(program, dataset, runs))
    order = np.random.default_rng(0).permutation(n)
    for size in BATCHES:
        batches = [order[start : start + size].tolist() for start in range(0, n, size)]
        seconds = _seconds(lambda: _read_all(program, dataset, batches))  # noqa: B023
        found[f"{size} at random"] = n / seconds
    return found


def _read_all(program: Any, dataset: Any, batches: Sequence[Sequence[int]]) -> None:
    for batch in batches:
        program.read(dataset, batch)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=systems.default_data(), help="extxyz")
    parser.add_argument("--structures", type=int, default=2000, help="frames are repeated")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    frames, _ = read_structures(options.data)
    pairs = [pair_list(neighbor_list(frame, systems.R_MAX)) for frame in frames]
    repeats = -(-options.structures // len(frames))
    structures = (frames * repeats)[: options.structures]
    programs: list[Program] = [
        OurLayout("mace", None),
        OurLayout("flat", None),
        OurLayout("flat", (pairs * repeats)[: options.structures]),
    ]
    if find_spec("mace"):
        programs.append(TorchLayout())
    results: dict[str, list[dict[str, float]]] = {program.name: [] for program in programs}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for program in programs:
                results[program.name].append(measure(program, structures, Path(folder)))
    print(_table(results, f"{options.data.name}, {len(structures)} structures"))


def _table(results: dict[str, list[dict[str, float]]], title: str) -> str:
    columns = list(next(iter(results.values()))[0])
    lines = [
        f"| {title}; structures/s | {' | '.join(columns)} |",
        "| --- " * (len(columns) + 1) + "|",
    ]
    for name, rounds in results.items():
        medians = [statistics.median(found[column] for found in rounds) for column in columns]
        lines.append(f"| {name} | " + " | ".join(f"{median:,.0f}" for median in medians) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
