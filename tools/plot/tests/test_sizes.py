"""Histograms of the structures of an index and of the batches of a plan."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mace_jax.artifacts.batch_plan import (
    BatchPlan,
    Caps,
    PlannedDataset,
    PlanReport,
    Waste,
    write_batch_plan,
)
from mace_jax.artifacts.batches import Batches
from mace_jax.artifacts.index import IndexWriter, index_row
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.structures.structure import Structure
from mace_jax_plot.report import write_report
from mace_jax_plot.sizes import Panel, histograms

DIGEST = "0123456789abcdef" * 4
PROVENANCE = make_provenance("mace-jax-plot", [], reproducible=True)
WASTE = Waste(2, 0.5, 0.4, 0.25)
PLAN = BatchPlan(
    (PlannedDataset("train", DIGEST, 3),),
    r_max=4.0,
    seed=0,
    processes=1,
    shapes=(Caps.enclosing(5, 10, 3), Caps.enclosing(8, 20, 2)),
    shape_counts=(1, 1),
    batches=Batches.from_lists([[2, 0], [1]]),
    skipped=(),
    report=PlanReport(
        3, 2, 1, 0.5, 0.4, 0.25, 20, {"id": 1, "n_node": 4, "n_edge": 8}, (WASTE, WASTE)
    ),
)


def plan_file(path: Path, plan: BatchPlan = PLAN) -> Path:
    write_batch_plan(path, plan, PROVENANCE)
    return path


def index_file(path: Path, *sizes: int, r_max: float = 4.0, digest: str = DIGEST) -> Path:
    """Write the index of structures in which every atom has as many neighbours as atoms."""
    with IndexWriter(path, PROVENANCE, r_max=r_max, dataset_name="train") as writer:
        rows = [
            index_row(
                Structure(np.ones(n, int), np.zeros((n, 3)), np.zeros((3, 3)), np.zeros(3, bool)),
                np.full(n, n),
                "a.xyz",
                frame,
            )
            for frame, n in enumerate(sizes)
        ]
        if rows:
            writer.write(rows)
        writer.dataset_sha256 = digest
    return path


def bars(axes) -> dict[float, int]:
    """Return the middle of each bar that is not empty, and its height."""
    found = {p.get_x() + p.get_width() / 2: p.get_height() for p in axes.patches}
    return {place: int(height) for place, height in found.items() if height}


def test_index_without_structures_is_no_figure_but_part_of_a_report(tmp_path, run):
    path = index_file(tmp_path / "i.parquet")
    code, out, err = run(path, "-o", tmp_path / "i.png")
    assert (code, out) == (1, "")
    assert "i.parquet: holds no structures, expected one at least" in err
    write_report(tmp_path / "r.html", [path])
    assert "0 structures" in (tmp_path / "r.html").read_text()


def test_plan_without_batches_is_damaged(tmp_path, run):
    path = plan_file(tmp_path / "t.plan.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "batches": []}))
    code, _, err = run(path, "-o", tmp_path / "t.png")
    assert code == 1
    assert "t.plan.json: at /batches" in err


@pytest.mark.parametrize(
    "wrong", [{"digest": DIGEST[::-1]}, {"r_max": 5.0}], ids=["data", "cutoff"]
)
def test_index_of_something_else_is_refused_with_a_plan_and_unused_in_a_report(
    tmp_path, run, wrong
):
    plan = plan_file(tmp_path / "t.plan.json")
    index = index_file(tmp_path / "i.parquet", 2, 4, 3, **wrong)
    code, _, err = run(plan, index, "-o", tmp_path / "t.png")
    assert code == 1
    assert "t.plan.json: indices of train (" in err
    assert "expected those of its data" in err
    write_report(tmp_path / "r.html", [plan, index])


@pytest.mark.parametrize("files", [["i", "i"], ["p", "p"], ["p", "m"], ["m", "i"]])
def test_files_that_make_no_figure_together(tmp_path, write, run, files):
    row = {"mode": "valid", "head": "a", "epoch": 1, "interval": 1, "loss": 1.0, "time": 1.0}
    paths = {
        "p": plan_file(tmp_path / "t.plan.json"),
        "i": index_file(tmp_path / "i.parquet", 2),
        "m": write([{**row, "lr": 0.1}]),
    }
    code, _, err = run(*(paths[name] for name in files), "-o", tmp_path / "t.png")
    assert code == 2
    assert "expected metrics, one predictions file, one index, or one plan" in err


def test_plan_alone_tells_structures(tmp_path, run, drawn):
    code, _, err = run(plan_file(tmp_path / "t.plan.json"), "-o", tmp_path / "t.svg")
    assert code == 0, err
    filled, empty = (axes for axes in drawn[0].axes if axes.get_visible() and axes.has_data())
    assert (filled.get_xlabel(), filled.get_ylabel()) == ("structures in a batch", "batches")
    assert bars(filled) == {1: 1, 2: 1}
    assert empty.get_xlabel() == "empty slots for structures in a batch\n40.0% of all slots"
    assert bars(empty) == {1: 2}  # of 3 and 2 slots


def test_index_adds_atoms_and_edges(tmp_path, run, drawn):
    index = index_file(tmp_path / "i.parquet", 2, 4, 3)
    code, _, err = run(index, plan_file(tmp_path / "t.plan.json"), "-o", tmp_path / "t.png")
    assert code == 0, err
    _, atoms, edges, _, no_atoms, no_edges = drawn[0].axes
    assert atoms.get_xlabel() == "atoms in a batch"
    assert bars(atoms) == {4: 1, 5: 1}
    assert sum(bars(edges).values()) == 2
    assert bars(no_atoms) == {0: 1, 4: 1}  # of 5 and 8 slots
    assert no_edges.get_xlabel().endswith("3.3% of all slots")  # 13 and 16 edges of 10 and 20


def test_sizes_of_an_index(tmp_path, run, drawn):
    code, _, err = run(index_file(tmp_path / "i.parquet", 1, 2, 2), "-o", tmp_path / "i.pdf")
    assert code == 0, err
    atoms, edges, neighbors = drawn[0].axes
    assert bars(atoms) == {1: 1, 2: 2}
    assert bars(edges) == {1: 1, 4: 2}
    assert bars(neighbors) == {1: 1, 2: 4}
    assert neighbors.get_xlabel() == "neighbours of an atom within 4 Å"
    assert [axes.get_ylabel() for axes in drawn[0].axes] == ["structures", "structures", "atoms"]


def test_one_structure(tmp_path, run, drawn):
    code, _, err = run(index_file(tmp_path / "i.parquet", 21), "-o", tmp_path / "i.png")
    assert code == 0, err
    assert bars(drawn[0].axes[0]) == {21: 1}


def test_rare_sizes_are_seen():
    common, rare = (
        histograms([[Panel("atoms", "structures", np.array(values))]]).axes[0]
        for values in ([1, 1, 2], [1] * 500 + [40])
    )
    assert (common.get_yscale(), rare.get_yscale()) == ("linear", "log")


@pytest.mark.parametrize("sizes", [[21, 21], [3, 6], [280, 331]])
def test_ticks_of_a_histogram_are_whole_numbers(sizes):
    axes = histograms([[Panel("atoms", "structures", np.array(sizes))]]).axes[0]
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert ticks == [round(tick) for tick in ticks]


def test_empty_batches_of_several_processes(tmp_path, run):
    batches = Batches.from_lists([[2, 0], [1], [], []])
    plan = replace(PLAN, processes=2, shape_counts=(2, 2), batches=batches)
    code, _, err = run(plan_file(tmp_path / "t.plan.json", plan), "-o", tmp_path / "t.png")
    assert code == 0, err
