import dataclasses
import json

import numpy as np
import pytest

from mace_jax.errors import DataError
from mace_jax.structures.isolated_atoms import (
    IsolatedAtoms,
    is_isolated_atom,
)
from mace_jax.structures.structure import Structure


def make(numbers, energy=None, config_type="Default", box=None, head="Default", place="frame"):
    return Structure(
        np.array(numbers),
        np.arange(3.0 * len(numbers)).reshape(-1, 3),
        np.eye(3) * (box or 0.0),
        np.full(3, box is not None),
        {} if energy is None else {"energy": np.array(energy)},
        config_type=config_type,
        head=head,
        place=place,
    )


def alone(number, energy, **options):
    return make([number], energy, "IsolatedAtom", **options)


def isolated_atoms_of(data):
    energies = IsolatedAtoms()
    for structure in data:
        if is_isolated_atom(structure):
            energies.add(structure)
    return energies.of_head("Default")


def test_isolated_atoms_are_those_of_the_config_type_alone():
    data = [alone(1, -13.6), make([1, 1], -30.0, "IsolatedAtom"), alone(8, -432.0)]
    data += [make([6], -5.0), make([6], -9.0, box=2.5), alone(1, -13.6)]
    assert isolated_atoms_of(data) == {1: -13.6, 8: -432.0}
    assert [is_isolated_atom(s) for s in data] == [True, False, True, False, False, True]


def test_one_atom_in_a_bulk_cell_is_refused_for_the_role():
    """The primitive cell of fcc copper."""
    cell = 3.61 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0.0]])
    bulk = alone(29, -3.7, box=1.0, place="train.xyz: frame 4")
    bulk = dataclasses.replace(bulk, cell=cell)
    message = (
        r"^train\.xyz: frame 4: IsolatedAtom Cu is periodic with images nearer than 8 Å, expected "
        r"an atom alone: its energy is that of a crystal, no E0; set pbc"
    )
    with pytest.raises(DataError, match=message):
        is_isolated_atom(bulk)
    assert not is_isolated_atom(dataclasses.replace(bulk, config_type="bulk"))


def test_periodic_along_one_direction_only_is_not_isolated_either():
    wire = dataclasses.replace(alone(29, -3.7, box=2.5), pbc=np.array([False, False, True]))
    with pytest.raises(DataError, match="is periodic"):
        is_isolated_atom(wire)


def test_a_flat_cell_is_told_by_its_shortest_vector_not_by_its_edges():
    """a - b is 1 Å long although the edges are 20 Å."""
    flat = dataclasses.replace(
        alone(29, -3.7, box=20.0), cell=np.array([[20, 0, 0], [20, 1, 0], [0, 0, 20.0]])
    )
    with pytest.raises(DataError, match="is periodic"):
        is_isolated_atom(flat)


@pytest.mark.parametrize("box", [None, 12.0])
def test_an_atom_in_a_large_periodic_box_is_isolated(box):
    """Plane-wave codes know no other way."""
    assert is_isolated_atom(alone(8, -432.0, box=box))


def test_isolated_atoms_that_disagree_are_refused():
    data = [alone(1, -13.6), make([8], -1.0), alone(1, -13.5, place="train.xyz: frame 2")]
    message = r"^train\.xyz: frame 2: isolated atom H has -13\.5 eV, another frame -13\.6 eV"
    with pytest.raises(DataError, match=message):
        isolated_atoms_of(data)


def test_an_isolated_atom_without_energy_is_refused():
    with pytest.raises(DataError, match=r"^train\.xyz: frame 0: isolated atom O has no energy"):
        isolated_atoms_of([alone(8, None, place="train.xyz: frame 0")])


def test_heads_have_their_own_and_parts_merge_through_json():
    whole, part = IsolatedAtoms(), IsolatedAtoms()
    whole.add(alone(1, -13.6, head="pbe"))
    part.add(alone(1, -13.5, head="scan"))
    part.add(alone(1, -13.6, head="pbe"))
    part.add(alone(8, -432.0, head="pbe"))
    whole.merge(IsolatedAtoms.from_json(json.loads(json.dumps(part.to_json()))))
    assert whole.of_head("pbe") == {1: -13.6, 8: -432.0}
    assert whole.of_head("scan") == {1: -13.5}
    assert whole.of_head("other") == {}


def test_parts_that_disagree_are_refused():
    whole, part = IsolatedAtoms(), IsolatedAtoms()
    whole.add(alone(1, -13.6, head="pbe"))
    part.add(alone(1, -13.5, head="pbe"))
    with pytest.raises(DataError, match=r"head 'pbe': isolated atom H has -13\.5 eV"):
        whole.merge(part)
