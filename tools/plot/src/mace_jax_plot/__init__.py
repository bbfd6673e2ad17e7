"""Plot the learning curves of MACE-JAX training runs."""
