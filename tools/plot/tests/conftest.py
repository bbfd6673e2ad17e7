"""Metrics files, figures caught when they are saved, and the command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from mace_jax.artifacts.provenance import make_provenance
from mace_jax.artifacts.versioned import tag
from mace_jax_plot.cli import main


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a metrics file."""

    def write_metrics(rows: list[dict], status: str = "finished", name: str = "run") -> Path:
        provenance = make_provenance("mace-jax-train", [], reproducible=True)
        header = {"schema": tag("metrics"), "provenance": provenance, "status": status}
        path = tmp_path / f"{name}.metrics"
        path.write_text("\n".join(json.dumps(line) for line in (header, *rows)) + "\n")
        return path

    return write_metrics


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return a list that every figure is added to when it is saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: object, **options: object) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


@pytest.fixture
def run(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs the command: exit code, stdout and stderr."""
    return lambda *arguments: call(main, *arguments)
