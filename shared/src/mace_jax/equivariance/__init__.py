"""Irreducible representations of rotations and inversion and how they couple, in NumPy."""
