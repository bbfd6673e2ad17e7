"""Run the command as ``python -m mace_jax_preprocess``."""

from mace_jax_preprocess.cli import main

main()
