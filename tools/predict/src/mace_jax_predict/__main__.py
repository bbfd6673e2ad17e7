"""Run the command as ``python -m mace_jax_predict``."""

from mace_jax_predict.cli import main

main()
