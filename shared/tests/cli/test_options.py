from pathlib import Path

import click
import pytest

from mace_jax.cli.options import (
    LABELS,
    AtomicNumbers,
    Paths,
    PositiveFloat,
    label_key_options,
    take_label_keys,
)
from mace_jax.structures.structure import PROPERTY_SHAPES


def convert(kind, value):
    return kind.convert(value, None, None)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (PositiveFloat(), "4.5", 4.5),
        (PositiveFloat(), "1e-3", 1e-3),
        (PositiveFloat(), 5, 5.0),
        (AtomicNumbers(), "[1, 6, 8]", (1, 6, 8)),
        (AtomicNumbers(), "1,6,8", (1, 6, 8)),
        (AtomicNumbers(), "1 6, 8", (1, 6, 8)),
        (AtomicNumbers(), " [118] ", (118,)),
        (AtomicNumbers(), (1, 8), (1, 8)),
        (Paths(), "a.xyz", (Path("a.xyz"),)),
        (Paths(), "a b,c.xyz", (Path("a b,c.xyz"),)),
        (Paths(), "['a.xyz', 'b.xyz']", (Path("a.xyz"), Path("b.xyz"))),
        (Paths(), (Path("a"),), (Path("a"),)),
    ],
)
def test_good_values(kind, value, expected):
    assert convert(kind, value) == expected


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "five", ""])
def test_not_a_positive_number(value):
    with pytest.raises(click.BadParameter, match="is not a number above 0"):
        convert(PositiveFloat(), value)


@pytest.mark.parametrize(
    "value",
    ["", "[]", "[0]", "[119]", "[1, -6]", "[1, 'H']", "H,O", "[1, 6", "1.5", "[1.5, 6]", "[[1]]"],
)
def test_not_a_list_of_atomic_numbers(value):
    with pytest.raises(click.BadParameter, match="is not a list of atomic numbers"):
        convert(AtomicNumbers(), value)


@pytest.mark.parametrize("value", ["[", "['a.xyz'", "[1]", "[a.xyz]", "[]"])
def test_not_a_list_of_paths(value):
    with pytest.raises(click.BadParameter, match="is not a path or a list of paths"):
        convert(Paths(), value)


def test_every_label_has_a_flag_for_its_key():
    """Named here once more, as NumPy would make --help slow."""
    assert tuple(PROPERTY_SHAPES) == LABELS
    command = label_key_options(click.command()(lambda **flags: take_label_keys(flags)))
    names = {name.replace("--", "").replace("-key", "") for p in command.params for name in p.opts}
    assert names == set(LABELS)
    arguments = ["--forces-key", "dft_forces"]
    assert command.main(arguments, standalone_mode=False) == {"forces": "dft_forces"}
