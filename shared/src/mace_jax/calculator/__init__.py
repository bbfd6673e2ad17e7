"""The ASE calculator of model bundles."""

from mace_jax.calculator.mace_calculator import MACECalculator

__all__ = ["MACECalculator"]
