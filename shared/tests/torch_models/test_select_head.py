"""What is kept; ``tests/parity`` compares the numbers with those of the model of all heads."""

from dataclasses import replace

import numpy as np
import pytest

from mace_jax.errors import ConfigError
from mace_jax.model.load import load_model
from mace_jax.torch_models.select_head import select_head, select_heads, with_heads_of

HEADS = {
    "all_embeddings_readout_heads": "fine",
    "bias_readout_three_heads_mace": "Default",
    "json_density_heads": "rough",
    "keep_last_layer_nonlinear_heads": "fine",
    "last_readout_only_mace_heads": "rough",
}


@pytest.mark.parametrize(("name", "head"), HEADS.items())
def test_only_readouts_and_energies_change(convert, name, head):
    import jax

    every = convert(name)
    alone = select_head(every, head)
    assert alone.heads == (head,)
    assert alone.config == every.config
    assert alone.atomic_energies == {head: every.atomic_energies[head]}
    assert (alone.scale, alone.shift) == ({head: every.scale[head]}, {head: every.shift[head]})
    assert alone.parameters.keys() == every.parameters.keys()
    for path, array in alone.parameters.items():
        if not path.startswith(("readouts/", "embedding_readout/")):
            assert array is every.parameters[path]
    with jax.enable_x64(True):
        load_model(alone, name)  # checks every shape


@pytest.mark.parametrize(("name", "head"), HEADS.items())
def test_heads_under_other_names_are_what_they_were(convert, name, head):
    """Also of more heads than before, and of all in another order."""
    every = convert(name)
    (other,) = [known for known in every.heads if known != head][:1]
    for sources in ({"x": head, "y": other, "z": head, "w": head}, {"b": other, "a": head}):
        chosen = select_heads(every, sources)
        assert chosen.heads == tuple(sources)
        for to, source in sources.items():
            one, expected = select_head(chosen, to), select_head(every, source)
            assert one.atomic_energies == {to: every.atomic_energies[source]}
            for path, array in expected.parameters.items():
                np.testing.assert_allclose(one.parameters[path], array, rtol=1e-14, err_msg=path)


@pytest.mark.parametrize(("name", "head"), HEADS.items())
def test_heads_of_two_models_are_one_models(convert, name, head):
    """The other parameters are those of the first; whatever the order, each head is what it was."""
    every = convert(name)
    (other,) = [known for known in every.heads if known != head][:1]
    first = select_head(every, head)
    trained = {path: 2 * array for path, array in first.parameters.items()}
    first = replace(first, parameters=trained)
    for sources in ({"old": other, head: None}, {head: None, "old": other}):
        joined = with_heads_of(first, select_heads(every, sources))
        assert (
            joined.heads == tuple(joined.scale) == tuple(joined.atomic_energies) == tuple(sources)
        )
        assert joined.scale == {head: every.scale[head], "old": every.scale[other]}
        assert joined.shift["old"] == every.shift[other]
        assert joined.atomic_energies["old"] == every.atomic_energies[other]
        old, kept = select_head(joined, "old").parameters, select_head(every, other).parameters
        again = select_head(joined, head).parameters
        for path, array in trained.items():
            np.testing.assert_allclose(again[path], array, rtol=1e-14, err_msg=path)
            is_readout = path.startswith(("readouts/", "embedding_readout/"))
            expected = kept[path] if is_readout else array
            np.testing.assert_allclose(old[path], expected, rtol=1e-14, err_msg=path)


@pytest.mark.parametrize("name", ["layers_1", "atomic_dipoles"])
def test_the_only_head(convert, name):
    bundle = convert(name)
    alone = select_head(bundle, "Default")
    assert alone.parameters == bundle.parameters
    assert (alone.heads, alone.scale) == (bundle.heads, bundle.scale)


def test_an_unknown_head(convert):
    message = r"^head 'fin', expected one of \['rough', 'fine'\]$"
    with pytest.raises(ConfigError, match=message):
        select_head(convert("json_density_heads"), "fin")
