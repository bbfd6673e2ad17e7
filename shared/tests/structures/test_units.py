import numpy as np
import pytest

from mace_jax.units import symmetric_matrix

MATRIX = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])


@pytest.mark.parametrize("values", [[1, 2, 3, 4, 5, 6], MATRIX.ravel(), MATRIX])
def test_voigt_order_is_xx_yy_zz_yz_xz_xy(values):
    np.testing.assert_array_equal(symmetric_matrix(values), MATRIX)
    assert symmetric_matrix(values).dtype == np.float64


def test_voigt_order_is_that_of_ase():
    from ase.stress import voigt_6_to_full_3x3_stress

    voigt = np.random.default_rng(0).normal(size=6)
    np.testing.assert_array_equal(symmetric_matrix(voigt), voigt_6_to_full_3x3_stress(voigt))


@pytest.mark.parametrize("shape", [(), (3,), (5,), (2, 3), (4, 4), (6, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(6,\), \(9,\) or \(3, 3\)"):
        symmetric_matrix(np.ones(shape))
