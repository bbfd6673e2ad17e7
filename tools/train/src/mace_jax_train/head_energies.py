"""The E0s of every head of a run, of every element of its model."""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mace_jax.elements import symbol
from mace_jax.errors import DataError
from mace_jax.structures.atomic_energy_table import AtomicEnergyTable

log = logging.getLogger(__name__)

Energies = Mapping[int, float]


class HeadEnergies(NamedTuple):
    """The E0s of a head.

    Attributes:
        energies: E0 by atomic number, eV.
        source: where they are from, such as ``average``.
    """

    energies: dict[int, float]
    source: str


def energies_of(table: AtomicEnergyTable, elements: Sequence[int]) -> HeadEnergies:
    """Return the E0s in the table of one head, and where those of ``elements`` are from."""
    sources = dict.fromkeys(row.source for row in table.rows if row.number in elements)
    return HeadEnergies({row.number: row.energy for row in table.rows}, ", ".join(sources))


def completed(
    heads: Mapping[str, HeadEnergies], elements: Sequence[int], own: Mapping[str, Energies]
) -> dict[str, HeadEnergies]:
    """Give every head an E0 of every element of the model, and none of others.

    A head that has no structure with an element has no E0 of it either, and predicts nothing of
    use there. Its E0 is then that of the model that training began with, or else of the first
    head that has one.

    Args:
        heads: what is known of each head.
        elements: atomic numbers of the model.
        own: E0s of the model that training began with, by head.

    Raises:
        DataError: no head has an E0 of an element.
    """
    return {
        head: found._replace(
            energies={
                number: _energy(head, number, heads, own.get(head, {})) for number in elements
            }
        )
        for head, found in heads.items()
    }


def _energy(head: str, number: int, heads: Mapping[str, HeadEnergies], own: Energies) -> float:
    if number in heads[head].energies:
        return heads[head].energies[number]
    name = f"{symbol(number)} ({number})"
    if number in own:
        log.warning("%s: no structure with %s: its E0 is that of the starting model", head, name)
        return own[number]
    for other, found in heads.items():
        if number in found.energies:
            log.warning("%s: no structure with %s: its E0 is that of head %s", head, name, other)
            return found.energies[number]
    message = f"heads {', '.join(heads)}: no E0 for {name}; give it with --E0s"
    raise DataError(message)
