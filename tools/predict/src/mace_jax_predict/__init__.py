"""Predict energies, forces and stress with a trained MACE model."""
