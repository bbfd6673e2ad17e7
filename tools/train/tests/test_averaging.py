import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from mace_jax_train.averaging import moving_average, no_snapshots, with_snapshot


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_the_moving_average_warms_up(decay):
    """torch_ema: update n counts for 1 - min(decay, (1 + n) / (10 + n))."""
    updates = np.random.default_rng(0).normal(size=(20, 3))
    with jax.enable_x64(True):
        found = jnp.zeros(3)
        for n, parameters in enumerate(updates, start=1):
            found = moving_average(found, jnp.asarray(parameters), decay, jnp.int32(n))
    expected = np.zeros(3)
    for n, parameters in enumerate(updates, start=1):
        kept = min(decay, (1 + n) / (10 + n))
        expected = kept * expected + (1 - kept) * parameters
    assert_allclose(found, expected, rtol=1e-13)


@settings(deadline=None)  # jax compiles for each length
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6))
def test_snapshots_count_alike(values):
    with jax.enable_x64(True):
        snapshots = no_snapshots(jnp.zeros(2))
        for value in values:
            snapshots = with_snapshot(snapshots, jnp.full(2, value))
    assert snapshots.n == len(values)
    assert_allclose(snapshots.mean, np.full(2, np.mean(values)), atol=1e-13)
