"""What computes the costly parts of a network: plain jax, or the kernels of cuequivariance."""

from typing import Literal, NamedTuple

BackendName = Literal["dense", "cueq"]


class Backend(NamedTuple):
    """Which parts cuequivariance computes; the numbers are the same.

    Attributes:
        convolution: the messages, gathered, weighted and summed at once.
        products: the symmetric contraction, and the linear map by element.
        frozen: plain jax for a network that is not trained: the same numbers and derivatives by
            positions in less time, but none by weights.
    """

    convolution: bool = False
    products: bool = False
    frozen: bool = False


DENSE = Backend()
FROZEN = Backend(frozen=True)
CUEQ = Backend(convolution=True, products=True)
BACKENDS: dict[BackendName, Backend] = {"dense": DENSE, "cueq": CUEQ}


def require_backend(backend: Backend) -> str:
    """Check that this machine has what ``backend`` needs.

    Returns: its name, for people: ``dense``, or ``cueq`` with the method that cuequivariance uses.

    Raises:
        ConfigError: a package is missing.
    """
    if not (backend.convolution or backend.products):
        return "dense"
    from mace_jax.model.cueq.kernels import require_cueq

    return f"cueq ({require_cueq()})"
