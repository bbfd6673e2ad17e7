"""Train a MACE model in JAX."""
