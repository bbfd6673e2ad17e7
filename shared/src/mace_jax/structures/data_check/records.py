"""The few numbers that are kept of every structure, some 90 bytes, for checks across structures."""

import hashlib
import re
from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mace_jax.elements import MAX_ATOMIC_NUMBER
from mace_jax.structures.structure import Structure, structure_digest

_CHUNK = 4096
_NUMBERED = re.compile(r"(.*[^0-9])(0|[1-9][0-9]{0,8})", re.DOTALL)


class Names:
    """Few distinct names, such as those of heads, stored as small integers."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._names: list[str] = []
        self._stored = array("I")

    def append(self, name: str) -> None:
        """Add a name."""
        code = self._codes.setdefault(name, len(self._names))
        if code == len(self._names):
            self._names.append(name)
        self._stored.append(code)

    def __getitem__(self, index: int) -> str:
        """Return a name."""
        return self._names[self._stored[index]]

    def groups(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield each name with the indices where it stands."""
        stored = np.frombuffer(self._stored, np.uint32)
        for code, name in enumerate(self._names):
            yield name, np.flatnonzero(stored == code)


class Places:
    """Names such as ``train.xyz: frame 3``, stored as a shared text and a number."""

    def __init__(self) -> None:
        self._texts = Names()
        self._numbers = array("i")

    def append(self, place: str) -> None:
        """Add a name."""
        match = _NUMBERED.fullmatch(place)
        self._texts.append(match[1] if match else place)
        self._numbers.append(int(match[2]) if match else -1)

    def __getitem__(self, index: int) -> str:
        """Return a name."""
        number = self._numbers[index]
        return self._texts[index] if number < 0 else f"{self._texts[index]}{number}"


class Records:
    """Columns with one entry for each structure.

    Attributes:
        places, heads, splits: names.
        energies: total, eV; NaN without.
        labels: digest of all labels.
    """

    def __init__(self) -> None:
        self.places = Places()
        self.heads = Names()
        self.splits = Names()
        self.energies = array("d")
        self.labels = array("Q")
        self._geometry = bytearray()
        self._n_elements = array("B")
        self._elements = array("B")
        self._counts = array("I")

    def append(self, structure: Structure, split: str) -> None:
        """Add a structure."""
        self.places.append(structure.place)
        self.heads.append(structure.head)
        self.splits.append(split)
        self.energies.append(float(structure.properties.get("energy", np.nan)))
        self.labels.append(int.from_bytes(_label_digest(structure)))
        self._geometry += input_digest(structure)
        counts = np.bincount(structure.atomic_numbers)
        elements = counts.nonzero()[0]
        self._n_elements.append(len(elements))
        self._elements.extend(elements.tolist())
        self._counts.extend(counts[elements].tolist())

    def __len__(self) -> int:
        """Return the number of structures."""
        return len(self.energies)

    def geometry(self) -> NDArray[np.uint64]:
        """Return the digest of what a model is told of each structure, ``[n, 2]``."""
        return np.frombuffer(self._geometry, np.uint64).reshape(-1, 2)

    def n_atoms(self) -> NDArray[np.int64]:
        """Return the size of each structure, ``[n]``."""
        counts = np.frombuffer(self._counts, np.uint32).astype(np.int64)
        return np.add.reduceat(counts, self._starts()) if len(self) else counts

    def compositions(
        self, indices: NDArray[np.int64]
    ) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Yield the atoms of each element, ``[k, 119]``, of a slice of ``indices`` at a time."""
        n_elements = np.frombuffer(self._n_elements, np.uint8).astype(np.int64)
        starts = self._starts()
        elements = np.frombuffer(self._elements, np.uint8)
        counts = np.frombuffer(self._counts, np.uint32)
        for start in range(0, len(indices), _CHUNK):
            chunk = indices[start : start + _CHUNK]
            lengths = n_elements[chunk]
            rows = np.repeat(np.arange(len(chunk)), lengths)
            within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            entries = np.repeat(starts[chunk], lengths) + within
            table = np.zeros((len(chunk), MAX_ATOMIC_NUMBER + 1))
            table[rows, elements[entries]] = counts[entries]
            yield slice(start, start + len(chunk)), table

    def _starts(self) -> NDArray[np.int64]:
        """Return where the elements of each structure begin."""
        n_elements = np.frombuffer(self._n_elements, np.uint8).astype(np.int64)
        return np.cumsum(n_elements) - n_elements


def input_digest(structure: Structure) -> bytes:
    """Return 16 bytes that name geometry, head and further inputs: what the labels follow from."""
    digest = hashlib.blake2b(bytes.fromhex(structure_digest(structure)), digest_size=16)
    digest.update(structure.head.encode())
    for name, value in sorted(structure.inputs.items()):
        digest.update(name.encode() + np.ascontiguousarray(value, "<f8").tobytes())
    return digest.digest()


def _label_digest(structure: Structure) -> bytes:
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(structure.properties.items()):
        digest.update(name.encode() + np.ascontiguousarray(value, "<f8").tobytes())
    return digest.digest()
