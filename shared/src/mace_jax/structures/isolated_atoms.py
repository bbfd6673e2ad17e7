"""Isolated atoms in the data: frames that only say what one element's E0 is.

Such a frame has one atom, the config type ``IsolatedAtom`` and no neighbour: it is not periodic, or
its cell is so large that it does not see its images. One atom of any other type is ordinary data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mace_jax.elements import symbol
from mace_jax.errors import DataError
from mace_jax.structures.neighbor_list import neighbor_list
from mace_jax.structures.structure import Structure

ISOLATED_ATOM = "IsolatedAtom"

# Å. In no crystal of one atom a cell are images so far apart (Cs 5.3); plane-wave codes, which know
# periodic cells only, compute isolated atoms in boxes of 10 Å and more.
_ISOLATION = 8.0


def is_isolated_atom(structure: Structure) -> bool:
    """Return whether a frame only gives an E0.

    Raises:
        DataError: it is said to be an isolated atom but sees its periodic images.
    """
    if structure.config_type != ISOLATED_ATOM or len(structure) != 1:
        return False
    if structure.pbc.any() and len(neighbor_list(structure, _ISOLATION).receivers):
        message = (
            f"{structure.place}: {ISOLATED_ATOM} {_name(structure)} is periodic with images nearer "
            f"than {_ISOLATION:g} Å, expected an atom alone: its energy is that of a crystal, no "
            "E0; set pbc to F F F, enlarge the cell or change the config type"
        )
        raise DataError(message)
    return True


@dataclass
class IsolatedAtoms:
    """Energies of isolated atoms, eV, by head and atomic number."""

    heads: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, structure: Structure) -> None:
        """Take the energy of an isolated atom as the E0 of its element in its head.

        Raises:
            DataError: it has no energy, or another than an earlier one.
        """
        if "energy" not in structure.properties:
            message = (
                f"{structure.place}: isolated atom {_name(structure)} has no energy; give it one"
            )
            raise DataError(message)
        number, energy = int(structure.atomic_numbers[0]), float(structure.properties["energy"])
        self._add(structure.head, number, energy, structure.place)

    def merge(self, other: "IsolatedAtoms") -> None:
        """Take over the energies of ``other``.

        Raises:
            DataError: the two disagree.
        """
        for head, energies in other.heads.items():
            for number, energy in energies.items():
                self._add(head, number, energy, f"head {head!r}")

    def of_head(self, head: str) -> dict[int, float]:
        """Return E0 by atomic number, eV; empty if the head has no isolated atoms."""
        return dict(self.heads.get(head, {}))

    def _add(self, head: str, number: int, energy: float, place: str) -> None:
        known = self.heads.setdefault(head, {}).setdefault(number, energy)
        if known != energy:
            message = (
                f"{place}: isolated atom {symbol(number)} has {energy} eV, "
                f"another frame {known} eV; keep one"
            )
            raise DataError(message)

    def to_json(self) -> dict[str, Any]:
        """Return head -> atomic number -> eV."""
        return {
            head: {str(number): energy for number, energy in sorted(energies.items())}
            for head, energies in sorted(self.heads.items())
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Mapping[str, float]]) -> "IsolatedAtoms":
        """Read what ``to_json`` wrote."""
        return cls(
            {
                head: {int(number): float(energy) for number, energy in energies.items()}
                for head, energies in document.items()
            }
        )


def _name(structure: Structure) -> str:
    return symbol(int(structure.atomic_numbers[0]))
