"""The figures of mace-jax-train-plot, from metrics files made here."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from mace_jax.errors import ArtifactError
from mace_jax_plot.cli import main
from mace_jax_plot.curves import draw_curves, metrics_files, read_run

MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "svg": b"<?xml"}


def row(mode: str, epoch: int, head: str = "Default", **values: object) -> dict:
    size = 10.0 / (epoch + 1)
    return {
        **{"mode": mode, "head": head, "epoch": epoch, "interval": epoch, "loss": size},
        **{"mae_f": size, "rmse_f": size, "rmse_e_per_atom": 0.1 * size, "rmse_stress": None},
        **{"rel_rmse_f": 50 * size, "time": 0.1, "lr": 0.01, **values},
    }


def rows_of(n_epochs: int, head: str = "Default") -> list[dict]:
    return [row(mode, e, head) for e in range(1, n_epochs + 1) for mode in ("train", "valid")]


@pytest.fixture
def plot(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs the command successfully and returns its stdout."""

    def run(path: Path, *arguments: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(["--path", str(path), *arguments])
        captured = capfd.readouterr()
        assert stopped.value.code == 0, captured.err
        return captured.out

    return run


def labels_of(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].get_legend().get_texts()]


@pytest.mark.parametrize("kind", MAGIC)
def test_figure_is_of_its_kind(write, plot, kind):
    path = write(rows_of(3))
    out = plot(path, "--output-format", kind)
    figure = path.with_suffix(f".{kind}")
    assert out == f"{figure}\n"
    content = figure.read_bytes()
    assert content.startswith(MAGIC[kind])
    end = {"png": b"IEND\xaeB`\x82", "pdf": b"%%EOF\n", "svg": b"</svg>\n"}[kind]
    assert content.endswith(end)


@pytest.mark.parametrize("kind", MAGIC)
def test_figure_has_the_same_bytes_each_time(write, plot, kind):
    path = write(rows_of(3))
    figure = path.with_suffix(f".{kind}")
    contents = []
    for _ in range(2):
        plot(path, "--output-format", kind, "--force")
        contents.append(figure.read_bytes())
    assert contents[0] == contents[1]


def test_panels_and_units(write, plot, drawn):
    plot(write(rows_of(3)), "--keys", "rmse_e_per_atom, rmse_f,rel_rmse_f")
    labels = [axes.get_ylabel() for axes in drawn[0].axes]
    assert labels == [
        *("loss", "energy RMSE (meV/atom)", "force RMSE (meV/Å)", "relative force RMSE (%)")
    ]
    assert {axes.get_xlabel() for axes in drawn[0].axes} == {"epoch"}


def test_values_are_drawn_in_their_units(write, plot, drawn):
    plot(write(rows_of(2)), "--keys", "rmse_f,rel_rmse_f")
    loss, force, relative = (axes.get_lines()[0].get_ydata() for axes in drawn[0].axes)
    assert list(loss) == pytest.approx([5.0, 10 / 3])
    assert list(force) == pytest.approx([5000.0, 10000 / 3])
    assert list(relative) == pytest.approx([250.0, 500 / 3])


def test_every_metric_of_the_file_has_a_label_and_its_unit(write, plot, drawn):
    keys = ["mae_virials", "rmse_virials_per_atom", "mae_mu", "rel_rmse_mu_per_atom"]
    plot(write([row("valid", 1, **dict.fromkeys(keys, 2.0))]), "--keys", ",".join(keys))
    axes = drawn[0].axes[1:]
    labels = ["virial MAE (meV)", "virial RMSE (meV/atom)", "dipole MAE"]
    assert [panel.get_ylabel() for panel in axes] == [
        *labels,
        "relative dipole by atoms RMSE (%)",
    ]
    values = [panel.get_lines()[0].get_ydata()[0] for panel in axes]
    assert values == [2000.0, 2000.0, 2.0, 2.0]


def test_start_interval_is_the_first_epoch_shown(write, plot, drawn):
    plot(write(rows_of(6)), "--start-interval", "4")
    for axes in drawn[0].axes:
        for line in axes.get_lines():
            assert list(line.get_xdata()) == [4, 5, 6]


def test_linear_axes_only_if_asked_for(write, plot, drawn):
    path = write(rows_of(3))
    plot(path)
    plot(path, "--linear", "--force")
    assert {axes.get_yscale() for axes in drawn[0].axes} == {"log"}
    assert {axes.get_yscale() for axes in drawn[1].axes} == {"linear"}


@pytest.mark.parametrize(
    ("status", "title"),
    [("finished", "run"), ("running", "run (running)"), ("stopped", "run (stopped)")],
)
def test_title_says_when_a_run_is_not_finished(write, plot, drawn, status, title):
    plot(write(rows_of(3), status=status))
    assert drawn[0].get_suptitle() == title


def test_modes_have_their_own_lines(write, plot, drawn):
    plot(write([*rows_of(3), row("eval_train", 3), row("eval_test", 3)]))
    for panel in range(3):
        expected = ["training", "training, evaluated", "validation", "test"]
        assert labels_of(drawn[0], panel) == expected
    looks = {(l.get_color(), l.get_linestyle()) for l in drawn[0].axes[0].get_lines()}
    assert len(looks) == 4


def test_heads_are_drawn_separately(write, plot, drawn):
    plot(write([*rows_of(3, "pbe"), *rows_of(3, "scan")]))
    for panel in range(3):
        assert labels_of(drawn[0], panel) == [
            *("training, pbe", "training, scan", "validation, pbe", "validation, scan")
        ]
    lines = drawn[0].axes[0].get_lines()
    assert all(list(line.get_xdata()) == [1, 2, 3] for line in lines)
    looks = {(line.get_color(), line.get_alpha(), line.get_linestyle()) for line in lines}
    assert len(looks) == 4


def test_metric_that_only_some_rows_have(write, plot, drawn):
    rows = [*rows_of(2), row("train", 3, rmse_f=None), row("valid", 3)]
    plot(write(rows), "--keys", "rmse_f")
    training, validation = drawn[0].axes[1].get_lines()
    assert list(training.get_xdata()) == [1, 2]
    assert list(validation.get_xdata()) == [1, 2, 3]


def test_error_of_exactly_zero_can_be_drawn(write, plot):
    """A logarithmic axis has no place for it, which is no reason to fail."""
    plot(write([row("train", epoch, rmse_f=0.0) for epoch in (1, 2)]), "--keys", "rmse_f")


def test_folder_gives_one_figure_a_run(write, plot, tmp_path):
    write(rows_of(2), name="one")
    write(rows_of(2), name="two")
    result = json.loads(plot(tmp_path, "--json"))
    assert result["artifact"] == str(tmp_path)
    assert result["summary"]["figures"] == [str(tmp_path / f"{n}.png") for n in ("one", "two")]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [
        *(".metrics", ".metrics", ".png", ".png")
    ]


def test_tag_with_dots_keeps_them(write, plot, tmp_path):
    plot(write(rows_of(2), name="lr0.01"))
    assert (tmp_path / "lr0.01.png").exists()


def test_svg_is_text_that_names_its_run(write, plot):
    path = write(rows_of(2))
    plot(path, "--output-format", "svg")
    text = path.with_suffix(".svg").read_text()
    assert re.search(r"<!-- run -->", text)
    assert "<dc:date>" not in text


def test_style_of_the_caller_is_left_alone(write, tmp_path):
    path = write(rows_of(2))
    before = {name: mpl.rcParams[name] for name in mpl.rcParams if name != "backend"}
    draw_curves(tmp_path / "o.png", read_run(path, ["rmse_f"], 0), ["rmse_f"], linear=False)
    assert {name: mpl.rcParams[name] for name in before} == before


def test_metrics_files_are_sorted_and_required(write, tmp_path):
    with pytest.raises(ArtifactError, match=r"no \.metrics files there"):
        metrics_files(tmp_path)
    for name in ("b", "a"):
        write(rows_of(1), name=name)
    assert [path.name for path in metrics_files(tmp_path)] == ["a.metrics", "b.metrics"]
