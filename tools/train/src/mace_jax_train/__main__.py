"""Run the command as ``python -m mace_jax_train``."""

from mace_jax_train.cli import main

main()
