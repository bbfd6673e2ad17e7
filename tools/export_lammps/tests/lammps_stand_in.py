"""What LAMMPS hands to ``compute_forces``, made with NumPy: ghosts, neighbour list, exchange.

A box is cut along x among processes, which are threads here. As in LAMMPS they wait for each other
in every exchange, and one that makes fewer calls than the others leaves them waiting.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SECONDS = 60  # after which a process has waited too long for the others


class World:
    """The processes of a simulation, and what they exchange."""

    def __init__(self, n_processes: int) -> None:
        self.barrier = threading.Barrier(n_processes, timeout=SECONDS)
        self.rows: dict[int, NDArray[Any]] = {}


class MLIAPDataPy:
    """The arrays of one process, by LAMMPS's names, as LAMMPS without KOKKOS has them."""

    nlocal = ntotal = npairs = nlistatoms = 0
    pair_i = pair_j = rij = elems = None

    def __init__(
        self,
        positions: NDArray[np.float64],
        lengths: Sequence[float],
        species: NDArray[np.integer],
        cutoff: float,
        process: int = 0,
        borders: Sequence[float] = (),
        world: World | None = None,
    ) -> None:
        self.world, self.process = world, process
        self.domain = np.searchsorted(np.asarray(borders), positions[:, 0], side="right")
        own = np.flatnonzero(self.domain == process)
        shifts, images = images_near(positions, np.asarray(lengths), own, cutoff)
        self.tags = np.concatenate([own, images])
        x = np.concatenate([positions[own], positions[images] + shifts])
        self.nlocal = self.nlistatoms = len(own)
        self.ntotal = len(self.tags)
        self.elems = species[self.tags].astype(np.int32)
        vectors = x[None] - x[: len(own), None]
        square = (vectors**2).sum(axis=-1)
        i, j = np.nonzero((square < cutoff**2) & (square > 0))
        self.pair_i, self.pair_j = i.astype(np.int32), j.astype(np.int32)
        self.rij, self.npairs = vectors[i, j], len(i)
        self.f, self.virial = np.zeros((self.ntotal, 3)), np.zeros((3, 3))
        self.energy = np.nan  # LAMMPS does not set it
        self.given: dict[str, NDArray[np.float64]] = {}

    def update_pair_forces(self, fij: NDArray[np.float64]) -> None:
        assert fij.flags.writeable
        assert fij.flags.c_contiguous
        assert fij.shape == self.rij.shape
        np.add.at(self.f, self.pair_i, fij)
        np.add.at(self.f, self.pair_j, -fij)
        self.virial -= np.einsum("pi,pj->ij", self.rij, fij)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "eatoms":  # can be set, not read
            assert value.shape == (self.nlistatoms,)
            self.given["eatoms"] = value.copy()
        else:
            super().__setattr__(name, value)


class ExchangingData(MLIAPDataPy):
    """With what mliap/kk offers, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.given["eatoms"] = np.zeros(self.nlistatoms)

    @property
    def eatoms(self) -> NDArray[np.float64]:
        return self.given["eatoms"]

    def forward_exchange(self, source: Any, target: Any, width: int) -> None:
        rows = self._rows(source, width)
        theirs = self._everybodys(rows[: self.nlocal])
        result = self._rows(target, width)
        result[: self.nlocal] = rows[: self.nlocal]
        result[self.nlocal :] = theirs[self.tags[self.nlocal :]]

    def reverse_exchange(self, source: Any, target: Any, width: int) -> None:
        rows = self._rows(source, width)
        total = np.zeros((len(self.domain), width), rows.dtype)
        np.add.at(total, self.tags, rows)
        self.world.rows[self.process] = total
        self.world.barrier.wait()
        total = sum(self.world.rows.values())
        self.world.barrier.wait()
        result = self._rows(target, width)
        result[:] = 0
        result[: self.nlocal] = total[self.tags[: self.nlocal]]

    def _everybodys(self, own: NDArray[Any]) -> NDArray[Any]:
        """Return the rows of all atoms of all processes."""
        rows = np.zeros((len(self.domain), own.shape[1]), own.dtype)
        rows[self.tags[: self.nlocal]] = own
        self.world.rows[self.process] = rows
        self.world.barrier.wait()
        total = sum(self.world.rows.values())
        self.world.barrier.wait()
        return total

    def _rows(self, array: Any, width: int) -> NDArray[Any]:
        kind = {"float32": ctypes.c_float, "float64": ctypes.c_double}[str(array.dtype)]
        if self.ntotal == 0:
            return np.zeros((0, width), array.dtype)
        values = (kind * (self.ntotal * width)).from_address(array.data.ptr)
        return np.ctypeslib.as_array(values).reshape(self.ntotal, width)


class Interface:
    """What LAMMPS puts between itself and a potential; it offers no exchange."""


def images_near(
    positions: NDArray[np.float64],
    lengths: NDArray[np.float64],
    own: NDArray[np.integer],
    cutoff: float,
) -> tuple[NDArray[np.float64], NDArray[np.integer]]:
    """Return shifts and numbers of all other atoms and images within the cutoff of the own."""
    most = np.ceil(cutoff / lengths).astype(int)
    cells = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in most), indexing="ij"), -1)
    shifts = np.repeat(cells.reshape(-1, 3) * lengths, len(positions), axis=0)
    numbers = np.tile(np.arange(len(positions)), len(cells.reshape(-1, 3)))
    low, high = (
        (positions[own].min(axis=0), positions[own].max(axis=0)) if len(own) else (1e9, -1e9)
    )
    x = positions[numbers] + shifts
    near = ((x >= low - cutoff) & (x <= high + cutoff)).all(axis=1)
    near &= (shifts != 0).any(axis=1) | ~np.isin(numbers, own)
    return shifts[near], numbers[near]


def run_processes(compute: Callable[[Any], None], datas: Sequence[Any]) -> None:
    """Let every process compute, each in a thread; raise what the first of them raised."""
    errors: list[BaseException] = []

    def guarded(data: Any) -> None:
        try:
            compute(data)
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            errors.append(error)
            data.world.barrier.abort()

    threads = [threading.Thread(target=guarded, args=(data,)) for data in datas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
