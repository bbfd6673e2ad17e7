"""LAMMPS ML-IAP export of MACE-JAX models (no command yet)."""
