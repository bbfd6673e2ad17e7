import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from mace_jax.errors import DataError
from mace_jax.structures.data_check.check import CheckLimits, DataCheck
from mace_jax.structures.read_structures import read_structures
from mace_jax.structures.structure import Structure

ASPIRIN = Path(__file__).parents[4] / "examples" / "aspirin"


def report_of(structures, split="train", limits=None):
    check = DataCheck(limits)
    for structure in structures:
        check.add(structure, split)
    return check.report()


def found(report):
    return {(finding.check, finding.severity): finding for finding in report.findings}


def only(report):
    (finding,) = report.findings
    return finding


def labelled(structure, **labels):
    return dataclasses.replace(structure, properties={**structure.properties, **labels})


def test_nothing_is_found_in_clean_data():
    check = DataCheck()
    for split in ("train", "valid", "test"):
        for structure in read_structures(ASPIRIN / f"{split}.xyz")[0]:
            check.add(structure, split)
    report = check.report()
    assert report.findings == ()
    assert report.lines()[-1] == "nothing found"
    assert [count.n_structures for count in report.labels] == [440, 80, 80]


def test_nothing_at_all_gives_an_empty_report():
    report = DataCheck().report()
    assert (report.findings, report.labels, report.elements) == ((), (), {})


def test_the_planted_set_is_clean_before_planting(ordinary):
    assert report_of(ordinary).findings == ()


# --- one structure alone


def test_a_number_that_is_not_finite(ordinary):
    forces = ordinary[3].properties["forces"].copy()
    forces[1, 2] = np.nan
    finding = only(report_of([*ordinary, labelled(ordinary[3], forces=forces)]))
    assert (finding.check, finding.severity, finding.count) == ("structures", "error", 1)
    assert "train.xyz: frame 3: forces of atom 1 is nan" in finding.places[0]


def test_frames_that_could_not_be_read():
    check = DataCheck()
    for index in range(12):
        check.add_bad(DataError(f"train.xyz: frame {index}: bad"))
    finding = only(check.report())
    assert (finding.severity, finding.count, len(finding.places)) == ("error", 12, 10)
    assert finding.places[0] == "train.xyz: frame 0: bad"


def test_two_atoms_at_one_place(make):
    structure = make([1, 8])
    structure.positions[1] = structure.positions[0]
    finding = only(report_of([structure]))
    assert (finding.check, finding.severity) == ("structures", "error")
    assert "atoms 1 and 0 are at the same place" in finding.places[0]


def test_one_atom_of_a_crystal_in_the_role_of_an_isolated_atom(make):
    structure = make([6], config_type="IsolatedAtom")
    bulk = dataclasses.replace(structure, cell=3 * np.eye(3), pbc=np.ones(3, bool))
    assert "IsolatedAtom C is periodic" in only(report_of([bulk])).places[0]


def test_atoms_that_are_too_close(ordinary, make):
    """C and O at 0.68 Å, below half of 0.76 + 0.66 Å; H2 at 0.74 Å is a bond."""
    carbon_monoxide, hydrogen, nearer = make([6, 8], 50), make([1, 1], 51), make([6, 6], 52)
    for structure, distance in ((carbon_monoxide, 0.68), (hydrogen, 0.74), (nearer, 0.2)):
        structure.positions[1] = structure.positions[0] + [0, 0, distance]
    finding = only(report_of([*ordinary, carbon_monoxide, hydrogen, nearer]))
    assert (finding.check, finding.severity, finding.count) == ("close atoms", "warning", 2)
    assert finding.places == (
        "train.xyz: frame 52: C 0 and C 1 at 0.200 Å",
        "train.xyz: frame 50: C 0 and O 1 at 0.680 Å",
    )


def test_atoms_too_close_to_an_image(make):
    structure = make([6], 3, binding=4.0)
    thin = dataclasses.replace(structure, cell=np.diag([5, 5, 0.7]), pbc=np.ones(3, bool))
    assert only(report_of([thin])).places == ("train.xyz: frame 3: C 0 and C 0 at 0.700 Å",)


def test_the_fraction_can_be_chosen(make):
    structure = make([6, 8], 50)
    structure.positions[1] = structure.positions[0] + [0, 0, 0.68]
    assert report_of([structure], limits=CheckLimits(close_fraction=0.4)).findings == ()


def test_forces_that_do_not_sum_to_zero(ordinary):
    n = len(ordinary[0])
    pushed = ordinary[0].properties["forces"] + [0.0, 0.003, 0.004]
    noise = ordinary[1].properties["forces"] + [0.0, 0.0, 5e-4]
    data = [labelled(ordinary[0], forces=pushed), labelled(ordinary[1], forces=noise)]
    assert n > 1
    finding = only(report_of([*data, *ordinary[2:]]))
    assert (finding.check, finding.severity, finding.count) == ("net force", "warning", 1)
    assert finding.places == ("train.xyz: frame 0: 0.005 eV/Å per atom",)


def test_an_isolated_atom_may_feel_a_force_and_have_any_energy(ordinary, make):
    atom = make([6], 99, binding=500.0, config_type="IsolatedAtom")
    assert report_of([*ordinary, labelled(atom, forces=np.ones((1, 3)))]).findings == ()


# --- structures together


def test_a_repeated_structure(ordinary):
    again = dataclasses.replace(ordinary[5], place="more.xyz: frame 0")
    finding = only(report_of([*ordinary, again]))
    assert (finding.check, finding.severity, finding.count) == ("duplicates", "warning", 1)
    assert "repeated, labels included" in finding.message
    assert finding.places == ("more.xyz: frame 0 = train.xyz: frame 5",)


@pytest.mark.parametrize(
    ("shift", "severity", "text"),
    [(0.02, "error", "an energy of its own"), (1e-4, "warning", "other labels")],
)
def test_one_geometry_with_two_energies(ordinary, shift, severity, text):
    energy = ordinary[5].properties["energy"] + shift * len(ordinary[5])
    again = dataclasses.replace(labelled(ordinary[5], energy=energy), place="more.xyz: frame 0")
    finding = only(report_of([*ordinary, again]))
    assert (finding.check, finding.severity, finding.count) == ("duplicates", severity, 1)
    assert text in finding.message
    figure = f"{1000 * shift:.4g} meV per atom"
    assert finding.places == (f"more.xyz: frame 0 = train.xyz: frame 5: {figure}",)


def test_one_geometry_with_and_without_an_energy(ordinary):
    forces = {"forces": ordinary[5].properties["forces"]}
    again = dataclasses.replace(ordinary[5], properties=forces, place="more.xyz: frame 0")
    finding = found(report_of([*ordinary, again]))["duplicates", "warning"]
    assert "other labels" in finding.message
    assert finding.places == ("more.xyz: frame 0 = train.xyz: frame 5: not both have an energy",)


def test_one_geometry_with_other_forces(ordinary):
    again = labelled(ordinary[5], forces=-ordinary[5].properties["forces"])
    finding = only(report_of([*ordinary, again]))
    assert finding.severity == "warning"
    assert "other labels" in finding.message


def test_the_same_structure_for_another_head_or_charge_is_no_duplicate(ordinary):
    scan = [dataclasses.replace(s, head="scan") for s in ordinary]
    charged = [dataclasses.replace(s, inputs={"total_charge": np.ones(())}) for s in ordinary]
    assert report_of([*ordinary, *scan, *charged]).findings == ()


def test_a_test_structure_that_is_trained_on(ordinary):
    check = DataCheck()
    for structure in ordinary:
        check.add(structure)
    check.add(dataclasses.replace(ordinary[2], place="test.xyz: frame 8"), "test")
    finding = only(check.report())
    assert (finding.severity, finding.count) == ("warning", 1)
    assert "in two splits" in finding.message
    assert finding.places == ("test.xyz: frame 8 = train.xyz: frame 2",)


def test_an_energy_far_from_the_others(ordinary, make):
    data = [*ordinary, make([6, 1, 1, 1, 1], 77, binding=9.0)]
    finding = only(report_of(data))
    assert (finding.check, finding.severity, finding.count) == ("energy outliers", "warning", 1)
    assert finding.places[0].startswith("train.xyz: frame 77: -5")
    assert "eV per atom" in finding.places[0]


def test_outliers_do_not_hide_each_other(ordinary, make):
    """A fifth of the energies off by up to 10⁵ eV: the first fit is nonsense for all."""
    off = [make([6, 8, 1, 1], seed, binding=10.0 ** (seed % 5 + 1)) for seed in range(60, 70)]
    finding = only(report_of([*ordinary, *off]))
    assert finding.count == 10
    assert all(f"frame {seed}:" in str(finding.places) for seed in range(60, 70))


def test_each_head_is_judged_by_itself(ordinary):
    """Energies of a method whose atoms differ by hundreds of eV."""
    other = [
        dataclasses.replace(
            labelled(s, energy=s.properties["energy"] + 300.0 * (s.atomic_numbers == 6).sum()),
            head="other",
        )
        for s in ordinary
    ]
    assert report_of([*ordinary, *other]).findings == ()


def test_noise_of_the_last_digit_is_no_outlier(make):
    data = [make([1, 1, 8], seed, binding=3.0) for seed in range(30)]
    data.append(make([1, 1, 8], 30, binding=3.0005))
    assert report_of(data).findings == ()


def crystals(stress_factor=1.0, n=8, key="stress"):
    """Rock salt of C and O at several volumes, with a harmonic energy in the volume."""
    data = []
    for index, scale in enumerate(np.linspace(0.95, 1.05, n)):
        cell = 4.2 * scale * np.eye(3)
        volume, ideal = 4.2**3 * scale**3, 4.2**3
        stress = (volume - ideal) / ideal * 0.5 * np.eye(3) * stress_factor
        labels = {
            "energy": np.array(-3000.0 + 0.25 * (volume - ideal) ** 2 / ideal),
            key: stress if key == "stress" else -volume * stress,
        }
        # wrapped differently from frame to frame, as codes do
        positions = np.array([[0, 0, 0], [0.5, 0.5, 0.5 - index % 2]]) @ cell + 0.1 * index
        place = f"eos.xyz: frame {index}"
        numbers, pbc = np.array([6, 8]), np.ones(3, bool)
        data.append(Structure(numbers, positions, cell, pbc, labels, place=place))
    return data


@pytest.mark.parametrize("key", ["stress", "virials"])
def test_stresses_that_are_volume_derivatives(key):
    finding = only(report_of(crystals(key=key)))
    assert (finding.check, finding.severity, finding.count) == ("stress sign", "info", 7)
    assert "dE/dV is 1 × tr(stress)/3 over 7 pairs of volumes, expected 1" in finding.message


@pytest.mark.parametrize("key", ["stress", "virials"])
@pytest.mark.parametrize(
    ("factor", "mistake"),
    [
        (-1, "opposite sign"),
        (160.2, "in GPa"),
        (-160.2, "in GPa with the opposite sign"),
        (-1602.2, "in kbar with the opposite sign"),
        (0, "all stresses are zero"),
    ],
)
def test_stresses_of_another_sign_or_unit(key, factor, mistake):
    finding = only(report_of(crystals(factor, key=key)))
    assert (finding.check, finding.severity) == ("stress sign", "error")
    assert finding.message.endswith(mistake) or mistake in finding.message


def test_stresses_of_a_calculator_of_others():
    """Copper and nickel at several volumes by ASE's effective medium theory."""
    from ase.build import bulk
    from ase.calculators.emt import EMT

    check = DataCheck()
    for symbol in ("Cu", "Ni"):
        for scale in np.linspace(0.94, 1.06, 7):
            atoms = bulk(symbol)
            atoms.set_cell(atoms.cell * scale, scale_atoms=True)
            atoms.calc = EMT()
            labels = {
                "energy": np.array(atoms.get_potential_energy()),
                "stress": atoms.get_stress(voigt=False),
            }
            numbers, pbc = atoms.numbers.astype(int), atoms.pbc.copy()
            check.add(Structure(numbers, atoms.positions, np.array(atoms.cell), pbc, labels))
    finding = only(check.report())
    assert (finding.severity, finding.count) == ("info", 12)
    assert "they agree" in finding.message


def test_stresses_of_something_else():
    finding = only(report_of(crystals(3.0)))
    assert finding.severity == "warning"
    assert "do not belong together" in finding.message


def test_without_a_crystal_at_two_volumes_stresses_are_not_tested():
    data = crystals(-1)[:1]
    sheared = [dataclasses.replace(s, cell=s.cell + np.eye(3, k=1)) for s in crystals(-1)[1:2]]
    moved = [dataclasses.replace(s, positions=s.positions * [1, 1, 0.9]) for s in crystals(-1)[2:3]]
    finding = only(report_of([*data, *sheared, *moved]))
    assert (finding.severity, finding.count) == ("info", 0)
    assert "not tested" in finding.message


# --- tables


def test_an_element_that_is_not_trained_on(ordinary):
    check = DataCheck()
    for structure in ordinary:
        if 8 not in structure.atomic_numbers:
            check.add(structure)
    check.add(next(s for s in ordinary if 8 in s.atomic_numbers), "valid")
    finding = only(check.report())
    assert (finding.check, finding.severity, finding.count) == ("elements", "warning", 1)
    assert "valid has O, of which the training data have nothing" in finding.message


def test_labels_that_some_lack(ordinary):
    bare = [dataclasses.replace(s, properties={}) for s in ordinary[:3]]
    report = report_of([*bare, *ordinary[3:]])
    assert {(f.check, f.severity, f.count) for f in report.findings} == {("labels", "info", 3)}
    assert len(report.findings) == 2
    assert "train, head Default: energy in 37 of 40 structures" in report.findings[0].message


def test_counts_of_labels_and_elements(ordinary):
    scan = [dataclasses.replace(s, head="scan", properties={}) for s in ordinary[:4]]
    report = report_of([*ordinary, *scan])
    counts = [(c.split, c.head, c.n_structures, dict(c.labels)) for c in report.labels]
    assert counts == [
        ("train", "Default", 40, {"energy": 40, "forces": 40}),
        ("train", "scan", 4, {}),
    ]
    every = [*ordinary, *scan]
    assert report.elements["train"][8].n_atoms == sum((s.atomic_numbers == 8).sum() for s in every)
    assert report.elements["train"][8].n_structures == sum(8 in s.atomic_numbers for s in every)


def test_the_report_for_people_and_for_programs(ordinary):
    bad = labelled(ordinary[0], energy=np.array(np.inf))
    report = report_of([*ordinary, ordinary[5], bad])
    lines = report.lines()
    assert lines[0].split() == ["split", "head", "structures", "energy", "forces"]
    assert lines[1].split() == ["train", "Default", "41", "41", "41"]
    assert lines[2].split() == ["split", "element", "structures", "atoms"]
    assert lines[6].startswith("error: structures (1): cannot be used")
    assert lines[7].startswith("  train.xyz: frame 0: energy is inf")
    assert lines[8].startswith("warning: duplicates (1): ")
    assert (report.count("error"), report.count("warning"), report.count("info")) == (1, 1, 0)
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["findings"][0]["severity"] == "error"
    assert document["elements"]["train"]["H"]["n_atoms"] > 0
    assert document["labels"][0]["labels"] == {"energy": 41, "forces": 41}
