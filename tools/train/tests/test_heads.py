"""Several readout heads: each learns from its own data, and counts as much as its weight says."""

from contextlib import closing
from dataclasses import replace

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from jax.flatten_util import ravel_pytree

from mace_jax.artifacts.dataset import DatasetWriter, write_dataset_file
from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.model_bundle import read_model_bundle, write_model_bundle
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.artifacts.recipe import require_recipe
from mace_jax.errors import ConfigError, DataError, IncompatibleError, StoppedError
from mace_jax.model.load import split_trainable
from mace_jax.model.predict import properties
from mace_jax.structures.structure_block import StructureBlock
from mace_jax.torch_models.select_head import select_head
from mace_jax.tracking import show_nothing, track_silently
from mace_jax_train.beginning import find_beginning, prepared_run
from mace_jax_train.evaluate import evaluate
from mace_jax_train.head_losses import HeadFactors
from mace_jax_train.head_table import describe_heads, head_table
from mace_jax_train.loop import train
from mace_jax_train.loss import make_loss
from mace_jax_train.method import make_method
from mace_jax_train.run_files import RunFiles
from mace_jax_train.start import prepare_run

PROVENANCE = make_provenance("mace-jax-preprocess", [])
E0 = {1: -13.6, 8: -2041.8}
OTHER_E0 = {1: -16.0, 8: -2000.0}
NO_PATHS = {"train_path": None, "valid_path": None, "test_path": None, "E0s": None}


def write_dataset(path, structures):
    write_dataset_file(path, structures, PROVENANCE)
    return str(path)


def of_other_method(structures, factor=1.5):
    """Structures whose atoms have other energies, and forces ``factor`` times as large."""
    changed = []
    for one in structures:
        own, other = (sum(e0[int(z)] for z in one.atomic_numbers) for e0 in (E0, OTHER_E0))
        labels = {
            "energy": factor * (one.properties["energy"] - own) + other,
            "forces": factor * one.properties["forces"],
        }
        changed.append(replace(one, properties=labels))
    return changed


@pytest.fixture(scope="module")
def sections(tmp_path_factory, molecules):
    """The sections of two heads, whose data are of two methods."""
    folder = tmp_path_factory.mktemp("heads")
    sets = {
        "a": (molecules(8, 10), molecules(4, 11), E0),
        "b": (*map(of_other_method, (molecules(6, 12), molecules(3, 13))), OTHER_E0),
    }
    return [
        {
            "name": name,
            "train_path": write_dataset(folder / f"{name}.h5", training),
            "valid_path": write_dataset(folder / f"{name}_valid.h5", valid),
            "E0s": str(e0),
        }
        for name, (training, valid, e0) in sets.items()
    ]


@pytest.fixture
def two_heads(make_config, sections):
    """Return a function from changes of each head's section to a configuration."""

    def make(a=(), b=(), **others):
        heads = [sections[0] | dict(a), sections[1] | dict(b)]
        datasets = {**NO_PATHS, "heads": heads, **others.pop("datasets", {})}
        return make_config(datasets=datasets, **{"optimizer": {"max_epochs": 2}, **others})

    return make


def trained(config, folder, show=show_nothing):
    files = RunFiles(folder, "run", reproducible=True)
    beginning = find_beginning(config, files, [], force=False)
    with prepared_run(config, files, beginning, track_silently) as run:
        outcome = train(run, files, show, beginning.checkpoint)
    return outcome, read_metrics(files.path(".metrics"))[1]


def arrays(path):
    return {name: array.tobytes() for name, array in read_model_bundle(path).parameters.items()}


# --- what each head learns


def test_rows_and_bundle_have_every_head(two_heads, tmp_path):
    outcome, rows = trained(two_heads(), tmp_path)
    bundle = read_model_bundle(outcome.best)
    assert bundle.heads == ("a", "b")
    assert bundle.atomic_energies == {"a": E0, "b": OTHER_E0}
    assert bundle.scale["b"] == pytest.approx(1.5 * bundle.scale["a"], rel=0.3)
    of_epoch = [(row["mode"], row["head"]) for row in rows if row["epoch"] == 1]
    heads = ("a", "b", "all")
    assert of_epoch == [(mode, head) for mode in ("train", "valid") for head in heads]
    assert [row["n_updates"] for row in rows[-3:]] == [rows[-1]["n_updates"]] * 3
    a, b, both = (row for row in rows if row["mode"] == "valid" and row["epoch"] == 2)
    assert a["rmse_e"] ** 2 * 4 + b["rmse_e"] ** 2 * 3 == pytest.approx(both["rmse_e"] ** 2 * 7)
    assert a["rmse_f"] < next(row for row in rows if row["head"] == "a")["rmse_f"]


@pytest.mark.parametrize("index", [0, 1])
def test_a_head_is_evaluated_as_in_a_run_of_its_own(
    make_config, two_heads, sections, prepare, tmp_path, index
):
    """The weights are those of a trained run; only rounding differs."""
    outcome, rows = trained(two_heads(optimizer={"max_epochs": 1}), tmp_path / "two")
    own = sections[index]
    best = select_head(read_model_bundle(outcome.best), own["name"])
    path = tmp_path / "one.msgpack"
    write_model_bundle(path, best, make_provenance("mace-jax-train", []))
    datasets = {**NO_PATHS, "train_path": own["train_path"], "valid_path": own["valid_path"]}
    config = make_config(datasets=datasets)
    run, _ = prepare(replace(config, model=type(config.model)(start_from=str(path))))
    network, weights = split_trainable(run.model)
    (found,) = evaluate(make_method(run.config, network, 1), weights, run.loaders["valid"]).values()
    expected = next(
        row for row in rows if (row["mode"], row["head"], row["epoch"]) == ("valid", own["name"], 1)
    )
    for name in ("mae_e", "rmse_e_per_atom", "mae_f", "rmse_f"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)


# --- what weights do


def test_a_head_of_weight_0_has_no_influence(two_heads, sections, tmp_path, molecules):
    """Its labels may be what they will."""
    wild = [
        replace(s, properties={k: 1e4 * v for k, v in s.properties.items()})
        for s in of_other_method(molecules(6, 12))
    ]
    path = write_dataset(tmp_path / "wild.h5", wild)
    found = []
    for name, change in (("tame", {}), ("wild", {"train_path": path})):
        config = two_heads(b={"weight": 0.0, "E0s": str(OTHER_E0), **change})
        config = replace(config, model=replace(config.model, scaling="no_scaling"))
        outcome, _ = trained(config, tmp_path / name)
        found.append(arrays(outcome.best))
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def gradient(make_config, sections, tmp_path_factory):
    """Return a function from weights of heads to the gradient of a batch of both."""
    with jax.enable_x64(True):
        datasets = {**NO_PATHS, "heads": sections, "n_edge": 1000}
        config = make_config(datasets=datasets, flags={"dtype": "float64"})
        files = RunFiles(tmp_path_factory.mktemp("gradient"), "run")
        with closing(prepare_run(config, files, track_silently)) as run:
            network, parameters = split_trainable(run.model)
            ((_, batch),) = run.loaders["train"].in_order()

        @jax.jit
        def of_predictions(slopes):
            _, pull = jax.vjp(lambda some: properties(network(some), batch), parameters)
            return ravel_pytree(pull(slopes)[0])[0]

        predicted = jax.jit(lambda some: properties(network(some), batch))(parameters)

        def of(weights, loss="weighted", **terms):
            factors = HeadFactors(("a", "b"), weights, terms)
            penalty = make_loss(replace(config.loss, loss_cls=loss, stress_weight=0.0), factors)
            with jax.enable_x64(True):
                return np.asarray(of_predictions(jax.grad(penalty)(predicted, batch)))

    return of


@pytest.mark.parametrize("loss", ["weighted", "universal"])
def test_twice_the_weight_is_twice_the_share_of_the_gradient(gradient, loss):
    both, a, b = (gradient(weights, loss) for weights in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0)))
    assert min(np.linalg.norm(a), np.linalg.norm(b)) > 1e-3
    np.testing.assert_allclose(both, a + b, atol=1e-12 * np.abs(both).max())
    twice = gradient((1.0, 2.0), loss)
    np.testing.assert_allclose(twice, a + 2 * b, atol=1e-12 * np.abs(both).max())
    assert not gradient((0.0, 0.0), loss).any()


def test_factors_of_terms(gradient):
    whole = gradient((0.0, 1.0))
    energy, forces = (gradient((0.0, 1.0), **{term: (1.0, 0.0)}) for term in ("forces", "energy"))
    np.testing.assert_allclose(whole, energy + forces, atol=1e-12 * np.abs(whole).max())
    assert min(np.linalg.norm(energy), np.linalg.norm(forces)) > 1e-3


def test_config_type_weights_are_those_of_the_head(two_heads, prepare, tmp_path, molecules):
    odd = [
        replace(s, config_type="odd" if i % 2 else "even") for i, s in enumerate(molecules(6, 3))
    ]
    path = write_dataset(tmp_path / "odd.h5", odd)
    of_a, of_b = ({"train_path": path, "config_type_weights": {"odd": w}} for w in (2.0, 5.0))
    run, _ = prepare(two_heads(of_a, of_b))
    graphs = run.loaders["train"].graphs(range(12))
    assert [graph.structure.weight for graph in graphs] == [1.0, 2.0] * 3 + [1.0, 5.0] * 3
    assert [graph.head for graph in graphs] == [0] * 6 + [1] * 6


# --- where the heads are from


@pytest.mark.parametrize("kind", ["mace", "flat", "xyz"])
def test_data_that_name_their_heads_train_these(make_config, prepare, tmp_path, kind, molecules):
    structures = molecules(8, 4)
    named = [replace(s, head="pbe" if i % 3 else "scan") for i, s in enumerate(structures)]
    path = tmp_path / f"named.{'xyz' if kind == 'xyz' else 'h5'}"
    if kind == "xyz":
        frames = [Atoms(s.atomic_numbers, s.positions, info={"head": s.head}) for s in named]
        for frame, one in zip(frames, named, strict=True):
            frame.info["REF_energy"] = float(one.properties["energy"])
            frame.arrays["REF_forces"] = one.properties["forces"]
        write(path, frames)
    elif kind == "flat":
        with DatasetWriter(path, PROVENANCE, layout="flat") as writer:
            writer.write_block(StructureBlock.of(named))
    else:
        write_dataset_file(path, named, PROVENANCE)
    datasets = {**NO_PATHS, "train_path": str(path), "E0s": str(E0)}
    run, _ = prepare(make_config(datasets=datasets))
    assert run.bundle.heads == ("scan", "pbe")
    assert [graph.head for graph in run.loaders["train"].graphs(range(4))] == [0, 1, 1, 0]
    bare = [{"name": "pbe", "weight": 3.0}, {"name": "scan"}]
    run, _ = prepare(make_config(datasets={**datasets, "heads": bare}))
    assert run.bundle.heads == ("pbe", "scan")
    assert run.factors.weights == (3.0, 1.0)


def test_files_say_which_head_their_structures_are_of(
    make_config, prepare, tmp_path, molecules, caplog
):
    """The same geometries may be labelled twice, under other keys of one file."""
    frames = []
    for one, other in zip(s := molecules(5, 6), of_other_method(s), strict=True):
        frames.append(Atoms(one.atomic_numbers, one.positions, info={"head": "elsewhere"}))
        for name, labelled in (("pbe", one), ("scan", other)):
            frames[-1].info[f"{name}_energy"] = float(labelled.properties["energy"])
            frames[-1].arrays[f"{name}_forces"] = labelled.properties["forces"]
    write(path := tmp_path / "both.xyz", frames)
    heads = [
        {"name": name, "train_path": str(path), "E0s": str(e0)}
        | {f"{label}_key": f"{name}_{label}" for label in ("energy", "forces")}
        for name, e0 in (("scan", OTHER_E0), ("pbe", E0))
    ]
    run, _ = prepare(make_config(datasets={**NO_PATHS, "heads": heads}))
    text = "5 structures say that they are of head elsewhere; their file is of head scan"
    assert text in caplog.text
    graphs = run.loaders["train"].graphs(range(10))
    assert [graph.head for graph in graphs] == [0] * 5 + [1] * 5
    energies = [graph.interaction_energy for graph in graphs]
    np.testing.assert_allclose(energies[:5], 1.5 * np.array(energies[5:]), rtol=1e-6)


def test_e0s_of_elements_that_a_head_has_no_data_of(
    two_heads, prepare, tmp_path, caplog, molecules
):
    only_h = [s for s in molecules(60, 8) if set(s.atomic_numbers.tolist()) == {1}]
    path = write_dataset(tmp_path / "h.h5", of_other_method(only_h))
    own = {"train_path": path, "valid_path": None, "E0s": str({1: -16.0})}
    run, _ = prepare(two_heads(b=own))
    assert run.bundle.atomic_energies == {"a": E0, "b": {1: -16.0, 8: E0[8]}}
    assert "b: no structure with O (8): its E0 is that of head a" in caplog.text


# --- which weights are the best


@pytest.mark.parametrize(
    ("head", "value"),
    [("b", lambda a, b: b), ("weighted", lambda a, b: a + 3 * b)],
)
def test_the_best_by_a_head_or_by_all(two_heads, tmp_path, head, value):
    section = {"best_head": head, "best_metric": "rmse_f", "ema_decay": None}
    config = two_heads(b={"weight": 3.0}, train=section, optimizer={"max_epochs": 4, "lr": 0.3})
    outcome, rows = trained(config, tmp_path)
    found = {
        epoch: value(
            *(
                next(
                    r for r in rows if (r["mode"], r["head"], r["epoch"]) == ("valid", name, epoch)
                )["rmse_f"]
                for name in ("a", "b")
            )
        )
        for epoch in range(1, 5)
    }
    assert outcome.best_row["epoch"] == min(found, key=found.get)
    assert outcome.best_row["head"] == ("b" if head == "b" else "all")


# --- going on


def test_an_interrupted_run_ends_with_the_same_bytes(two_heads, tmp_path, signalled):
    config = two_heads(a={"E0s": "average"})
    whole, rows = trained(config, tmp_path / "whole")
    with pytest.raises(StoppedError):
        trained(config, tmp_path / "stopped", signalled("SIGTERM"))
    outcome, again = trained(config, tmp_path / "stopped")
    assert again == rows
    assert outcome.best.read_bytes() == whole.best.read_bytes()
    assert (
        require_recipe(read_model_bundle(outcome.best), outcome.best).atomic_energies
        == "a: average; b: given"
    )


def test_a_head_that_has_changed_is_named(two_heads, tmp_path, signalled):
    with pytest.raises(StoppedError):
        trained(two_heads(), tmp_path, signalled("SIGTERM"))
    message = r"config/datasets/heads/b/weight was 1\.0, now 3\.0; go on with the data"
    with pytest.raises(IncompatibleError, match=message):
        trained(two_heads(b={"weight": 3.0}), tmp_path)


# --- what is wrong


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"b": {"name": "a"}}, ConfigError, "datasets.heads: the name 'a' is given twice"),
        ({"b": {"name": "all"}}, ConfigError, "the name 'all' means all heads together"),
        ({"b": {"train_path": None}}, ConfigError, "b: valid_path is given, but no train_path"),
        (
            {"b": {"train_path": None, "valid_path": None}},
            ConfigError,
            "datasets.heads: b: has no data; give it a train_path",
        ),
        ({"b": {"r_max": 4.0}}, IncompatibleError, r"b: r_max 4.0 Å, expected 3.0 Å"),
        ({"b": {"E0s": "{1: -16.0}"}}, DataError, r"head 'b': no E0 for O \(8\)"),
        ({"b": {"E0s": "foundation"}}, ConfigError, "training begins with a fresh network"),
        (
            {"b": {"wieght": 1.0}},
            ConfigError,
            "datasets.heads: unknown wieght; did you mean weight",
        ),
        (
            {"b": {"weight": -1.0}},
            ConfigError,
            "datasets.heads.weight of b = -1.0, expected 0 or more",
        ),
        (
            {"b": {"config_type_weights": {"bulk": 2.0}}},
            ConfigError,
            "datasets.heads: b: config_type_weights: no structure of config type bulk",
        ),
        (
            {"a": {"weight": 0.0}, "b": {"weight": 0.0}},
            ConfigError,
            "all weights are 0, so nothing would be learned",
        ),
        (
            {"train": {"best_head": "c"}},
            ConfigError,
            "train.best_head = 'c', but there are a, b; name one of them, or weighted",
        ),
        (
            {"datasets": {"train_path": "a.h5"}},
            ConfigError,
            "datasets.train_path = 'a.h5', but heads have paths of their own",
        ),
    ],
)
def test_errors(two_heads, prepare, change, error, message):
    with pytest.raises(error, match=message):
        prepare(two_heads(**change))


def test_models_of_dipoles_have_one_head(two_heads, prepare):
    model = {"model": "EnergyDipolesMACE", "num_interactions": 2, "hidden_irreps": "4x0e + 4x1o"}
    with pytest.raises(
        ConfigError, match="EnergyDipolesMACE has one head only, but there are a, b"
    ):
        prepare(two_heads(model=model))


def test_a_head_without_labels(two_heads, prepare, tmp_path, molecules):
    bare = [replace(s, properties={}) for s in molecules(3, 5)]
    path = write_dataset(tmp_path / "bare.h5", bare)
    message = "datasets.heads: b: energy and forces found in 0 of 3 structures"
    with pytest.raises(DataError, match=message):
        prepare(two_heads(b={"train_path": path}))


def test_a_head_that_the_data_do_not_have(make_config, prepare, data):
    datasets = {"train_path": data["train_path"], "heads": [{"name": "Default"}, {"name": "pbe"}]}
    with pytest.raises(DataError, match=r"datasets\.heads: pbe: no structure of this head in"):
        prepare(make_config(datasets=datasets))
    datasets["heads"] = [{"name": "scan"}, {"name": "pbe"}]
    with pytest.raises(DataError, match="head 'Default' of 12 structures, expected one of 'scan'"):
        prepare(make_config(datasets=datasets))


@pytest.mark.parametrize(
    ("a", "best_head", "what"),
    [
        ({}, "b", "'b', but this head has no structures in"),
        (
            {"weight": 0.0},
            "weighted",
            "'weighted', but no head of weight above 0 has structures in",
        ),
    ],
)
def test_the_head_that_decides_has_no_validation_data(two_heads, prepare, a, best_head, what):
    config = two_heads(a=a, b={"valid_path": None}, train={"best_head": best_head})
    with pytest.raises(ConfigError, match=rf"train\.best_head = {what} .*a_valid\.h5"):
        prepare(config)


def test_a_head_that_learns_forces_alone(two_heads, prepare, tmp_path):
    frames = [Atoms("OH2", np.eye(3) * (1 + 0.1 * number)) for number in range(3)]
    for frame in frames:
        frame.arrays["REF_forces"] = np.ones((3, 3))
    path = tmp_path / "forces.xyz"
    write(path, frames)
    b = {"train_path": str(path), "valid_path": str(path)}
    with pytest.raises(DataError, match=r"forces\.xyz: energy found in 0 of 3 structures"):
        prepare(two_heads(b=b))
    run, _ = prepare(two_heads(b=b | {"energy_weight": 0.0}))
    shares = {head: one["effective_weights"] for head, one in describe_heads(run).items()}
    assert shares["b"]["energy"] == 0 < shares["b"]["forces"]


# --- what is measured


def test_effective_weights_are_measured_on_the_plan(two_heads, prepare, molecules, tmp_path):
    """One batch: 8 structures of a, 6 of b, two of which have no energy."""
    changed = of_other_method(molecules(6, 12))
    for index in (1, 4):
        forces = {"forces": changed[index].properties["forces"]}
        changed[index] = replace(changed[index], properties=forces)
    path = write_dataset(tmp_path / "changed.h5", changed)
    b = {"train_path": path, "weight": 3.0, "forces_weight": 0.5, "valid_path": None}
    run, _ = prepare(two_heads(b=b, datasets={"n_edge": 1000}))
    found = describe_heads(run)
    n_a, n_b = (sum(map(len, molecules(n, seed))) for n, seed in ((8, 10), (6, 12)))
    weights = {head: one["effective_weights"] for head, one in found.items()}
    assert weights["a"]["energy"] == pytest.approx(8 / 14)
    assert weights["b"]["energy"] == pytest.approx(3 * 4 / 14)
    assert weights["a"]["forces"] == pytest.approx(100 * n_a / (n_a + n_b))
    assert weights["b"]["forces"] == pytest.approx(100 * 3 * 0.5 * n_b / (n_a + n_b))
    assert found["b"]["structures"] == {"train": 6, "valid": 0}
    assert (found["b"]["elements"], found["b"]["E0s"]) == ([1, 8], "given")
    assert found["a"]["steps_per_epoch"] == 1
    lines = head_table(found)
    assert lines[0].split() == [
        *("head", "structures", "elements", "E0s", "weight", "energy", "forces", "steps")
    ]
    assert lines[2].split()[-6:] == [
        "O",
        "given",
        "3",
        "0.8571",
        f"{weights['b']['forces']:.4g}",
        "1",
    ]
