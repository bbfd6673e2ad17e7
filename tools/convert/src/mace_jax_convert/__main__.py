"""Run the command as ``python -m mace_jax_convert``."""

from mace_jax_convert.cli import main

main()
