"""A data set of a pair potential, small enough that a network trains in a second."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from jax.experimental.compilation_cache import compilation_cache

from mace_jax.artifacts.dataset import write_dataset_file
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.artifacts.train_config_sections import TrainConfig
from mace_jax.structures.structure import Structure
from mace_jax.tracking import Advance, Show, track_silently
from mace_jax_train.gin_config import load_train_config
from mace_jax_train.run_files import RunFiles
from mace_jax_train.start import Run, prepare_run

E0 = {1: -13.6, 8: -2041.8}
SMALL_NETWORK = {
    "r_max": 3.0,
    "num_bessel": 3,
    "max_ell": 0,
    "num_interactions": 1,
    "hidden_irreps": "4x0e",
    "correlation": 2,
    "radial_MLP": (8,),
}


def pair_energy_and_forces(positions: np.ndarray) -> tuple[float, np.ndarray]:
    """The sum of exp(-r) over pairs."""
    vectors = positions[:, None] - positions[None]
    lengths = np.linalg.norm(vectors, axis=-1) + np.eye(len(positions))
    energies = np.exp(-lengths) * (1 - np.eye(len(positions)))
    return energies.sum() / 2, np.einsum("ij,ijk->ik", energies / lengths, vectors)


def random_molecules(n: int, seed: int) -> list[Structure]:
    rng = np.random.default_rng(seed)
    structures = []
    for _ in range(n):
        numbers = rng.choice([1, 8], size=rng.integers(2, 5))
        chain = np.arange(len(numbers))[:, None] * [1.1, 0.3, 0.0]
        positions = chain + 0.2 * rng.normal(size=chain.shape)
        energy, forces = pair_energy_and_forces(positions)
        energy += sum(E0[int(number)] for number in numbers)
        labels = {"energy": np.array(energy), "forces": forces}
        no_cell, open_ = np.zeros((3, 3)), np.zeros(3, dtype=bool)
        structures.append(Structure(numbers, positions, no_cell, open_, labels))
    return structures


@pytest.fixture(scope="session")
def molecules() -> Callable[[int, int], list[Structure]]:
    """Return ``random_molecules``."""
    return random_molecules


def write_dataset(path: Path, structures: list[Structure]) -> str:
    write_dataset_file(path, structures, make_provenance("mace-jax-preprocess", []))
    return str(path)


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> str:
    """Return a folder of compiled programs."""
    return str(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module", autouse=True)
def compile_fast_and_equal_programs_once(programs):
    """Compiling is most of the tests' time; runs that differ only in seeds share programs."""
    settings = {
        "jax_compilation_cache_dir": programs,
        "jax_compilation_cache_max_size": -1,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def float64() -> Iterator[None]:
    """Let jax compute in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> dict[str, str]:
    """Paths of the splits, for the section ``datasets``."""
    folder = tmp_path_factory.mktemp("data")
    sizes = {"train": 12, "valid": 5, "test": 4}
    return {
        f"{split}_path": write_dataset(folder / f"{split}.h5", random_molecules(n, seed))
        for seed, (split, n) in enumerate(sizes.items())
    }


@pytest.fixture(scope="session")
def train_xyz(tmp_path_factory) -> str:
    """Path of the training set as extxyz."""
    frames = []
    for structure in random_molecules(12, 0):
        frames.append(Atoms(structure.atomic_numbers, structure.positions))
        frames[-1].info["REF_energy"] = float(structure.properties["energy"])
        frames[-1].arrays["REF_forces"] = structure.properties["forces"]
    path = tmp_path_factory.mktemp("xyz") / "train.xyz"
    write(path, frames)
    return str(path)


MakeConfig = Callable[..., TrainConfig]


@pytest.fixture(scope="session")
def make_config(data) -> MakeConfig:
    """Return a function from sections, given as keywords, to a configuration of a quick run."""

    def make(**sections) -> TrainConfig:
        base = {
            "datasets": {**data, "E0s": str(E0), "n_edge": 20},
            "model": SMALL_NETWORK,
            "optimizer": {"max_epochs": 3},
        }
        names = base.keys() | sections.keys()
        merged = {name: base.get(name, {}) | sections.get(name, {}) for name in names}
        return load_train_config([], [], merged)

    return make


@pytest.fixture(scope="module")
def run(float64, make_config, tmp_path_factory) -> Run:
    """Return a run in float64 that is ready to train."""
    files = RunFiles(tmp_path_factory.mktemp("run"), "run")
    return prepare_run(make_config(flags={"dtype": "float64"}), files, track_silently)


@pytest.fixture
def prepare(tmp_path) -> Callable[[TrainConfig], tuple[Run, RunFiles]]:
    """Return a function that makes a run ready to start in a folder of the test."""

    def ready(config: TrainConfig) -> tuple[Run, RunFiles]:
        files = RunFiles(tmp_path, "run")
        return prepare_run(config, files, track_silently), files

    return ready


@pytest.fixture
def signalled() -> Callable[[str], Show]:
    """Return a function from a signal to a ``Show``: it comes when the first step has been read."""

    def make(name: str) -> Show:
        @contextmanager
        def show(description: str, total: int, done: int = 0) -> Iterator[Advance]:
            names = [name]

            def advance(note: str) -> None:
                if names:
                    os.kill(os.getpid(), signal.Signals[names.pop()])

            yield advance

        return show

    return make
