"""Atomic structures with their labels: reading, neighbours, reference energies, statistics."""
