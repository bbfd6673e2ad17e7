"""The command mace-jax-plan-batches: its report, its plan, its seeds."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest

from mace_jax.artifacts.batch_plan import PlannedDataset, read_batch_plan
from mace_jax.artifacts.dataset import Dataset, write_dataset_file
from mace_jax.artifacts.index import IndexWriter, index_row
from mace_jax.artifacts.provenance import file_sha256, files_sha256, make_provenance
from mace_jax.structures.neighbor_list import neighbor_list
from mace_jax.structures.structure import Structure
from mace_jax_plan_batches.cli import BYTES_PER_EDGE, main
from mace_jax_schemas import current_version

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

    def run(
        *arguments: str, path: Path = dataset, n_edge: int = 20, cap: tuple[str, ...] = ()
    ) -> dict:
        cap = cap or ("--n-edge", str(n_edge))
        with pytest.raises(SystemExit) as stopped:
            main(
                [
                    *(str(path), "--r-max", "1.5", *cap, "--output"),
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
    (shape,) = written["shapes"]
    (waste,) = written["report"]["shapes"]
    summary = dict(result["summary"])
    assert 0 < summary.pop("seconds") < 60
    assert summary == {
        **written["report"],
        "caps": {name: size for name, size in shape.items() if name != "n_batches"},
        "shapes": [shape | waste],
        "processes": 1,
        "n_skipped": 0,
    }


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
    assert sorted(found.batches.ids) == list(range(12))
    for batch in found.batches:
        assert sum(2 * (SIZES[graph] - 1) for graph in batch) <= caps["n_edge"] <= n_edge
        assert sum(SIZES[graph] for graph in batch) < caps["n_node"]
        assert len(batch) < caps["n_graph"]


def test_plan_names_its_data(plan, dataset):
    plan()
    found = read_batch_plan(Path("o.plan.json"))
    paths = sorted(dataset.iterdir())
    assert found.datasets == (PlannedDataset("data", files_sha256(paths), 12),)
    assert found.r_max == 1.5
    (described,) = json.loads(Path("o.plan.json").read_text())["provenance"]["inputs"]
    assert described == {
        **{"role": "dataset", "name": "data", "kind": "dataset"},
        "version": current_version("dataset"),
        "sha256": found.datasets[0].sha256,
    }


def test_folder_glob_and_single_files(plan):
    plan()
    of_folder = read_batch_plan(Path("o.plan.json"))
    plan(path=Path("data/train_*.h5"))
    of_glob = read_batch_plan(Path("o.plan.json"))
    assert of_glob.datasets[0].sha256 == of_folder.datasets[0].sha256
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


# --- the edge cap


def test_about_so_many_edges(plan):
    """Chains of eleven atoms, 20 edges: three fit into 60, which is near 57 but more."""
    provenance = make_provenance("mace-jax-preprocess", [], reproducible=True)
    write_dataset_file(Path("long.h5"), [chain_of_atoms(11) for _ in range(30)], provenance)
    near = plan(path=Path("long.h5"), cap=("--target-edges", "57"))["summary"]
    assert (near["n_batches"], near["caps"]["n_edge"]) == (10, 60)
    most = plan(path=Path("long.h5"), n_edge=57)["summary"]
    assert (most["n_batches"], most["caps"]["n_edge"]) == (15, 40)


@pytest.mark.parametrize(
    ("cap", "n_edge"),
    [
        (("--max-memory", str(20 * BYTES_PER_EDGE / 1e9 + 1e-9)), 20),
        (("--max-memory", "0.001", "--bytes-per-edge", "33_000"), 30),
    ],
)
def test_as_many_edges_as_fit_into_the_memory(plan, cap, n_edge):
    assert plan(cap=cap)["summary"]["requested_n_edge"] == n_edge


# --- several shapes, processes, datasets


def test_shapes_of_large_graphs_and_processes(plan):
    provenance = make_provenance("mace-jax-preprocess", [], reproducible=True)
    lengths = [*[4] * 30, 40, 50]
    write_dataset_file(Path("wide.h5"), [chain_of_atoms(n) for n in lengths], provenance)
    options = ("--shapes", "2", "--processes", "3")
    summary = plan(*options, path=Path("wide.h5"), n_edge=12)["summary"]
    found = read_batch_plan(Path("o.plan.json"))
    assert [shape["n_edge"] for shape in summary["shapes"]] == [98, 12]
    assert summary["processes"] == found.processes == 3
    assert all(shape["n_batches"] % 3 == 0 for shape in summary["shapes"])
    assert sorted(found.batches.ids) == list(range(32))
    assert plan(path=Path("wide.h5"), n_edge=12)["summary"]["caps"]["n_edge"] == 98


def test_graphs_are_skipped(plan):
    summary = plan("--oversize", "skip", n_edge=8)["summary"]
    assert (summary["n_graphs"], summary["n_skipped"]) == (10, 2)
    assert read_batch_plan(Path("o.plan.json")).skipped == (3, 9)


def test_several_datasets(plan):
    found = []
    for order in (("data/train_1.h5", "data/train_0.h5"), ("data/train_0.h5", "data/train_1.h5")):
        plan(order[1], path=Path(order[0]))
        found.append(read_batch_plan(Path("o.plan.json")))
    assert [dataset.name for dataset in found[0].datasets] == ["train_1.h5", "train_0.h5"]
    assert [dataset.n_structures for dataset in found[0].datasets] == [5, 7]
    plan()
    assert found[1].batches == read_batch_plan(Path("o.plan.json")).batches != found[0].batches


# --- from an index


@pytest.fixture
def index(dataset: Path) -> Path:
    """Return the index of the dataset."""
    with (
        Dataset(dataset) as data,
        IndexWriter(
            Path("train.parquet"),
            make_provenance("mace-jax-preprocess", [], reproducible=True),
            r_max=1.5,
            dataset_name="data",
        ) as writer,
    ):
        for frame, structure in enumerate(data):
            receivers = neighbor_list(structure, 1.5).receivers
            counts = np.bincount(receivers, minlength=len(structure))
            writer.write([index_row(structure, counts, "train.xyz", frame)])
        writer.dataset_sha256 = data.sha256()
    return Path("train.parquet")


def test_an_index_gives_the_plan_of_its_dataset(plan, index, dataset):
    plan()
    of_data = read_batch_plan(Path("o.plan.json"))
    shutil.rmtree(dataset)
    plan(path=index)
    assert read_batch_plan(Path("o.plan.json")) == of_data
    (described,) = json.loads(Path("o.plan.json").read_text())["provenance"]["inputs"]
    assert (described["kind"], described["sha256"]) == ("index", file_sha256(index))


def refusal(capfd, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--output", "new.plan.json"])
    captured = capfd.readouterr()
    assert not Path("new.plan.json").exists()
    return stopped.value.code, captured.err.splitlines()[-1]


def test_an_index_knows_its_cutoff_and_its_frames(index, capfd):
    code, error = refusal(capfd, str(index), "--n-edge", "9", "--oversize", "error")
    assert code == 1
    assert "error: train.xyz: frame 3: has 10 edges, more than the cap of 9" in error
    code, error = refusal(capfd, str(index), "--n-edge", "9", "--r-max", "2.5")
    assert code == 1
    assert "train.parquet: counts edges at r_max 1.5 Å, expected 2.5 Å; give the" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "0 of --n-edge, --target-edges and --max-memory given, expected one"),
        ("--n-edge 9 --max-memory 1", "2 of --n-edge, --target-edges and --max-memory given"),
        ("--max-memory 1e-9", "--max-memory 1e-09 GB: less than --bytes-per-edge 120000"),
        ("--max-memory nan", "not a number above 0"),
        ("--n-edge 9 --shapes 0", "--shapes"),
        ("--n-edge 9 --processes 0", "--processes"),
        ("--n-edge 9 --oversize ignore", "--oversize"),
    ],
)
def test_usage(dataset, capfd, arguments, message):
    code, error = refusal(capfd, str(dataset), "--r-max", "1.5", *arguments.split())
    assert code == 2
    assert message in error


def test_a_dataset_is_not_replaced(dataset, capfd):
    with pytest.raises(SystemExit) as stopped:
        main([str(dataset), "--n-edge=9", "--r-max=1.5", f"--output={dataset}", "--force"])
    assert stopped.value.code == 2
    assert "is read, too, and an input is never replaced" in capfd.readouterr().err


def test_a_dataset_needs_a_cutoff(dataset, capfd):
    code, error = refusal(capfd, str(dataset), "--n-edge", "9")
    assert code == 2
    assert "stores no pairs that would say r_max; give --r-max" in error


def test_neither_jax_nor_the_neighbour_list_is_needed_for_an_index(index):
    """On a machine that has no data, either."""
    script = (
        "import sys; from mace_jax_plan_batches.cli import main\n"
        "try: main(['train.parquet', '--n-edge', '20', '-o', 'p.plan.json'])\n"
        "finally: print({'jax', 'torch', 'ase', 'vesin'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["p.plan.json", "set()"]
