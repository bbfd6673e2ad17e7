"""The command mace-jax-plan-batches: its report, its plan, its seeds."""

import json
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest

from mace_jax.artifacts.batch_plan import read_batch_plan
from mace_jax.artifacts.dataset import write_dataset_file
from mace_jax.artifacts.provenance import file_sha256, files_sha256, make_provenance
from mace_jax.structures.structure import Structure
from mace_jax_plan_batches.cli import main

SIZES = [3, 5, 2, 6, 4, 3, 5, 2, 4, 6, 3, 2]


def chain_of_atoms(n: int) -> Structure:
    """Return ``n`` atoms in a row, 1 Å apart: 2 (n - 1) edges at a cutoff of 1.5 Å."""
    positions = np.zeros((n, 3))
    positions[:, 0] = np.arange(n)
    return Structure(
        np.full(n, 6),
        positions,
        np.zeros((3, 3)),
        np.zeros(3, bool),
        {"energy": np.array(-1.0 * n)},
    )


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a dataset of two shards."""
    monkeypatch.chdir(tmp_path)
    structures = [chain_of_atoms(n) for n in SIZES]
    folder = tmp_path / "data"
    folder.mkdir()
    provenance = make_provenance("mace-jax-preprocess", [], reproducible=True)
    for index, part in enumerate((structures[:7], structures[7:])):
        write_dataset_file(
            folder / f"train_{index}.h5", part, provenance, n_in_set=12, shard=(index, 2)
        )
    return Path("data")


@pytest.fixture
def plan(dataset: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """Return a function that runs the command and returns its JSON."""

    def run(*arguments: str, path: Path = dataset, n_edge: int = 20) -> dict:
        with pytest.raises(SystemExit) as stopped:
            main(
                [
                    *(str(path), "--r-max", "1.5", "--n-edge", str(n_edge), "--output"),
                    *("o.plan.json", "--json", "--force", *arguments),
                ]
            )
        captured = capfd.readouterr()
        assert stopped.value.code == 0, captured.err
        return json.loads(captured.out)

    return run


def test_json_describes_the_file(plan):
    result = plan()
    assert set(result) == {"artifact", "sha256", "summary"}
    assert result["artifact"] == "o.plan.json"
    assert result["sha256"] == file_sha256(Path("o.plan.json"))
    written = json.loads(Path("o.plan.json").read_text())
    assert result["summary"] == {"caps": written["caps"], **written["report"]}


def test_report_by_hand(plan):
    """90 atoms in twelve chains have 66 edges."""
    summary = plan()["summary"]
    found = read_batch_plan(Path("o.plan.json"))
    n_edge = [2 * (n - 1) for n in SIZES]
    assert sum(n_edge) == 66
    assert summary["n_graphs"] == 12
    assert summary["n_batches"] == len(found.batches)
    assert summary["n_batches_lower_bound"] == 4
    assert summary["requested_n_edge"] == 20
    assert summary["largest_graph"] == {"id": 3, "n_node": 6, "n_edge": 10}
    caps, n_batches = summary["caps"], summary["n_batches"]
    assert caps["n_edge"] == max(sum(n_edge[g] for g in batch) for batch in found.batches)
    assert caps["n_node"] == 1 + max(sum(SIZES[g] for g in batch) for batch in found.batches)
    assert caps["n_graph"] == 1 + max(len(batch) for batch in found.batches)
    assert (caps["n_neighbor"], caps["n_row"]) == (2, caps["n_node"])
    assert summary["edge_waste"] == pytest.approx(1 - 66 / (n_batches * caps["n_edge"]))
    assert summary["node_waste"] == pytest.approx(1 - sum(SIZES) / (n_batches * caps["n_node"]))
    assert summary["graph_waste"] == pytest.approx(1 - 12 / (n_batches * caps["n_graph"]))


@pytest.mark.parametrize("n_edge", [10, 11, 17, 20, 33, 66, 1000])
def test_every_graph_is_in_one_batch_and_no_batch_is_too_large(plan, n_edge):
    caps = plan(n_edge=n_edge)["summary"]["caps"]
    found = read_batch_plan(Path("o.plan.json"))
    assert sorted(graph for batch in found.batches for graph in batch) == list(range(12))
    for batch in found.batches:
        assert sum(2 * (SIZES[graph] - 1) for graph in batch) <= caps["n_edge"] <= n_edge
        assert sum(SIZES[graph] for graph in batch) < caps["n_node"]
        assert len(batch) < caps["n_graph"]


def test_plan_names_its_data(plan, dataset):
    plan()
    found = read_batch_plan(Path("o.plan.json"))
    paths = sorted(dataset.iterdir())
    assert found.dataset_sha256 == files_sha256(paths)
    assert (found.dataset_name, found.n_structures, found.r_max) == ("data", 12, 1.5)
    (described,) = json.loads(Path("o.plan.json").read_text())["provenance"]["inputs"]
    assert described == {
        **{"role": "dataset", "name": "data", "kind": "dataset", "version": 2},
        "sha256": found.dataset_sha256,
    }


def test_folder_glob_and_single_files(plan):
    plan()
    of_folder = read_batch_plan(Path("o.plan.json"))
    plan(path=Path("data/train_*.h5"))
    of_glob = read_batch_plan(Path("o.plan.json"))
    assert of_glob.dataset_sha256 == of_folder.dataset_sha256
    assert of_glob.batches == of_folder.batches
    assert plan(path=Path("data/train_0.h5"))["summary"]["n_graphs"] == 7


def test_seed_orders_the_packing(plan):
    batches = []
    for seed in ("0", "0", "1"):
        plan("--seed", seed)
        found = read_batch_plan(Path("o.plan.json"))
        assert found.seed == int(seed)
        batches.append(found.batches)
    assert batches[0] == batches[1] != batches[2]


def test_reproducible_plan_has_the_same_bytes(plan):
    digests = [plan("--reproducible")["sha256"] for _ in range(2)]
    assert digests[0] == digests[1]
    provenance = json.loads(Path("o.plan.json").read_text())["provenance"]
    assert not {"created_utc", "host"} & provenance.keys()


def test_report_is_shown_to_people(dataset, capfd):
    with pytest.raises(SystemExit):
        main([str(dataset), "--r-max", "1.5", "--n-edge", "20", "--output", "o.plan.json"])
    captured = capfd.readouterr()
    assert captured.out == "o.plan.json\n"
    assert "12 graphs in" in captured.err
    assert "lower bound 4" in captured.err
    assert "empty slots:" in captured.err
    assert "rows of 2 neighbours" in captured.err


def test_structures_without_edges_can_be_planned(plan, tmp_path):
    """Isolated atoms stay in validation sets."""
    provenance = make_provenance("mace-jax-preprocess", [], reproducible=True)
    path = tmp_path / "lonely.h5"
    write_dataset_file(path, [chain_of_atoms(1) for _ in range(5)], provenance)
    summary = plan(path=path)["summary"]
    assert summary["n_graphs"] == 5
    assert summary["caps"]["n_edge"] >= 1


def test_periodic_images_are_counted(plan, tmp_path):
    cell = ase.Atoms("C", cell=[1.0, 9.0, 9.0], pbc=[True, False, False])
    structure = Structure(cell.numbers.astype(np.int64), cell.positions, cell.cell.array, cell.pbc)
    provenance = make_provenance("mace-jax-preprocess", [], reproducible=True)
    write_dataset_file(tmp_path / "wire.h5", [structure], provenance)
    assert plan(path=tmp_path / "wire.h5")["summary"]["largest_graph"]["n_edge"] == 2
