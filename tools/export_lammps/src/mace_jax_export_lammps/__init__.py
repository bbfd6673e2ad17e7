"""Models for LAMMPS: the command that exports them, and the class that LAMMPS loads."""
