"""Irreducible representations (irreps) of O(3), written as in e3nn: ``8x0e + 8x1o``."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from mace_jax.errors import ConfigError

_TERM = re.compile(r"(?:(\d+)x)?(\d+)([eo])")


class Irrep(NamedTuple):
    """An irrep; sorted by ``l``, odd before even.

    Attributes:
        l: order of the rotation; 2l+1 components.
        p: parity, 1 (even) or -1 (odd).
    """

    l: int
    p: int

    @property
    def dim(self) -> int:
        """Number of components."""
        return 2 * self.l + 1

    def __str__(self) -> str:
        return f"{self.l}{'e' if self.p == 1 else 'o'}"


SCALAR = Irrep(0, 1)
VECTOR = Irrep(1, -1)


def products(left: Irrep, right: Irrep) -> list[Irrep]:
    """Return the irreps in the product of two, by ascending l."""
    return [Irrep(l, left.p * right.p) for l in range(abs(left.l - right.l), left.l + right.l + 1)]


class Irreps(Mapping[Irrep, int]):
    """How many channels there are of each irrep, in order; each irrep occurs once."""

    def __init__(self, channels: Iterable[tuple[Irrep, int]] = ()) -> None:
        """Keep ``channels``; those of one irrep add up, at its first place."""
        self._channels: dict[Irrep, int] = {}
        for irrep, count in channels:
            self._channels[irrep] = self._channels.get(irrep, 0) + count

    @classmethod
    def parse(cls, text: str, name: str) -> "Irreps":
        """Read irreps such as ``32x0e + 32x1o``.

        Raises:
            ConfigError: they cannot be read, or an irrep occurs twice in different places.
        """
        message = f"{name}: {text!r}, expected each irrep once, such as '32x0e + 32x1o'"
        terms = [_TERM.fullmatch(term.strip()) for term in text.split("+")]
        channels = []
        for term in terms:
            if term is None or term[1] == "0":
                raise ConfigError(message)
            irrep = Irrep(int(term[2]), 1 if term[3] == "e" else -1)
            channels.append((irrep, int(term[1] or 1)))
        for index, (irrep, _) in enumerate(channels):
            if irrep in [earlier for earlier, _ in channels[: max(index - 1, 0)]]:
                raise ConfigError(message)
        return cls(channels)

    def __getitem__(self, irrep: Irrep) -> int:
        return self._channels[irrep]

    def __iter__(self) -> Iterator[Irrep]:
        return iter(self._channels)

    def __len__(self) -> int:
        return len(self._channels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Irreps) and list(self.items()) == list(other.items())

    def __hash__(self) -> int:
        return hash(tuple(self.items()))

    def __str__(self) -> str:
        return " + ".join(f"{channels}x{irrep}" for irrep, channels in self.items())

    def __repr__(self) -> str:
        return f"Irreps({self})"


def spherical_harmonics_irreps(max_ell: int, *, use_so3: bool = False) -> tuple[Irrep, ...]:
    """Return the irreps of the spherical harmonics up to ``max_ell``: 0e, 1o, 2e and so on.

    With ``use_so3`` inversion is left out of account: all are even.
    """
    return tuple(Irrep(ell, 1 if use_so3 else (-1) ** ell) for ell in range(max_ell + 1))
