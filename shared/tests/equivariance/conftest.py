"""One rotation, and the matrices that stand for it on every irrep."""

from functools import cache

import e3nn_jax as e3nn
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import expm

AXIS_TIMES_ANGLE = np.array([0.9, -1.7, 0.6])


@cache
def rotation_of(l: int) -> NDArray[np.float64]:
    """Exponential of e3nn's generators, ``[2l+1, 2l+1]``."""
    generators = np.asarray(e3nn.Irrep(l, 1).generators())
    return expm(np.einsum("i,iab->ab", AXIS_TIMES_ANGLE, generators))


@pytest.fixture(scope="session")
def rotation():
    """Return a function from l to the matrix of the rotation; for l = 1 it turns vectors."""
    identity = rotation_of(1) @ rotation_of(1).T
    np.testing.assert_allclose(identity, np.eye(3), atol=1e-12)
    assert np.trace(rotation_of(1)) == pytest.approx(
        1 + 2 * np.cos(np.linalg.norm(AXIS_TIMES_ANGLE))
    )
    return rotation_of
