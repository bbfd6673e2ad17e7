"""The page that mace-jax-train-plot writes about the files of a run."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mace_jax.artifacts.provenance import Input, file_sha256, make_provenance
from mace_jax.artifacts.selection import Selection, write_selection
from mace_jax.artifacts.statistics import write_statistics
from mace_jax.artifacts.versioned import tag
from mace_jax.errors import ArtifactError
from mace_jax.structures.statistics import Statistics
from mace_jax_plot.cli import main
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


def test_chosen_structures(tmp_path):
    selection = Selection(
        dataset_name="replay.h5",
        dataset_sha256="0" * 64,
        method="stratified",
        number=2,
        filtering_type="combinations",
        elements=(1, 8),
        head="pt_head",
        counts={"read": 40, "isolated_atoms": 1, "candidates": 37},
        sources=("old.xyz",),
        source=np.array([0, 0]),
        frame=np.array([3, 17]),
        digest=("0" * 32, "1" * 32),
    )
    path = tmp_path / "replay.selection.json"
    write_selection(path, selection, make_provenance("mace-jax-preprocess", []))
    write_report(tmp_path / "report.html", [path])
    text = (tmp_path / "report.html").read_text()
    for cell in ("Chosen structures", "replay.h5", ">2<", "stratified", ">37<", "H O", "old.xyz"):
        assert cell in text


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


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--report", "r.html"],
        ["--path", "a", "b.h5"],
        ["--path", "a", "--output", "o.pdf"],
        ["b.h5", "--output", "o.pdf", "--report", "r.html"],
        ["--output", "o.pdf"],
        ["b.h5", "--output", "o.gif"],
        ["b.h5", "--output", "o"],
    ],
)
def test_usage(arguments, capfd):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert re.search("report|ends in .pdf, .png, .svg", capfd.readouterr().err)


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
