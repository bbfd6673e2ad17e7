import pytest
from hypothesis import given
from hypothesis import strategies as st

from mace_jax.equivariance.irreps import (
    SCALAR,
    VECTOR,
    Irrep,
    Irreps,
    products,
    spherical_harmonics_irreps,
)
from mace_jax.errors import ConfigError

any_irrep = st.builds(Irrep, st.integers(0, 11), st.sampled_from([-1, 1]))
channel_counts = st.dictionaries(any_irrep, st.integers(1, 512), min_size=1, max_size=6)


@given(channel_counts)
def test_text_and_back(channels):
    irreps = Irreps(channels.items())
    again = Irreps.parse(str(irreps), "irreps")
    assert again == irreps
    assert hash(again) == hash(irreps)
    assert list(again.items()) == list(channels.items())


@given(channel_counts, st.randoms(use_true_random=False))
def test_order_counts(channels, random):
    pairs = list(channels.items())
    shuffled = random.sample(pairs, len(pairs))
    assert (Irreps(shuffled) == Irreps(pairs)) == (shuffled == pairs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4x0e + 4x1o", "4x0e + 4x1o"),
        ("4x0e+4x1o", "4x0e + 4x1o"),
        ("  4x0e  + 0o ", "4x0e + 1x0o"),
        ("1o", "1x1o"),
        ("4x0e + 4x0e", "8x0e"),
        ("4x0e + 4x0e + 2x1o + 1o", "8x0e + 3x1o"),
        ("128x11e", "128x11e"),
    ],
)
def test_what_can_be_read(text, expected):
    assert str(Irreps.parse(text, "irreps")) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("banana", "", " ", "+", "4x0e +", "4x0e 4x1o", "4x0e, 4x1o", "4x0x", "4*0e", "-4x0e"),
        *("0x0e", "4x-1o", "4x1", "x0e", "4x0e + 4x1o + 4x0e", "4x0e + 0e + 1o + 0e", "4x0E"),
    ],
)
def test_what_cannot_be_read_is_refused(text):
    message = r"^hidden_irreps: .*, expected each irrep once, such as '32x0e \+ 32x1o'$"
    with pytest.raises(ConfigError, match=message) as caught:
        Irreps.parse(text, "hidden_irreps")
    assert repr(text) in str(caught.value)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text):
    try:
        irreps = Irreps.parse(text, "irreps")
    except ConfigError:
        return
    assert Irreps.parse(str(irreps), "irreps") == irreps


def test_a_mapping():
    irreps = Irreps.parse("4x0e + 2x1o", "irreps")
    assert irreps[SCALAR] == 4
    assert irreps.get(Irrep(1, 1), 0) == 0
    assert Irrep(1, 1) not in irreps
    assert list(irreps) == [SCALAR, VECTOR]
    assert len(irreps) == 2
    assert irreps != {SCALAR: 4, VECTOR: 2}


def test_channels_of_an_irrep_add_up_at_its_first_place():
    irreps = Irreps([(VECTOR, 1), (SCALAR, 2), (VECTOR, 3)])
    assert str(irreps) == "4x1o + 2x0e"


def test_odd_comes_before_even():
    irreps = Irreps.parse("1e + 0e + 2e + 1o + 0o", "irreps")
    assert [str(irrep) for irrep in sorted(irreps)] == ["0o", "0e", "1o", "1e", "2e"]


@given(any_irrep, any_irrep)
def test_products_fill_the_space(left, right):
    """As many components as the outer product has, each irrep once, parities multiplied."""
    found = products(left, right)
    assert sum(irrep.dim for irrep in found) == left.dim * right.dim
    assert [irrep.l for irrep in found] == list(range(found[0].l, found[-1].l + 1))
    assert {irrep.p for irrep in found} == {left.p * right.p}
    assert (SCALAR in found) == (left == right)
    assert sorted(products(right, left)) == found


def test_spherical_harmonics():
    assert [str(irrep) for irrep in spherical_harmonics_irreps(3)] == ["0e", "1o", "2e", "3o"]
    even = spherical_harmonics_irreps(3, use_so3=True)
    assert [str(irrep) for irrep in even] == ["0e", "1e", "2e", "3e"]
