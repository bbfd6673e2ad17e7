"""Run the command as ``python -m mace_jax_export_lammps``."""

from mace_jax_export_lammps.cli import main

main()
