"""The MACE network; the only part of the library that imports jax."""
