"""Numbers of mace-torch, stored with its checkpoints by ``make_references.py``.

``conftest.py`` says how closely they agree.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mace_jax.artifacts.predictions import SHAPES, Predictions
from mace_jax.torch_models.select_head import select_head

DATA = Path(__file__).parent / "data"
STRUCTURES = DATA / "structures.extxyz"
NAMES = sorted(path.stem for path in DATA.glob("*.npz"))


def reference(name: str) -> Predictions:
    arrays = dict(np.load(DATA / f"{name}.npz"))
    return Predictions(arrays.pop("n_node"), arrays)


def test_what_is_stored():
    assert len(NAMES) == 30
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 2_500_000


@pytest.mark.parametrize("name", NAMES)
def test_references_are_not_zero(name):
    for quantity, values in reference(name).quantities.items():
        assert np.abs(values).max() > 0.02, quantity
    isolated_atom = reference(name).of_structure(0)
    assert not isolated_atom.get("forces", np.zeros(())).any()


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_torch_s(name, convert, structures_of, evaluate, assert_agree):
    bundle = convert(DATA / f"{name}.model.xz")
    structures = [
        replace(structure, head=head)
        for head in bundle.heads
        for structure in structures_of(STRUCTURES, bundle)
    ]
    assert_agree(bundle, structures, evaluate(bundle, structures), reference(name))


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("bias_readout_three_heads_mace", "fine"),
        ("json_density_heads", "fine"),
        ("all_embeddings_readout_heads", "rough"),
    ],
)
def test_one_head_alone_gives_the_same_numbers(
    name, head, convert, structures_of, evaluate, assert_agree
):
    bundle = convert(DATA / f"{name}.model.xz")
    structures = structures_of(STRUCTURES, bundle)
    start = bundle.heads.index(head) * len(structures)
    own = range(start, start + len(structures))
    every = reference(name)
    expected = [every.of_structure(index) for index in own]
    quantities = {
        quantity: (np.concatenate if "n" in SHAPES[quantity] else np.stack)(
            [values[quantity] for values in expected]
        )
        for quantity in every.quantities
    }
    alone = select_head(bundle, head)
    assert alone.heads == (head,)
    assert sum(array.size for array in alone.parameters.values()) < sum(
        array.size for array in bundle.parameters.values()
    )
    found = evaluate(alone, structures)
    assert_agree(alone, structures, found, Predictions(every.n_node[own], quantities))


def test_only_a_first_block_without_residual_gives_the_isolated_atom_its_e0(convert):
    """As mace-torch has it: a residual passes the embedding of the element on to the readouts."""
    oxygen = 8
    energies = {
        name: (
            reference(name).of_structure(0)["energy"],
            convert(DATA / f"{name}.model.xz").atomic_energies["Default"][oxygen],
        )
        for name in ("old_mace", "agnostic_product_mace_plain", "edge_irreps_first")
    }
    assert [float(found - e0) == 0 for found, e0 in energies.values()] == [True, True, False]
