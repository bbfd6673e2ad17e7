"""The library behind the MACE-JAX tools; import its parts by name."""
