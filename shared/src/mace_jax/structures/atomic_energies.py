"""Atomic reference energies (E0s): the energy of each isolated atom, keyed by atomic number."""

import ast
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mace_jax.elements import symbol
from mace_jax.errors import ConfigError, DataError
from mace_jax.structures.structure import Structure

ISOLATED_ATOM = "IsolatedAtom"


def total_atomic_energy(
    atomic_numbers: Iterable[int], atomic_energies: Mapping[int, float]
) -> float:
    """Return the sum of E0 over the atoms, eV, in float64."""
    return float(sum(atomic_energies[int(number)] for number in atomic_numbers))


def take_isolated_atoms(
    structures: Sequence[Structure],
) -> tuple[list[Structure], dict[int, float]]:
    """Split off the frames that only give an E0: one atom, not periodic, type IsolatedAtom.

    Returns: the other structures, and E0 in eV by atomic number.

    Raises:
        DataError: an isolated atom has no energy, or two of one element disagree.
    """
    rest: list[Structure] = []
    energies: dict[int, float] = {}
    for structure in structures:
        if structure.config_type != ISOLATED_ATOM or len(structure) != 1 or structure.pbc.any():
            rest.append(structure)
            continue
        number = int(structure.atomic_numbers[0])
        if "energy" not in structure.properties:
            message = (
                f"{structure.place}: isolated atom {symbol(number)} has no energy; give it one"
            )
            raise DataError(message)
        energy = float(structure.properties["energy"])
        if energies.setdefault(number, energy) != energy:
            message = (
                f"{structure.place}: isolated atom {symbol(number)} has {energy} eV, "
                f"another frame {energies[number]} eV; keep one"
            )
            raise DataError(message)
    return rest, energies


def average_atomic_energies(
    structures: Sequence[Structure], elements: Sequence[int]
) -> dict[int, float]:
    """Fit E0s to all total energies by least squares, float64.

    Elements that cannot be told apart (always in the same proportion) share the minimum-norm
    solution, as in mace-torch's ``compute_average_E0s``.

    Raises:
        DataError: no structure has an energy.
    """
    labelled = [structure for structure in structures if "energy" in structure.properties]
    if not labelled:
        message = (
            f"none of the {len(structures)} structures has an energy, E0s 'average' needs some; "
            "name the key with --energy_key or give E0s"
        )
        raise DataError(message)
    numbers = np.asarray(elements)
    counts = np.array(
        [(structure.atomic_numbers[:, None] == numbers).sum(0) for structure in labelled],
        dtype=np.float64,
    )
    energies = np.array([float(structure.properties["energy"]) for structure in labelled])
    solution = np.linalg.lstsq(counts, energies, rcond=None)[0]
    return {int(number): float(energy) for number, energy in zip(elements, solution, strict=True)}


def parse_atomic_energies(text: str) -> dict[int, float]:
    """Read E0s given as a dict literal or as the path of a JSON file, eV by atomic number.

    Raises:
        ConfigError: neither, or not a mapping from atomic numbers to numbers.
    """
    try:
        if text.endswith(".json"):
            mapping = json.loads(Path(text).read_text(encoding="utf-8"))
        else:
            mapping = ast.literal_eval(text)
        energies = {int(str(number)): float(energy) for number, energy in mapping.items()}
        if not all(map(math.isfinite, energies.values())):
            message = "not finite"
            raise ValueError(message)
        return energies
    except (OSError, ValueError, SyntaxError, AttributeError, TypeError) as error:
        message = (
            f"E0s: {text!r} cannot be read ({error}), expected 'average', "
            "a dict such as '{1: -13.6, 8: -432.1}' or a JSON file"
        )
        raise ConfigError(message) from error


def require_atomic_energies(
    atomic_energies: Mapping[int, float], elements: Iterable[int], source: str
) -> dict[int, float]:
    """Return the E0s of exactly ``elements``.

    Raises:
        DataError: an element has none; it is never taken as zero.
    """
    missing = [number for number in elements if number not in atomic_energies]
    if missing:
        names = ", ".join(f"{symbol(number)} ({number})" for number in missing)
        message = f"{source}: no E0 for {names}; add it"
        raise DataError(message)
    return {int(number): float(atomic_energies[number]) for number in elements}
