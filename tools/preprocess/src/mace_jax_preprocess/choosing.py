"""Choosing some of many: by chance, evenly among compositions, or far from each other."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def choose_random(n: int, number: int, seed: int) -> Numbers:
    """Return ``number`` of ``n``, ascending, each as likely as any other."""
    return np.sort(np.random.default_rng(seed).choice(n, number, replace=False))


def choose_stratified(strata: NDArray[np.integer], number: int, seed: int) -> Numbers:
    """Return as many of each stratum as of any other, as far as it has them.

    One of each is taken by chance, then a second of each that has one, and so on; where not all can
    have one more, chance says which.

    Args:
        strata: the stratum of each, ``[n]``.
        number: how many are returned, ascending.
        seed: of chance.
    """
    order = np.random.default_rng(seed).permutation(len(strata))
    rank = np.empty(len(strata), np.int64)
    seen: defaultdict[int, int] = defaultdict(int)
    for place, stratum in zip(order.tolist(), strata[order].tolist(), strict=True):
        rank[place] = seen[stratum]
        seen[stratum] += 1
    by_rank = order[np.argsort(rank[order], kind="stable")]
    return np.sort(by_rank[:number])


class ElementMeans:
    """For each structure and each of its elements the mean of its atoms' features.

    A structure is a vector of as many parts as there are elements; the part of an element that it
    lacks is zero, and takes no memory.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.n_structures = 0
        self._means: defaultdict[int, list[NDArray[np.floating]]] = defaultdict(list)
        self._owners: defaultdict[int, list[int]] = defaultdict(list)

    def add(self, atomic_numbers: NDArray[np.int64], features: NDArray[np.floating]) -> None:
        """Append a structure.

        Args:
            atomic_numbers: ``[n_atoms]``.
            features: ``[n_atoms, k]``.
        """
        for z in np.unique(atomic_numbers).tolist():
            mean = features[atomic_numbers == z].mean(axis=0, dtype=np.float64)
            self._means[z].append(mean.astype(features.dtype))
            self._owners[z].append(self.n_structures)
        self.n_structures += 1

    def joined(self) -> dict[int, tuple[NDArray[np.int64], NDArray[np.floating]]]:
        """Return for each element the structures that have it, ``[m]``, and means, ``[m, k]``."""
        return {z: (np.array(self._owners[z]), np.array(self._means[z])) for z in self._means}


def choose_farthest(means: ElementMeans, number: int, seed: int) -> Numbers:
    """Return structures each of which is as far as can be from all those before it.

    The first is taken by chance. Of equal distances the first structure is taken.

    Args:
        means: of all structures.
        number: how many are returned, in the order in which they are chosen.
        seed: of chance.
    """
    distances = _Distances(means)
    chosen = [int(np.random.default_rng(seed).integers(means.n_structures))]
    nearest = np.full(means.n_structures, np.inf)
    while len(chosen) < number:
        nearest = np.minimum(nearest, distances.squared_from(chosen[-1]))
        nearest[chosen[-1]] = -np.inf
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)


class _Distances:
    """Squared distances between structures."""

    def __init__(self, means: ElementMeans) -> None:
        self._of_element = means.joined()
        self._squares = {
            z: np.square(values, dtype=np.float64).sum(axis=1)
            for z, (_, values) in self._of_element.items()
        }
        self._norms = np.zeros(means.n_structures)
        for z, (owners, _) in self._of_element.items():
            self._norms[owners] += self._squares[z]

    def squared_from(self, structure: int) -> NDArray[np.float64]:
        """Return the squared distance of each structure from one of them, ``[n]``.

        All parts but those of the one's elements are as far away as they are large.
        """
        found = self._norms.copy()
        for z, (owners, values) in self._of_element.items():
            row = int(np.searchsorted(owners, structure))
            if row == len(owners) or owners[row] != structure:
                continue
            own = self._squares[z][row]
            apart = np.square(values - values[row]).sum(axis=1, dtype=np.float64)
            found += own
            found[owners] += apart - self._squares[z] - own
        return found
