import pytest

from mace_jax.structures.head_names import why_no_head_name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("all", "means all heads"),
        ("weighted", "means all heads"),
        ("None", "in HDF5"),
        ("", "is empty"),
        (" ", "is empty"),
        ("a\tb", "cannot be printed"),
        ("pbe ", "blanks around it"),
    ],
)
def test_what_is_no_name(name, why):
    assert why in str(why_no_head_name(name))


@pytest.mark.parametrize("name", ["Default", "pt_head", "ωB97M-D3 / def2", '"', "none", "1"])
def test_what_is_a_name(name):
    assert why_no_head_name(name) is None
