"""Bad input ends with one clear line and the right exit code, and leaves no file behind."""

import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import msgpack
import pytest

from mace_jax.artifacts.model_bundle import EmbeddingSpec, read_model_bundle, write_model_bundle

LINES_PER_FRAME = 23

# Small things that can go wrong with a file; each is applied to a copy of the chain's folder.


def edit(path: str, function: Callable[[str], str]) -> Callable[[], None]:
    def prepare() -> None:
        file = Path(path)
        file.write_text(function(file.read_text()))

    return prepare


def cut(path: str, keep: float) -> Callable[[], None]:
    """Keep a share of the bytes of a file."""

    def prepare() -> None:
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[: int(len(content) * keep)])

    return prepare


def replace_column(frame: int, atom: int, column: int, value: str) -> Callable[[str], str]:
    def function(text: str) -> str:
        lines = text.splitlines(keepends=True)
        place = frame * LINES_PER_FRAME + 2 + atom
        words = lines[place].split()
        words[column] = value
        lines[place] = " ".join(words) + "\n"
        return "".join(lines)

    return function


def copy_line(frame: int, source: int, target: int) -> Callable[[str], str]:
    def function(text: str) -> str:
        lines = text.splitlines(keepends=True)
        start = frame * LINES_PER_FRAME + 2
        lines[start + target] = lines[start + source]
        return "".join(lines)

    return function


def without_energy(text: str) -> str:
    return re.sub(r"REF_energy=\S+", "", text)


def json_value(path: str, *keys: str, value: object) -> Callable[[], None]:
    def prepare() -> None:
        document = json.loads(Path(path).read_text())
        inner = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        Path(path).write_text(json.dumps(document))

    return prepare


def in_hdf5(change: Callable[[h5py.File], None], path: str = "data/train/train_0.h5"):
    def prepare() -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return prepare


def remove_positions(file: h5py.File) -> None:
    del file["config_batch_0/config_3/positions"]


def add_foreign_group(file: h5py.File) -> None:
    file["config_batch_0"].create_group("notes")


def infinite_position(file: h5py.File) -> None:
    file["config_batch_0/config_3/positions"][2, 0] = float("inf")


def flip_byte_of_weights() -> None:
    document = msgpack.unpackb(Path("model.msgpack").read_bytes())
    entry = next(iter(document["arrays"].values()))
    entry["bytes"] = bytes([entry["bytes"][0] ^ 1]) + entry["bytes"][1:]
    Path("model.msgpack").write_bytes(msgpack.packb(document))


def in_bundle(**changes: object) -> Callable[[], None]:
    """Say something else of the network; the file remains sound."""

    def prepare() -> None:
        path = Path("model.msgpack")
        provenance = msgpack.unpackb(path.read_bytes())["header"]["provenance"]
        bundle = read_model_bundle(path)
        changed = replace(bundle, config=replace(bundle.config, **changes))
        write_model_bundle(path, changed, provenance)

    return prepare


def second_half_of_a_set() -> None:
    with h5py.File("data/train/train_0.h5", "r+") as file:
        file.attrs["shard_count"] = 2


def empty_folder() -> None:
    Path("empty").mkdir()


def one_good_run_and_one_broken() -> None:
    text = Path("results/aspirin_small.metrics").read_text()
    Path("results/broken.metrics").write_text(text[:-30])


def metrics_row(**changes: object) -> Callable[[], None]:
    """Change the last row of the metrics file; a value of None removes the key."""

    def function(text: str) -> str:
        *lines, last = text.splitlines()
        row = {**json.loads(last), **changes}
        row = {name: value for name, value in row.items() if changes.get(name, 0) is not None}
        return "\n".join([*lines, json.dumps(row), ""])

    return edit("results/aspirin_small.metrics", function)


def nothing() -> None:
    pass


@dataclass(frozen=True)
class Case:
    """A command, what is broken before it runs, and how it must end."""

    name: str
    command: str
    arguments: list[str]
    patterns: tuple[str, ...]
    prepare: Callable[[], None] = nothing
    code: int = 1
    id: str = field(init=False)

    def __post_init__(self) -> None:
        tool = self.command.removeprefix("mace-jax-")
        object.__setattr__(self, "id", f"{tool}: {self.name}")


def preprocess(name: str, extra: str, *patterns: str, **options: object) -> Case:
    arguments = [
        *("--train_file", "train.xyz", "--valid_file", "valid.xyz", "--test_file", "test.xyz"),
        *("--h5_prefix", "out", "--compute_statistics", "--E0s", "average"),
    ]
    return Case(name, "mace-jax-preprocess", arguments + extra.split(), patterns, **options)


def select_replay(name: str, extra: str, *patterns: str, **options: object) -> Case:
    arguments = ["train.xyz", "--number", "5", "--output", "out/replay.xyz"]
    return Case(name, "mace-jax-select-replay", arguments + extra.split(), patterns, **options)


def plan(name: str, extra: str, *patterns: str, **options: object) -> Case:
    arguments = ["data/train", "--r-max", "5", "--n-edge", "2048", "-o", "out/new.plan.json"]
    return Case(name, "mace-jax-plan-batches", arguments + extra.split(), patterns, **options)


def train(name: str, extra: str, *patterns: str, **options: object) -> Case:
    """Return a run on HDF5 files with plans and statistics; ``extra`` wins where it repeats."""
    arguments = [
        *("configs/aspirin_small.gin", "--train-path", "data/train", "--valid-path", "data/val"),
        *("--test-path", "None", "--train-plan", "train.plan.json", "--valid-plan"),
        *("valid.plan.json", "--statistics-file", "data/statistics.json", "--log-dir", "out"),
        *("-b", "model.hidden_irreps='4x0e'", "-b", "model.max_ell=1"),
        *("-b", "model.correlation=1", "-b", "model.num_interactions=1"),
    ]
    return Case(name, "mace-jax-train", arguments + extra.split(), patterns, **options)


def quick_start(name: str, extra: str, *patterns: str, **options: object) -> Case:
    """Return a run that starts from extxyz and makes everything else itself."""
    arguments = ["configs/aspirin_small.gin", "--log-dir", "out", "--max-epochs", "1"]
    return Case(
        f"quick start, {name}", "mace-jax-train", arguments + extra.split(), patterns, **options
    )


def predict(name: str, extra: str, *patterns: str, **options: object) -> Case:
    arguments = ["model.msgpack", "structures.xyz", "--output", "out/new.npz"]
    return Case(name, "mace-jax-predict", arguments + extra.split(), patterns, **options)


def predict_hdf5(name: str, *patterns: str, **options: object) -> Case:
    arguments = ["model.msgpack", "data/train", "--output", "out/new.npz"]
    return Case(name, "mace-jax-predict", arguments, patterns, **options)


def plot(name: str, extra: str, *patterns: str, **options: object) -> Case:
    arguments = ["--path", "results"]
    return Case(name, "mace-jax-train-plot", arguments + extra.split(), patterns, **options)


def from_torch(name: str, *patterns: str, **options: object) -> Case:
    arguments = ["--torch-model", "model.pt", "--output", "out/new.msgpack"]
    return Case(name, "mace-jax-from-torch", arguments, patterns, **options)


CASES = [
    preprocess("empty file", "", "train.xyz: holds no", prepare=edit("train.xyz", lambda _: "")),
    preprocess(
        "NaN forces",
        "",
        "train.xyz: frame 3: .*forces of atom 5 is nan",
        prepare=edit("train.xyz", replace_column(3, 5, 5, "nan")),
    ),
    preprocess(
        "infinite energy",
        "",
        "train.xyz: frame 0: .*energy is inf",
        prepare=edit(
            "train.xyz", lambda text: re.sub(r"(REF_energy=)\S+", r"\1inf", text, count=1)
        ),
    ),
    preprocess(
        "NaN energy in validation file",
        "",
        "valid.xyz: frame 0: .*energy is nan",
        prepare=edit(
            "valid.xyz", lambda text: re.sub(r"(REF_energy=)\S+", r"\1nan", text, count=1)
        ),
    ),
    preprocess(
        "NaN in validation file",
        "",
        "valid.xyz: frame 1: .*forces of atom 0 is nan",
        prepare=edit("valid.xyz", replace_column(1, 0, 4, "nan")),
    ),
    preprocess(
        "NaN in test file",
        "",
        "test.xyz: frame 2: .*positions of atom 20 is nan",
        prepare=edit("test.xyz", replace_column(2, 20, 1, "nan")),
    ),
    preprocess(
        "unknown symbol",
        "",
        "train.xyz: frame 2: .*Qq",
        prepare=edit("train.xyz", replace_column(2, 4, 0, "Qq")),
    ),
    preprocess(
        "dummy atom",
        "",
        "train.xyz: frame 2: atom 4: .*0",
        prepare=edit("train.xyz", replace_column(2, 4, 0, "X")),
    ),
    preprocess(
        "element not given",
        "--atomic_numbers 1,6",
        r"train.xyz: frame \d+: unknown element O \(8\), expected one of \[1, 6\]",
    ),
    preprocess(
        "no energies",
        "",
        "train.xyz: energy found in 0 of 12 structures under REF_energy, energy",
        "keys present: .*REF_forces",
        "--energy_key",
        prepare=edit("train.xyz", without_energy),
    ),
    preprocess(
        "wrong energy key",
        "--energy_key dft_energy",
        "train.xyz: energy found in 0 of 12 structures under 'dft_energy'",
        "keys present: .*REF_energy",
        "--energy_key",
    ),
    preprocess(
        "last frame truncated",
        "",
        "train.xyz: frame 11: ",
        prepare=edit("train.xyz", lambda text: "".join(text.splitlines(keepends=True)[:-4])),
    ),
    preprocess(
        "last frame without atoms",
        "",
        "train.xyz: frame 11: ",
        prepare=edit("train.xyz", lambda text: "".join(text.splitlines(keepends=True)[:-21])),
    ),
    preprocess(
        "last line truncated",
        "",
        "train.xyz: frame 11: ",
        prepare=edit("train.xyz", lambda text: text[:-40]),
    ),
    preprocess(
        "binary file",
        "",
        "train.xyz: frame 0: line 1: ",
        prepare=lambda: Path("train.xyz").write_bytes(bytes(range(256))),
    ),
    preprocess("folder as file", "--train_file data", "data: no HDF5 file there"),
    preprocess("missing validation file", "--valid_file no.xyz", "no.xyz: no such file"),
    preprocess("cutoff below all distances", "--r_max 0.1", "no two atoms are closer than r_max"),
    preprocess(
        "two atoms at one place",
        "",
        "train.xyz: .*atoms (3 and 7|7 and 3) are at the same place",
        prepare=edit("train.xyz", copy_line(1, 3, 7)),
    ),
    preprocess("E0 of an element missing", "--E0s {1:-13.6,6:-1029.0}", r"no E0 for O \(8\)"),
    preprocess("E0s unreadable", "--E0s avrage", "E0s: 'avrage' cannot be read", code=2),
    preprocess(
        "negative weight",
        "--config_type_weights {'Default':-1}",
        "config.type.weights",
        code=2,
    ),
    preprocess("weights unreadable", "--config_type_weights 3", "config.type.weights", code=2),
    preprocess("r_max zero", "--r_max 0", "0.* is not a number above 0", code=2),
    preprocess("r_max nan", "--r_max nan", "nan", code=2),
    preprocess("no processes", "--num_process 0", "num", code=2),
    preprocess("elements unreadable", "--atomic_numbers [1,x]", "atomic numbers", code=2),
    preprocess("element 0", "--atomic_numbers [0,1]", "atomic numbers", code=2),
    select_replay(
        "missing file", "--elements H,C,O", "no such file", prepare=Path("train.xyz").unlink
    ),
    select_replay("too many", "--number 13", r"12 structures may be chosen \(any elements\), exp"),
    select_replay("no structure left", "--elements H,C", "0 of 12 structures may be chosen"),
    select_replay("element not there", "--elements H,C,O,Si", "no structure has Si.*present: H, C"),
    select_replay("unknown element", "--elements H,Qq", "unknown element 'Qq'; give", code=2),
    select_replay("unknown suffix", "--output out/replay.npz", "unknown suffix '.npz'", code=2),
    select_replay(
        "element unknown to the model",
        "--method farthest-point --model model.msgpack",
        r"train.xyz: frame 1: unknown element N \(7\), expected one of \[1, 6, 8\]",
        prepare=edit("train.xyz", replace_column(1, 0, 0, "N")),
    ),
    select_replay(
        "truncated bundle",
        "--method farthest-point --model model.msgpack",
        "model.msgpack: not a",
        prepare=cut("model.msgpack", 0.9),
    ),
    select_replay(
        "NaN in forces",
        "",
        "train.xyz: frame 1: .*forces of atom 0 is nan",
        prepare=edit("train.xyz", replace_column(1, 0, 4, "nan")),
    ),
    plan("missing dataset", "", "data/train: no HDF5", prepare=lambda: shutil.rmtree("data/train")),
    plan(
        "empty folder", "", "data/train: no HDF5", prepare=lambda: [*map(Path.unlink, h5_files())]
    ),
    plan(
        "truncated HDF5",
        "",
        "train_0.h5: not a complete HDF5 file",
        prepare=cut("data/train/train_0.h5", 0.6),
    ),
    plan("empty HDF5", "", "not a complete HDF5", prepare=cut("data/train/train_0.h5", 0)),
    plan("shard missing", "", r"data/train: holds shards \[0\] of 2", prepare=second_half_of_a_set),
    plan(
        "positions missing",
        "",
        "train_0.h5: config_batch_0/config_3: .*positions",
        prepare=in_hdf5(remove_positions),
    ),
    plan(
        "infinite position",
        "",
        "train_0.h5: config_batch_0/config_3: positions of atom 2 is inf",
        prepare=in_hdf5(infinite_position),
    ),
    plan(
        "foreign group",
        "",
        "train_0.h5: holds 13 structures, expected 12",
        prepare=in_hdf5(add_foreign_group),
    ),
    plan("no edges allowed", "--n-edge 0", "n-edge", code=2),
    plan("two caps", "--target-edges 100", "2 of --n-edge, --target-edges and --max-", code=2),
    plan("too large", "--n-edge 9 --oversize error", "train_0.h5: .*edges, more than the cap of 9"),
    plan("cutoff infinite", "--r-max inf", "inf", code=2),
    train("truncated HDF5", "", "not a complete HDF5", prepare=cut("data/train/train_0.h5", 0.6)),
    train(
        "truncated plan",
        "",
        "train.plan.json: not complete JSON",
        prepare=cut("train.plan.json", 0.6),
    ),
    train(
        "plan without a graph",
        "",
        "train.plan.json: at /batches: .*planned, expected each of 12 once",
        prepare=json_value("train.plan.json", "batches", value=[[0, 1]]),
    ),
    train(
        "plan without shapes",
        "",
        "train.plan.json: at /shapes",
        prepare=json_value("train.plan.json", "shapes", value=[]),
    ),
    train(
        "plan for other data",
        "--train-plan valid.plan.json",
        "valid.plan.json: was made for other data .*expected data/train",
        "mace-jax-plan-batches",
    ),
    train(
        "plan for other data, without statistics",
        "--train-plan valid.plan.json --statistics-file None",
        "valid.plan.json: was made for other data",
    ),
    train(
        "plan for another cutoff",
        "",
        "train.plan.json: was made for r_max 4.0 Å, expected 5.0 Å",
        prepare=json_value("train.plan.json", "r_max", value=4.0),
    ),
    train(
        "statistics of another cutoff",
        "",
        "data/statistics.json: r_max 4.0 Å, expected 5.0 Å",
        prepare=json_value("data/statistics.json", "r_max", value=4.0),
    ),
    train(
        "statistics without an E0",
        "",
        r"data/statistics.json: no E0 for O \(8\)",
        prepare=json_value(
            "data/statistics.json", "atomic_energies", value="{1: -13.6, 6: -1029.}"
        ),
    ),
    train(
        "statistics that run code",
        "",
        "data/statistics.json: atomic_energies",
        prepare=json_value("data/statistics.json", "atomic_energies", value="open('x', 'w')"),
    ),
    train(
        "neither plan nor n_edge",
        "--train-plan None -b datasets.n_edge=None",
        "no plan for train and datasets.n_edge is not set",
        code=2,
    ),
    train(
        "nothing made before and no n_edge",
        "--train-plan None --statistics-file None -b datasets.n_edge=None",
        "no plan for train and datasets.n_edge is not set",
        code=2,
    ),
    train("missing training data", "--train-path no.h5", "no.h5: no HDF5 file"),
    train("unknown gin key", "-b model.hiden_irreps='4x0e'", "unknown hiden_irreps", code=2),
    train("unknown gin section", "-b modell.r_max=5.0", "modell", code=2),
    train("unknown choice", "-b model.gate='relu'", "gate", code=2),
    train("wrong type", "-b model.num_interactions='two'", "num_interactions", code=2),
    train("negative learning rate", "-b optimizer.lr=-0.1", "optimizer.lr", code=2),
    train("impossible irreps", "-b model.hidden_irreps='4x0q'", "4x0q", code=2),
    train("two cutoffs", "-b datasets.r_max=4.0", "r_max .*differ", code=2),
    train(
        "unfinished gin file",
        "",
        "aspirin_small.gin",
        prepare=edit("configs/aspirin_small.gin", lambda text: f"{text}\nmodel.r_max ="),
        code=2,
    ),
    train("element not given", "--atomic-numbers 1,6", r"unknown element O \(8\)"),
    train(
        "stress without labels",
        "--stress-weight 1",
        "stress found in 0 of 12 structures",
        "loss.stress_weight",
    ),
    train(
        "stress without labels, nothing made before",
        "--stress-weight 1 --train-plan None --valid-plan None --statistics-file None",
        "stress found in 0 of 12 structures",
    ),
    quick_start(
        "wrong energy key",
        "--energy-key dft_energy",
        "energy found in 0 of 12 structures under 'dft_energy', keys present: .*REF_energy",
    ),
    quick_start(
        "NaN forces in validation",
        "",
        "valid.xyz: frame 1: .*forces of atom 0 is nan",
        prepare=edit("examples/aspirin/valid.xyz", replace_column(1, 0, 4, "nan")),
    ),
    quick_start("no n_edge", "-b datasets.n_edge=None", "datasets.n_edge is not set", code=2),
    quick_start("E0 of an element missing", "--E0s {1:-13.6,6:-1029.0}", r"no E0 for O \(8\)"),
    quick_start(
        "unknown element in validation",
        "",
        r"unknown element N \(7\)",
        prepare=edit("examples/aspirin/valid.xyz", replace_column(1, 0, 0, "N")),
    ),
    predict("truncated bundle", "", "model.msgpack: not a", prepare=cut("model.msgpack", 0.9)),
    predict("empty bundle", "", "model.msgpack: not a", prepare=cut("model.msgpack", 0)),
    predict("damaged bundle", "", "model.msgpack: .*(digest|sha256)", prepare=flip_byte_of_weights),
    predict(
        "another architecture",
        "",
        "model.msgpack: arrays/.*: not part of this network",
        prepare=in_bundle(radial_type="chebyshev"),
    ),
    predict(
        "impossible architecture",
        "",
        r"header/model/correlation: \[1, 2\], expected 1 numbers, one for each layer",
        prepare=in_bundle(correlation=(1, 2)),
    ),
    predict(
        "input that the model needs missing",
        "",
        r"structures\.xyz: frame 0: has no field, which the model needs",
        prepare=in_bundle(embedding_specs=(EmbeddingSpec("field", "continuous", "graph", 2),)),
    ),
    predict("unknown suffix", "--output out/new.csv", r"\.csv.*\.npz, \.extxyz", code=2),
    predict(
        "labels in predictions", "--as-labels", r"suffix '\.npz', expected one of \.h5", code=2
    ),
    predict("layout of predictions", "--layout flat", "of a dataset; add --as-labels", code=2),
    predict("unknown head", "--head pbe", r"--head: 'pbe', expected one of \['Default'\]", code=2),
    predict("missing structures", "", "no such file", prepare=Path("structures.xyz").unlink),
    predict(
        "element unknown to the model",
        "",
        r"structures.xyz: frame 1: unknown element N \(7\), expected one of \[1, 6, 8\]",
        prepare=edit("structures.xyz", replace_column(1, 0, 0, "N")),
    ),
    predict("empty structures", "", "holds no", prepare=edit("structures.xyz", lambda _: "")),
    predict(
        "truncated structures",
        "",
        "structures.xyz: frame 3: ",
        prepare=edit("structures.xyz", lambda text: "".join(text.splitlines(True)[:-4])),
    ),
    predict_hdf5("truncated HDF5", "not a complete", prepare=cut("data/train/train_0.h5", 0.6)),
    predict_hdf5("positions missing", "config_3: .*positions", prepare=in_hdf5(remove_positions)),
    plot("empty folder", "--path empty", "empty: no .metrics files", prepare=empty_folder),
    plot(
        "unknown metric",
        "--keys rmse_e_per_atom,rmse_g",
        "aspirin_small.metrics: no values of 'rmse_g', expected some of .*rmse_f",
        code=2,
    ),
    plot(
        "metric without labels",
        "--keys rmse_stress",
        "no values of 'rmse_stress'",
        code=2,
    ),
    plot(
        "truncated metrics",
        "",
        "aspirin_small.metrics: not complete JSON",
        prepare=cut("results/aspirin_small.metrics", 0.99),
    ),
    plot("no epoch left", "--start-interval 100", "no evaluations from epoch 100 on"),
    plot("second run broken", "", "broken.metrics", prepare=one_good_run_and_one_broken),
    plot("row without head", "", "aspirin_small.metrics: line 7", prepare=metrics_row(head=None)),
    plot("row without loss", "", "aspirin_small.metrics: line 7", prepare=metrics_row(loss=None)),
    plot("epoch is text", "", "aspirin_small.metrics: line 7", prepare=metrics_row(epoch="one")),
    plot("loss is text", "", "aspirin_small.metrics: line 7", prepare=metrics_row(loss="low")),
    plot("unknown format", "--output-format gif", "gif", code=2),
    from_torch("truncated checkpoint", "model.pt", prepare=cut("model.pt", 0.9)),
    from_torch("empty checkpoint", "model.pt", prepare=cut("model.pt", 0)),
    from_torch(
        "text file", "model.pt", prepare=lambda: Path("model.pt").write_text("not a checkpoint")
    ),
]


def h5_files() -> list[Path]:
    return list(Path("data/train").glob("*.h5"))


def contents(folder: Path) -> dict[Path, str]:
    """Return the digest of every file and the name of every folder."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_bad_input(workspace, invoke, case):
    """Output goes to ``out/``, which exists and is empty, so that nothing may appear in it."""
    (workspace / "out").mkdir()
    case.prepare()
    before = contents(workspace)
    outcome = invoke(case.command, *case.arguments)
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.code == case.code
    error = outcome.err.splitlines()[-1]
    assert error.lower().startswith("error: ")
    for pattern in case.patterns:
        assert re.search(pattern, error), error
    assert contents(workspace) == before


def test_graph_larger_than_n_edge_raises_the_cap_and_is_named(workspace, invoke):
    arguments = ["data/train", "--r-max", "5", "--n-edge", "10", "-o", "o.plan.json", "--json"]
    outcome = invoke("mace-jax-plan-batches", *arguments)
    assert outcome.code == 0
    summary = json.loads(outcome.out)["summary"]
    largest = summary["largest_graph"]
    assert summary["caps"]["n_edge"] == largest["n_edge"] > 10
    assert summary["requested_n_edge"] == 10
    (warning,) = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    assert re.search(rf"train_0.h5: config_batch_0/config_{largest['id']}\b", warning)
    assert f"{largest['n_edge']} edges, more than the cap of 10" in warning
    plan = json.loads(Path("o.plan.json").read_text())
    assert sorted(itertools.chain(*plan["batches"])) == list(range(12))


def test_single_structure_cannot_be_split(workspace, invoke):
    text = Path("train.xyz").read_text().splitlines(keepends=True)
    Path("one.xyz").write_text("".join(text[:LINES_PER_FRAME]))
    outcome = invoke("mace-jax-preprocess", "--train_file", "one.xyz", "--h5_prefix", "out")
    assert outcome.code in (1, 2)
    assert "one.xyz: one structure cannot be split; give --valid_file" in outcome.err
    assert not Path("out").exists()


def test_no_epochs_to_train_still_ends_clearly(workspace, invoke):
    """Either refused, or the bundle that is named exists and the result is JSON."""
    case = train("", "--max-epochs 0 --json")
    outcome = invoke(case.command, *case.arguments)
    if outcome.code == 0:
        result = json.loads(outcome.out, parse_constant=pytest.fail)
        assert Path(result["artifact"]).is_file()
    else:
        assert outcome.code == 2
        assert "max" in json.loads(outcome.out)["error"]["message"]
