"""Run the command as ``python -m mace_jax_plot``."""

from mace_jax_plot.cli import main

main()
