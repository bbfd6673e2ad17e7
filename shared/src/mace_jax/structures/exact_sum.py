"""Sums of floats without rounding: neither order nor cutting into parts changes them."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_DIGITS, _HALF = 53, 26
_UNIT_EXPONENT = 1074  # every float64 is an integer multiple of 2**-1074


@dataclass
class ExactSum:
    """A sum of finite floats, kept as a whole number of units of 2**-1074."""

    units: int = 0

    def add(self, value: float) -> None:
        """Add a finite float."""
        numerator, denominator = value.as_integer_ratio()
        self.units += numerator << (_UNIT_EXPONENT + 1 - denominator.bit_length())

    def add_all(self, values: NDArray[np.float64]) -> None:
        """Add fewer than 2**26 finite floats."""
        if not values.size:
            return
        mantissas, exponents = np.frexp(values.ravel())
        integers = (mantissas * 2.0**_DIGITS).astype(np.int64)
        least = int(exponents.min())
        # sums of halves of the digits, by exponent, are whole numbers below 2**53, so floats do
        high = np.bincount(exponents - least, integers >> _HALF)
        low = np.bincount(exponents - least, integers & ((1 << _HALF) - 1))
        for place in np.flatnonzero((high != 0) | (low != 0)).tolist():
            total = (int(high[place]) << _HALF) + int(low[place])
            shift = least + place - _DIGITS + _UNIT_EXPONENT
            self.units += total << shift if shift >= 0 else total >> -shift

    def merge(self, other: "ExactSum") -> None:
        """Add another sum."""
        self.units += other.units

    def fraction(self) -> Fraction:
        """Return the sum itself."""
        return Fraction(self.units, 1 << _UNIT_EXPONENT)

    def __float__(self) -> float:
        """Return the float nearest to the sum."""
        return self.units / (1 << _UNIT_EXPONENT)

    def to_json(self) -> str:
        """Return the sum as a fraction, such as ``-57/4``."""
        return str(self.fraction())

    @classmethod
    def from_json(cls, text: str) -> "ExactSum":
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: it is no sum of floats.
        """
        units = Fraction(text) * (1 << _UNIT_EXPONENT)
        if units.denominator != 1:
            message = f"{text} is no sum of floats"
            raise ValueError(message)
        return cls(units.numerator)
