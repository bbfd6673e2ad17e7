"""Predictions against labels: what is counted, and the figure of it."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from mace_jax.artifacts.label_errors import QUANTITIES
from mace_jax.artifacts.predictions import Predictions
from mace_jax.artifacts.predictions_file import PredictionsBlock
from mace_jax.artifacts.predictions_writer import write_predictions
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.errors import ArtifactError
from mace_jax.structures.structure import Structure
from mace_jax.structures.structure_block import Label
from mace_jax_plot.parity import block_values, read_parities
from mace_jax_plot.parity_figure import parity_figure
from mace_jax_plot.report import write_report
from mace_jax_plot.report_figures import error_rows

LABELS = {"energy": np.array(3.0), "forces": np.ones((3, 3)), "dipole": np.full(3, 2.0)}


def written(path: Path, config_types: list[str], labels: dict = LABELS, forces=0.0) -> Path:
    """Write predictions of water molecules, 0 but for the forces, whose labels are known."""
    water = Structure(np.array([8, 1, 1]), np.zeros((3, 3)), np.zeros((3, 3)), np.zeros(3, bool))
    structures = [replace(water, properties=labels, config_type=name) for name in config_types]
    n = len(structures)
    values = {
        "energy": np.zeros(n),
        "forces": np.broadcast_to(forces, (3 * n, 3)).astype(float),
        "dipole": np.zeros((n, 3)),
    }
    provenance = make_provenance("mace-jax-predict", [], reproducible=True)
    write_predictions(path, Predictions(np.full(n, 3), values), structures, "Default", provenance)
    return path


def legend_of(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_predictions_without_labels_are_no_figure_but_part_of_a_report(tmp_path, run):
    path = written(tmp_path / "p.h5", ["bulk"], labels={})
    code, out, err = run(path, "--output", tmp_path / "p.png")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {path}: no labels of what is predicted, expected some")
    assert not (tmp_path / "p.png").exists()
    write_report(tmp_path / "r.html", [path])
    assert "There are no labels of what is predicted" in (tmp_path / "r.html").read_text()


def test_predictions_of_another_form_are_refused(tmp_path):
    path = written(tmp_path / "one.npz", ["bulk"])
    with pytest.raises(ArtifactError, match=r"one\.npz: predictions as npz, expected \.h5"):
        write_report(tmp_path / "report.html", [path])


@pytest.mark.parametrize("name", ["labels/energy/values", "predictions/energy"])
def test_what_is_not_finite_is_named(tmp_path, run, name):
    path = written(tmp_path / "p.h5", ["bulk", "bulk", "bulk"])
    with h5py.File(path, "r+") as file:
        file[name][1] = np.nan
    code, _, err = run(path, "--output", tmp_path / "p.png")
    assert code == 1
    what = name.split("/")[0].removesuffix("s")
    assert f"p.h5: structure 1: {what} of energy is not finite, expected numbers" in err


def test_quantities_are_chosen_by_name(tmp_path, run, drawn):
    path = written(tmp_path / "p.h5", ["bulk"])
    code, _, err = run(path, "--output", tmp_path / "p.pdf", "--keys", "e,f")
    assert code == 0, err
    assert [axes.get_xlabel() for axes in drawn[0].axes if "label:" in axes.get_xlabel()] == [
        *("label: energy (eV)", "label: forces (eV/Å)")
    ]
    code, _, err = run(path, "--output", tmp_path / "q.pdf", "--keys", "stress")
    assert code == 2
    assert "no labels of 'stress', expected some of e, e_per_atom, f, mu" in err


def test_values_of_a_block_leave_out_what_has_no_label():
    block = PredictionsBlock(
        n_node=np.array([2, 1]),
        atomic_numbers=np.array([1, 8, 6]),
        volumes=np.array([np.inf, 8.0]),
        sources=["a", "a"],
        frames=np.array([0, 1]),
        heads=["h", "h"],
        config_types=["x", "y"],
        predictions={
            "energy": np.array([2.0, 5.0]),
            "forces": np.arange(9.0).reshape(3, 3),
            "stress": np.ones((2, 3, 3)),
        },
        labels={
            "energy": Label(np.array([True, True]), np.array([4.0, 6.0])),
            "forces": Label(np.array([False, True]), np.zeros((1, 3))),
            "stress": Label(np.array([True, True]), np.zeros((2, 3, 3))),
        },
    )
    energy = block_values(block, QUANTITIES["e_per_atom"])
    assert list(energy.labels) == [2.0, 6.0]  # by atom
    assert list(energy.predictions) == [1.0, 5.0]
    forces = block_values(block, QUANTITIES["f"])
    assert list(forces.predictions) == [6.0, 7.0, 8.0]
    assert {kind: list(names) for kind, names in forces.groups.items()} == {
        "element": ["C", "C", "C"],
        "config_type": ["y", "y", "y"],
        "head": ["h", "h", "h"],
    }
    assert (
        block_values(block, QUANTITIES["stress"]).labels.size == 9
    )  # without a cell it means nothing
    assert block_values(block, QUANTITIES["mu"]) is None


def test_values_are_counted_where_they_are(tmp_path):
    forces = np.array([[0.5, 1.0, 1.5], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    path = written(tmp_path / "p.h5", ["bulk"], forces=forces)
    (parity,), _ = read_parities(path, ["f"])
    assert (parity.edges[0], parity.edges[-1]) == (0.5, 1.5)
    label, prediction = np.nonzero(parity.density)
    middle = len(parity.density) // 2
    assert set(label) == {middle}
    assert sorted(prediction) == [0, middle, len(parity.density) - 1]
    assert parity.density.sum() == 9
    elements = parity.histograms["element"]
    assert (elements.edges[0], elements.edges[-1]) == (-500, 500)  # meV/Å
    assert [elements.counts[k] for k in (0, len(elements.counts) // 2, -1)] == [1, 7, 1]
    assert elements.groups["O"].tolist() == (elements.counts - elements.groups["H"]).tolist()
    assert elements.groups["H"].sum() == 6


def test_far_errors_do_not_squeeze_the_others(tmp_path):
    n = 40
    forces = np.ones((3 * n, 3)) + np.linspace(-0.01, 0.01, 9 * n).reshape(-1, 3)
    forces[0, 0] = 100.0
    (parity,), _ = read_parities(written(tmp_path / "p.h5", n * ["bulk"], forces=forces), ["f"])
    assert parity.edges[-1] < 10
    assert parity.density.sum() == 9 * n - 1
    density, errors = parity_figure([parity]).axes[:2]
    assert density.get_xlabel() == "label: forces (eV/Å)\n1 of 360 values lie beyond"
    assert errors.get_xlabel() == "error of forces (meV/Å)\n1 of 360 values lie beyond"


def test_errors_of_a_file_by_element_and_by_config_types_if_several(tmp_path):
    parities, errors = read_parities(written(tmp_path / "one.h5", ["bulk", "bulk"]))
    rows = [row for parity in parities for row in error_rows(parity, errors)]
    told = [(row.quantity, row.group, row.n_values, row.mae, row.unit) for row in rows]
    assert told == [
        ("energy", "all", 2, 1000.0, "meV/atom"),
        ("forces", "all", 18, 1000.0, "meV/Å"),
        ("forces", "element H", 12, 1000.0, "meV/Å"),
        ("forces", "element O", 6, 1000.0, "meV/Å"),
        ("dipole", "all", 6, 2.0, "Debye"),
    ]
    energy, errors_of_energy = parity_figure(parities[:1]).axes[:2]
    assert energy.get_ylabel() == "predicted: energy (eV/atom)"
    assert errors_of_energy.get_xlabel() == "error of energy (meV/atom)"
    assert legend_of(errors_of_energy) == ["all"]

    parities, errors = read_parities(written(tmp_path / "two.h5", ["bulk", "slab"]))
    energy = [row.group for row in error_rows(parities[0], errors)]
    assert energy == ["all", "config type bulk", "config type slab"]
    figure = parity_figure([parities[1]])
    panels = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert [panel.get_title().get_text() for panel in panels] == ["element", "config type"]
    assert [legend_of(panel.axes) for panel in panels] == [
        ["all", "H", "O"],
        ["all", "bulk", "slab"],
    ]


def test_of_many_groups_the_largest_are_drawn_and_the_worst_are_told(tmp_path):
    names = [f"type {k:03}" for k in range(100)] + ["type 050", "type 070"]
    path = written(tmp_path / "p.h5", names)
    (parity,), _ = read_parities(path, ["e_per_atom"])
    drawn = list(parity.histograms["config_type"].groups)
    assert len(drawn) == 6
    assert {"type 050", "type 070"} <= set(drawn)
    legend = parity_figure([parity]).axes[1].get_legend()
    assert legend.get_title().get_text() == "config type,\nthe largest 6\nof 100"
    write_report(tmp_path / "r.html", [path])
    shown, folded = (tmp_path / "r.html").read_text().split("<details>")
    assert shown.count("<td>config type type") == 3 * 11  # of energy, forces and dipole
    assert folded.count("<td>config type type") == 3 * 100
