import jax
import jax.numpy as jnp
import pytest

from mace_jax.model.compiling import jit, known_options


def test_options_that_this_xla_lacks_are_left_out():
    assert known_options({"xla_cpu_use_fusion_emitters": True})
    assert known_options({"xla_cpu_no_such_option": True}) == {}


def test_programs_have_the_options():
    """That they have shows where jax refuses them: inside another program."""
    with pytest.raises(ValueError, match="'xla_cpu_use_fusion_emitters': False"):
        jax.jit(jit(jnp.sin))(1.0)


def test_settings_are_those_of_jax():
    power = jit(lambda x, n: x**n, static_argnames="n")
    assert power(jnp.float32(3), n=2) == 9
    assert power._cache_size() == 1
