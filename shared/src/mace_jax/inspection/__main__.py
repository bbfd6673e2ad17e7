"""Run the command as ``python -m mace_jax.inspection``."""

from mace_jax.inspection.cli import main

main()
