"""The page that mace-jax-train-plot writes about the files of a run."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mace_jax.artifacts.label_errors import QUANTITIES
from mace_jax.artifacts.predictions import Predictions
from mace_jax.artifacts.predictions_file import PredictionsBlock
from mace_jax.artifacts.predictions_writer import write_predictions
from mace_jax.artifacts.provenance import Input, file_sha256, make_provenance
from mace_jax.artifacts.statistics import write_statistics
from mace_jax.artifacts.versioned import tag
from mace_jax.errors import ArtifactError
from mace_jax.structures.statistics import Statistics
from mace_jax.structures.structure import Structure
from mace_jax.structures.structure_block import Label
from mace_jax_plot.cli import main
from mace_jax_plot.figures import block_values, histograms, parity
from mace_jax_plot.report import write_report

CHROMIUM = shutil.which("chromium")


@pytest.fixture
def statistics(tmp_path: Path) -> Path:
    path = tmp_path / "statistics.json"
    provenance = make_provenance("mace-jax-plot", [], reproducible=True)
    found = Statistics((1, 8), {1: -13.5, 8: -432.25}, 12.5, 0.0, 1.125, 5.0, None, {})
    write_statistics(path, found, provenance)
    return path


@pytest.fixture
def metrics(tmp_path: Path, statistics: Path) -> Path:
    used = Input("statistics", statistics, "statistics", 2, file_sha256(statistics))
    provenance = make_provenance("mace-jax-plot", [used], reproducible=True)
    header = {"schema": tag("metrics"), "provenance": provenance, "status": "finished"}
    common = {"mode": "valid", "interval": 1, "lr": 0.01, "time": 1.0, "loss": 2.5}
    rows = [
        {**common, "epoch": epoch, "head": "<b>pbe</b>", "rmse_f": 0.05 / epoch, "mae_f": 0.02}
        for epoch in (1, 2)
    ]
    path = tmp_path / "run.metrics"
    path.write_text("\n".join(map(json.dumps, [header, *rows])) + "\n")
    return path


@pytest.fixture
def page(tmp_path: Path, metrics: Path, statistics: Path) -> Path:
    path = tmp_path / "report.html"
    write_report(path, [metrics, statistics])
    return path


def test_same_files_make_the_same_page(page, metrics, statistics):
    before = page.read_bytes()
    assert b"data:image/svg" in before
    write_report(page, [metrics, statistics])
    assert page.read_bytes() == before


def test_numbers_are_in_their_units(page):
    text = re.sub("<[^>]+>", " ", page.read_text())
    assert "RMSE, meV/Å" in text
    assert re.search(r"2\s+2\.50000\s+20\.00\s+25\.00", text)
    assert "-432.250000" in text


def test_input_is_verified_only_if_its_bytes_are_given(page, tmp_path, metrics):
    assert page.read_text().count(">verified<") == 1
    write_report(tmp_path / "less.html", [metrics])
    text = (tmp_path / "less.html").read_text()
    assert ">verified<" not in text
    assert "not given" in text
    assert "Statistics" not in text


def test_page_needs_no_network_and_escapes_names(page):
    text = page.read_text()
    assert set(re.findall(r'(?:src|href)="(\w+):', text)) == {"data"}
    assert not re.search(r"<script|<link rel=.stylesheet|@import|url\(", text)
    assert "<b>pbe" not in text
    assert "&lt;b&gt;pbe" in text


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema": {"kind": "batch_plan"}}', b"\x89HDF"])
def test_damaged_file_is_named(tmp_path, metrics, content):
    bad = tmp_path / "bad.json"
    bad.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"bad\.json"):
        write_report(tmp_path / "report.html", [metrics, bad])
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("arguments", [[], ["--report", "r.html"], ["--path", "a", "b.h5"]])
def test_usage(arguments, capfd):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "report" in capfd.readouterr().err


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
    assert list(forces.elements) == [6, 6, 6]
    assert list(forces.config_types) == ["y", "y", "y"]
    assert (
        block_values(block, QUANTITIES["stress"]).labels.size == 9
    )  # without a cell it means nothing
    assert block_values(block, QUANTITIES["mu"]) is None


def written(path: Path, *config_types: str) -> Path:
    """Write predictions 0 of water molecules whose labels are 3 eV, 1 eV/Å and 2 Debye."""
    water = Structure(np.array([8, 1, 1]), np.zeros((3, 3)), np.zeros((3, 3)), np.zeros(3, bool))
    labels = {"energy": np.array(3.0), "forces": np.ones((3, 3)), "dipole": np.full(3, 2.0)}
    structures = [replace(water, properties=labels, config_type=name) for name in config_types]
    n = len(structures)
    predictions = Predictions(
        np.full(n, 3),
        {"energy": np.zeros(n), "forces": np.zeros((3 * n, 3)), "dipole": np.zeros((n, 3))},
    )
    provenance = make_provenance("mace-jax-predict", [], reproducible=True)
    write_predictions(path, predictions, structures, "Default", provenance)
    return path


def test_errors_of_a_file_by_element_and_by_config_types_if_several(tmp_path):
    figures, rows = parity(written(tmp_path / "one.h5", "bulk", "bulk"))
    assert len(figures) == 3
    told = [(row.quantity, row.group, row.n_values, row.mae, row.unit) for row in rows]
    assert told == [
        ("energy", "all", 2, 1000.0, "meV/atom"),
        ("forces", "all", 18, 1000.0, "meV/Å"),
        ("forces", "element H", 12, 1000.0, "meV/Å"),
        ("forces", "element O", 6, 1000.0, "meV/Å"),
        ("dipole", "all", 6, 2.0, "Debye"),
    ]
    (legend,) = [text.get_text() for text in figures[0].axes[1].get_legend().get_texts()]
    assert legend == "all"

    figures, rows = parity(written(tmp_path / "two.h5", "bulk", "slab"))
    energy = [row.group for row in rows if row.quantity == "energy"]
    assert energy == ["all", "config type bulk", "config type slab"]
    legend = [text.get_text() for text in figures[0].axes[1].get_legend().get_texts()]
    assert legend == energy


def test_predictions_of_another_form_are_refused(tmp_path):
    path = written(tmp_path / "one.npz", "bulk")
    with pytest.raises(ArtifactError, match=r"one\.npz: predictions as npz, expected \.h5"):
        write_report(tmp_path / "report.html", [path])


@pytest.mark.parametrize("sizes", [[21, 21], [3, 6], [280, 331]])
def test_ticks_of_a_histogram_are_whole_numbers(sizes):
    axes = histograms({"atoms": np.array(sizes)}).axes[0]
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert ticks == [round(tick) for tick in ticks]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
def test_chromium_shows_the_page_without_complaints(page, tmp_path):
    target = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    size = ["--window-size=500,2000", f"--screenshot={target}"]  # headless, it is not narrower
    done = subprocess.run(
        [CHROMIUM, *flags, *size, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert target.read_bytes().startswith(b"\x89PNG")
    assert "CONSOLE" not in done.stderr
