"""Atomic reference energies (E0s): the energy of each isolated atom, keyed by atomic number."""

import ast
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mace_jax.elements import symbol
from mace_jax.errors import ConfigError, DataError

AVERAGE = "average"


@dataclass(frozen=True)
class E0Choice:
    """Where E0s come from, as ``--E0s`` says it.

    Attributes:
        source: ``"given"`` in the text itself or in the ``"file"`` it names; for messages.
        common: for every head: ``"average"``, or E0 by atomic number, eV; None if ``heads`` says.
        heads: the same for each head by name.
    """

    source: str
    common: str | Mapping[int, float] | None
    heads: Mapping[str, str | Mapping[int, float]] = field(default_factory=dict)

    def of_head(self, head: str) -> str | Mapping[int, float]:
        """Return the choice for a head; empty if there is none for it."""
        return self.heads.get(head, {}) if self.common is None else self.common


def parse_e0_choice(text: str) -> E0Choice:
    """Read ``average``, a dict literal, or the path of a JSON file, for all heads or by head.

    By head it is a dict such as ``{"Default": {1: -13.6}, "surface": "average"}``.

    Raises:
        ConfigError: it is nothing of this kind, or a number is not finite.
    """
    if text.lower() == AVERAGE:
        return E0Choice("given", AVERAGE)
    try:
        is_file = text.endswith(".json")
        content = Path(text).read_text(encoding="utf-8") if is_file else text
        mapping = json.loads(content) if is_file else ast.literal_eval(content)
        source = "file" if is_file else "given"
        if mapping and all(isinstance(value, str | dict) for value in mapping.values()):
            heads = {str(head): _of_one_head(value) for head, value in mapping.items()}
            return E0Choice(source, None, heads)
        return E0Choice(source, _by_number(mapping))
    except (OSError, ValueError, SyntaxError, AttributeError, TypeError) as error:
        message = (
            f"E0s: {text!r} cannot be read ({error}), expected 'average', "
            "a dict such as '{1: -13.6, 8: -432.1}', one of these for each head, or a JSON file"
        )
        raise ConfigError(message) from error


def _of_one_head(value: Any) -> str | dict[int, float]:
    if isinstance(value, str):
        if value.lower() != AVERAGE:
            message = f"{value!r} is no dict"
            raise ValueError(message)
        return AVERAGE
    return _by_number(value)


def _by_number(mapping: Mapping[Any, Any]) -> dict[int, float]:
    energies = {int(str(number)): float(energy) for number, energy in mapping.items()}
    if not all(map(math.isfinite, energies.values())):
        message = "not finite"
        raise ValueError(message)
    return energies


def elements_in(numbers: Iterable[int], first_in: Mapping[int, str]) -> str:
    """Name elements, and the structures in which they are found, for messages."""
    return ", ".join(
        f"{symbol(z)} ({z})" + (f", first in {first_in[z]}" if z in first_in else "")
        for z in numbers
    )


def require_atomic_energies(
    atomic_energies: Mapping[int, float],
    elements: Iterable[int],
    source: str,
    first_in: Mapping[int, str] | None = None,
) -> dict[int, float]:
    """Return the E0s of exactly ``elements``.

    Args:
        atomic_energies: E0s that are known, eV.
        elements: atomic numbers.
        source: where the E0s are from, for messages.
        first_in: atomic number -> the first structure that has it, where it is known.

    Raises:
        DataError: an element has none; it is never taken as zero.
    """
    missing = [number for number in elements if number not in atomic_energies]
    if missing:
        message = f"{source}: no E0 for {elements_in(missing, first_in or {})}; add it"
        raise DataError(message)
    return {int(number): float(atomic_energies[number]) for number in elements}
