"""The parts of the network that cuequivariance computes: backend ``cueq``.

Each function means what its counterpart in plain jax means. Features and weights keep their layout,
components before channels, which is the library's ``ir_mul``.
"""
