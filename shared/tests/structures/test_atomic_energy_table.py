import numpy as np
import pytest

from mace_jax.errors import ConfigError, DataError
from mace_jax.structures.atomic_energy_table import AtomicEnergy, atomic_energy_table
from mace_jax.structures.structure import Structure
from mace_jax.structures.training_sums import TrainingSums

# eV; all electrons with PBE, GFN2-xTB, and VASP's PBE relative to its own reference atoms.
PBE = {1: -13.6, 6: -1029.7, 8: -2041.9}
XTB = {1: -10.71, 6: -48.85, 8: -102.57}
VASP = {1: -1.12, 6: -1.26, 8: -1.55, 74: -4.57}
ASPIRIN = [6] * 9 + [1] * 8 + [8] * 4


def make(numbers, energy, head="Default", config_type="Default"):
    n = len(numbers)
    labels = {} if energy is None else {"energy": np.array(energy)}
    cell, pbc = np.zeros((3, 3)), np.zeros(3, bool)
    return Structure(
        np.array(numbers), np.eye(n, 3), cell, pbc, labels, head=head, config_type=config_type
    )


def sums_of(structures, isolated=()):
    sums = TrainingSums(5.0)
    for structure in structures:
        sums.add(structure, np.ones(len(structure), int))
    for structure in isolated:
        sums.isolated_atoms.add(structure)
    return sums


def total(numbers, energies, binding):
    """Energy of atoms bound by ``binding`` eV each."""
    return sum(energies[z] for z in numbers) - binding * len(numbers)


def waters(head="Default", energies=PBE):
    """Clusters of water with some hydroxyls, so that H and O can be told apart."""
    compositions = [[1, 1, 8] * n + [1, 8] * m for n in (1, 2, 3) for m in (0, 1)]
    return [make(numbers, total(numbers, energies, 3.4), head) for numbers in compositions]


def test_average_is_the_fit_and_says_how_good_it_is():
    table = atomic_energy_table("average", sums_of(waters()))
    assert table.by_head()["Default"] == pytest.approx({1: -17.0, 8: -2045.3})
    assert {row.source for row in table.rows} == {"average"}
    assert table.rows[0] == AtomicEnergy("Default", 1, table.rows[0].energy, "average", 6)
    assert table.fits["Default"].rank == 2
    assert table.warnings == ()


def test_lines_are_a_table_for_people():
    lines = atomic_energy_table("average", sums_of(waters())).lines()
    assert lines[0].split() == ["head", "element", "E0,", "eV", "source", "structures"]
    assert lines[1].split() == ["Default", "H", "-17.000000", "average", "6"]
    assert lines[2].split() == ["Default", "O", "-2045.300000", "average", "6"]
    assert "average over 6 structures: rank 2 of 2, condition" in lines[3]
    assert len(lines) == 4


@pytest.mark.parametrize("source", ["given", "file"])
def test_given_in_the_text_or_a_file(tmp_path, source):
    path = tmp_path / "e0s.json"
    path.write_text('{"1": -13.6, "6": -1029.7, "8": -2041.9}')
    table = atomic_energy_table(str(path) if source == "file" else str(PBE), sums_of(waters()))
    assert table.by_head() == {"Default": PBE}
    assert {row.source for row in table.rows} == {source}
    assert [row.n_structures for row in table.rows] == [6, 0, 6]
    assert table.fits == {}


def test_isolated_atoms_win_and_the_rest_is_given():
    isolated = [make([1], -13.5, config_type="IsolatedAtom")]
    table = atomic_energy_table(str(PBE), sums_of(waters(), isolated), (1, 8))
    assert table.by_head() == {"Default": {1: -13.5, 8: -2041.9}}
    assert [row.source for row in table.rows] == ["isolated atom", "given"]


def test_averages_are_fitted_to_what_the_isolated_atoms_leave():
    """Not taken from a fit of all elements, which would count the binding of H twice."""
    isolated = [make([1], -13.6)]
    table = atomic_energy_table("average", sums_of(waters(), isolated))
    assert table.by_head()["Default"][1] == -13.6
    left = [(s.atomic_numbers == 8).sum() for s in waters()]
    rest = [float(s.properties["energy"]) + 13.6 * (s.atomic_numbers == 1).sum() for s in waters()]
    expected = np.dot(left, rest) / np.dot(left, left)
    assert table.by_head()["Default"][8] == pytest.approx(expected, rel=1e-12)
    assert [row.source for row in table.rows] == ["isolated atom", "average"]


def test_isolated_atoms_of_all_elements_need_nothing_else():
    isolated = [make([z], PBE[z]) for z in (1, 8)]
    for e0s in (None, "average"):
        table = atomic_energy_table(e0s, sums_of(waters(), isolated))
        assert table.by_head() == {"Default": {1: -13.6, 8: -2041.9}}
        assert table.fits == {}


@pytest.mark.parametrize(
    ("e0s", "message"),
    [
        (None, r"^E0s not given and no isolated atoms: head 'Default': no E0 for H \(1\), O \(8\)"),
        ("{8: -2041.9}", r"head 'Default': no E0 for H \(1\); give it with --E0s"),
        ("{'scan': {1: -13.6, 8: -2041.9}}", r"head 'Default': no E0 for H \(1\), O \(8\)"),
    ],
)
def test_a_missing_element_is_an_error_and_never_zero(e0s, message):
    with pytest.raises(DataError, match=message):
        atomic_energy_table(e0s, sums_of(waters()))


def test_no_average_of_an_element_that_does_not_occur():
    with pytest.raises(DataError, match=r"E0s 'average': all heads: no E0 for Fe \(26\)"):
        atomic_energy_table("average", sums_of(waters()), (1, 8, 26))


def test_elements_the_model_does_not_know_are_left_out_unless_they_are_in_the_data():
    table = atomic_energy_table(str({**PBE, 26: -1.0}), sums_of(waters()), (1, 6, 8))
    assert table.by_head() == {"Default": PBE}


def test_no_energies_to_average_is_an_error():
    bare = [make([1, 8], None)]
    with pytest.raises(DataError, match="head 'Default': none of the 1 structures has an energy"):
        atomic_energy_table("average", sums_of(bare))


def test_nonsense_is_refused_even_if_isolated_atoms_make_it_superfluous():
    isolated = [make([z], PBE[z]) for z in (1, 8)]
    with pytest.raises(ConfigError, match="'avrage' cannot be read"):
        atomic_energy_table("avrage", sums_of(waters(), isolated))


def test_each_head_has_its_own():
    iron = [make([26] * n, -4.0 * n, "surface") for n in (1, 2)]
    sums = sums_of(waters() + iron, [make([26], -3.0, "surface")])
    table = atomic_energy_table('{"Default": "average"}', sums, (1, 8, 26))
    assert table.by_head()["surface"] == {26: -3.0}
    assert table.by_head()["Default"].keys() == {1, 8}
    assert list(table.fits) == ["Default"]
    assert [row.source for row in table.rows] == ["average", "average", "isolated atom"]


def test_elements_that_cannot_be_told_apart_are_named():
    data = [make([1, 1, 8] * n, -20.0 * n) for n in (1, 2, 3)]
    table = atomic_energy_table("average", sums_of(data))
    assert table.by_head()["Default"] == pytest.approx({1: -8.0, 8: -4.0})
    assert "Default: the compositions do not tell H, O apart" in table.lines()[-1]
    assert table.warnings == ()


def test_averages_that_hang_on_little_are_named():
    data = [make([1] * 30000 + [8] * 15000, -4e5), make([1] * 30001 + [8] * 15000, -4e5 - 10)]
    (warning,) = atomic_energy_table("average", sums_of(data)).warnings
    assert "uncertain, condition" in warning


# --- do E0s and energies belong together?


def aspirins(energies, binding=3.9, spread=0.05):
    rng = np.random.default_rng(0)
    bound = rng.normal(binding, spread, 50)
    return [make(ASPIRIN, total(ASPIRIN, energies, each)) for each in bound]


def mixed(energies, binding=4.0):
    """Molecules rich in hydrogen, in carbon and in oxygen."""
    rng = np.random.default_rng(1)
    compositions = [rng.choice([1, 6, 8], rng.integers(2, 30), p=rng.dirichlet([1, 1, 1]))]
    for _ in range(60):
        compositions.append(rng.choice([1, 6, 8], rng.integers(2, 30), p=rng.dirichlet([1, 1, 1])))
    return [
        make(numbers.tolist(), total(numbers, energies, binding + rng.normal(0, 1.5)))
        for numbers in compositions
    ]


def warnings(structures, energies):
    return atomic_energy_table(str(energies), sums_of(structures)).warnings


@pytest.mark.parametrize("make_data", [aspirins, mixed])
@pytest.mark.parametrize(
    ("of_data", "given"), [(PBE, XTB), (XTB, PBE), (VASP, PBE), (PBE, VASP), (VASP, XTB)]
)
def test_e0s_of_another_method_are_noticed(make_data, of_data, given):
    (warning,) = warnings(make_data(of_data), given)
    assert "cannot be from the same method" in warning
    assert warning.startswith("Default: ")


@pytest.mark.parametrize("make_data", [aspirins, mixed])
@pytest.mark.parametrize("energies", [PBE, XTB, VASP])
def test_e0s_of_the_same_method_are_not(make_data, energies):
    assert warnings(make_data(energies), energies) == ()


@pytest.mark.parametrize("binding", [0.0, 0.1, 3.0, 9.0, 13.0])
def test_matter_from_noble_gases_to_tungsten_is_ordinary(binding):
    """Up to tungsten relative to an atom without spin."""
    data = [make([74] * n, total([74] * n, VASP, binding + 0.01 * n)) for n in range(1, 9)]
    assert warnings(data, VASP) == ()


def test_data_with_some_broken_molecules_is_ordinary():
    data = aspirins(PBE) + aspirins(PBE, binding=-15.0)[:5]
    assert warnings(data, PBE) == ()


def test_hydrogen_alone_shows_another_method_by_its_sign():
    """H2 of VASP with the E0 of a full hydrogen atom: every molecule seems 10 eV unbound."""
    data = [make([1, 1], -6.77 + 0.05 * i) for i in range(10)]
    assert warnings(data, {1: -13.6})
    assert warnings(data, {1: -1.12}) == ()


def test_errors_of_both_signs_do_not_cancel():
    """Two elements wrong by 300 eV up and down: the mean is right, the spread is not."""
    data = [make(n, total(n, VASP, 4.0)) for n in ([6, 8], [6, 6, 8], [6, 8, 8], [6, 6], [8, 8])]
    (warning,) = warnings(data, {6: VASP[6] - 300, 8: VASP[8] + 300})
    assert "per atom" in warning


def test_averages_belong_to_their_energies_by_construction():
    assert atomic_energy_table("average", sums_of(mixed(PBE))).warnings == ()
