"""Run the command as ``python -m mace_jax_plan_batches``."""

from mace_jax_plan_batches.cli import main

main()
