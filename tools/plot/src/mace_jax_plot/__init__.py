"""Draw figures and reports of MACE-JAX training runs."""
