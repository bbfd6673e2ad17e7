"""What evaluates polynomials: cuequivariance's kernels on CUDA, its plain jax elsewhere.

A polynomial is written here as operands of equally wide segments and as terms: for each choice of
operands, the segments that are multiplied, the one that is added to, and a coefficient.
"""

import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.extend import backend

from mace_jax.errors import ConfigError


class Operand(NamedTuple):
    """Segments of an array's last axis; ``shape`` is that of each, ``()`` for numbers."""

    n_segments: int
    shape: tuple[int, ...]


# (inputs, then the output) -> (a segment of each, the coefficient)
Terms = Mapping[tuple[int, ...], Sequence[tuple[tuple[int, ...], float]]]


def require_cueq() -> str:
    """Check that cuequivariance can compute on jax's default device.

    Returns: the method, to be shown to the user: ``uniform_1d`` on CUDA, ``naive`` elsewhere.

    Raises:
        ConfigError: a package is missing or cannot be loaded.
    """
    if importlib.util.find_spec("cuequivariance_jax") is None:
        message = (
            'backend cueq: cuequivariance-jax is not installed; pip install "mace-jax-shared[cueq]"'
        )
        raise ConfigError(message)
    version = cuda_version()
    if version is None:
        return "naive"
    package = f"cuequivariance-ops-jax-cu{version}"
    if importlib.util.find_spec("cuequivariance_ops_jax") is None:
        message = f"backend cueq: {package} is not installed; pip install {package}"
        raise ConfigError(message)
    try:
        importlib.import_module("cuequivariance_ops_jax")
    except (ImportError, OSError) as error:
        message = (
            f"backend cueq: cuequivariance-ops-jax cannot be loaded: {error}; "
            f"pip install --force-reinstall {package}"
        )
        raise ConfigError(message) from error
    return "uniform_1d"


def cuda_version() -> int | None:
    """Return the major version of the CUDA that jax computes with, or None elsewhere."""
    found = re.search(r"cuda (\d+)", backend.get_backend().platform_version.lower())
    return int(found[1]) // 1000 if found else None


def polynomial(inputs: Sequence[Operand], outputs: Sequence[Operand], terms: Terms) -> Any:
    """Return a ``cuequivariance.SegmentedPolynomial`` whose wide segments are as wide as others."""
    import cuequivariance as cue

    operands = [
        cue.SegmentedOperand([operand.shape] * operand.n_segments)
        for operand in (*inputs, *outputs)
    ]
    operations = [
        (
            buffers,
            cue.SegmentedTensorProduct(
                [(operands[buffer], "u" * operands[buffer].ndim) for buffer in buffers],
                paths=[cue.segmented_polynomials.Path(*term) for term in each],
            ),
        )
        for buffers, each in terms.items()
    ]
    return cue.SegmentedPolynomial(operands[: len(inputs)], operands[len(inputs) :], operations)


def evaluate(
    poly: Any,
    inputs: Sequence[Array],
    n_outputs: Sequence[int],
    indices: Sequence[Any],
    *,
    kernel: str = "uniform_1d",
) -> list[Array]:
    """Evaluate a polynomial for every row of its operands.

    Args:
        poly: a ``cuequivariance.SegmentedPolynomial``.
        inputs: ``[n, size of the operand]``; any number of axes after the first are flattened.
        n_outputs: rows of each output.
        indices: which row of each input and output an evaluation takes or adds to; None for its
            own.
        kernel: what computes on CUDA.

    Returns: the outputs, ``[n, size of the operand]``.
    """
    import cuequivariance_jax as cuex

    rows = [x.reshape(len(x), -1) for x in inputs]
    shapes = [jax.ShapeDtypeStruct((n, -1), rows[0].dtype) for n in n_outputs]
    method = kernel if cuda_version() is not None else "naive"
    return cuex.segmented_polynomial(poly, rows, shapes, list(indices), method=method)
