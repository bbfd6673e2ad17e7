"""Whole runs of a tiny network: what they write, when they stop, and that they repeat."""

import logging
import multiprocessing
import shutil
from contextlib import closing

import h5py
import jax
import numpy as np
import pytest

from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.batching.loader import PlannedLoader
from mace_jax.errors import DataError, DivergedError
from mace_jax.model.load import load_model, parameter_table, split_trainable
from mace_jax.structures.structure import Structure
from mace_jax.tracking import track_silently
from mace_jax_train.error_metrics import metrics
from mace_jax_train.loop import train
from mace_jax_train.optimizer import make_optimizer
from mace_jax_train.run_files import RunFiles
from mace_jax_train.start import prepare_run
from mace_jax_train.step import initial_state, make_eval_step, make_train_step

EPOCHS = 3


class Compilations(logging.Handler):
    """Collects the names of compiled functions."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith("Compiling "):
            self.names.append(message.split()[1].removeprefix("jit(").removesuffix(")"))


@pytest.fixture(scope="module")
def run_once(tmp_path_factory, make_config):
    """Return a function that trains with a seed: (files, outcome, names of what was compiled)."""

    def run(seed: int):
        files = RunFiles(tmp_path_factory.mktemp("run"), "run")
        ready = prepare_run(make_config(flags={"seed": seed}), files, track_silently)
        assert len(ready.loaders["train"]) > 1
        assert len(ready.loaders["valid"]) > 1
        compiled = Compilations()
        logger = logging.getLogger("jax._src.interpreters.pxla")
        logger.addHandler(compiled)
        propagate, logger.propagate = logger.propagate, False
        try:
            with jax.log_compiles():
                outcome = train(ready, files, show_nothing)
        finally:
            logger.removeHandler(compiled)
            logger.propagate = propagate
        return files, outcome, compiled.names

    return run


@pytest.fixture(scope="module")
def first(run_once):
    return run_once(0)


CONSTANTS = {"radial_embedding/bessel_fn/bessel_weights"}


def parameters_of(files, suffix):
    return read_model_bundle(files.path(suffix)).parameters


def test_files_of_a_run(first):
    files, outcome, _ = first
    header, rows = read_metrics(files.path(".metrics"))
    assert header["status"] == "finished"
    modes = [(row["mode"], row["epoch"]) for row in rows]
    evaluations = [(mode, epoch) for epoch in range(1, EPOCHS + 1) for mode in ("train", "valid")]
    assert modes == [*evaluations, ("eval_test", EPOCHS)]
    losses = {row["epoch"]: row["loss"] for row in rows if row["mode"] == "valid"}
    assert outcome.best_row["loss"] == min(losses.values())
    assert losses[outcome.best_row["epoch"]] == outcome.best_row["loss"]
    assert outcome.test_row == rows[-1]
    assert rows[0]["loss"] > losses[EPOCHS]  # it learns
    best = read_model_bundle(outcome.best)
    assert best.model_card["metrics"]["loss"] == outcome.best_row["loss"]
    assert best.scale["Default"] == pytest.approx(best.scale["Default"]) != 1.0


def test_steps_are_compiled_once(first):
    *_, compiled = first
    assert compiled.count("train_step") == 1
    # validation and test share a padded shape
    assert compiled.count("eval_step") == 1


def test_the_same_seed_gives_the_same_bits_and_another_does_not(first, run_once):
    again, _, _ = run_once(0)
    for suffix in ("_best.msgpack", "_last.msgpack"):
        one, two = parameters_of(first[0], suffix), parameters_of(again, suffix)
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
    other, _, _ = run_once(1)
    three = parameters_of(other, "_last.msgpack")
    assert {name for name in one if (one[name] == three[name]).all()} == CONSTANTS


def test_workers_change_no_bit_and_find_data_that_have_been_moved(make_config, tmp_path, train_xyz):
    """What was prepared in a temporary folder is where it belongs when the workers open it."""
    files = RunFiles(tmp_path / "run", "run")
    config = make_config(datasets={"train_path": train_xyz})
    found = []
    for n_workers in (0, 2):
        with files.staged() as staged:
            run = prepare_run(config, staged, track_silently, n_workers)
        with closing(run):
            train(run, files, show_nothing)
        found.append(parameters_of(files, "_last.msgpack"))
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name])
    assert not multiprocessing.active_children()


@pytest.fixture(scope="module")
def by_hand(make_config, tmp_path_factory):
    """The parameters of every step and the averages of every epoch, from the compiled step."""
    files = RunFiles(tmp_path_factory.mktemp("by_hand"), "run")
    run = prepare_run(make_config(), files, track_silently)
    network, parameters = split_trainable(run.model)
    optimizer = make_optimizer(run.config.optimizer, run.config.train.max_grad_norm)
    step = make_train_step(network, optimizer, run.config.loss, run.config.train.ema_decay)
    state = initial_state(parameters, optimizer)
    steps, epochs = [parameter_table(state.parameters)], []
    for epoch in range(1, EPOCHS + 1):
        for _, batch in run.loaders["train"].epoch(run.config.flags.seed, epoch):
            state, _ = step(state, batch)
            steps.append({k: v.copy() for k, v in parameter_table(state.parameters).items()})
        epochs.append({k: v.copy() for k, v in parameter_table(state.averaged).items()})
    assert step._cache_size() == 1
    return run, steps, epochs


def test_the_average_warms_up(by_hand):
    """The decay of step n is min(0.99, (1 + n) / (10 + n)), as in torch_ema."""
    run, steps, epochs = by_hand
    assert run.config.train.ema_decay == 0.99
    expected = {name: value.astype(np.float64) for name, value in steps[0].items()}
    for n, parameters in enumerate(steps[1:], start=1):
        decay = min(0.99, (1 + n) / (10 + n))
        for name, value in parameters.items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in expected.items():
        np.testing.assert_allclose(epochs[-1][name], value, rtol=1e-4, atol=1e-6)
        assert np.abs(epochs[-1][name] - steps[-1][name]).max() > 1e-4


def test_the_best_bundle_holds_the_average_of_the_best_epoch(first, by_hand):
    files, outcome, _ = first
    _, _, epochs = by_hand
    for suffix, epoch in (("_best.msgpack", outcome.best_row["epoch"]), ("_last.msgpack", EPOCHS)):
        parameters = parameters_of(files, suffix)
        assert parameters.keys() - epochs[epoch - 1].keys() == CONSTANTS
        for name, value in epochs[epoch - 1].items():
            np.testing.assert_array_equal(parameters[name], value)


def test_the_best_bundle_has_the_loss_it_claims(first, by_hand):
    _, outcome, _ = first
    run, *_ = by_hand
    bundle = read_model_bundle(outcome.best)
    network, parameters = split_trainable(load_model(bundle, "best"))
    evaluate = make_eval_step(network, run.config.loss)
    for split, row in (("valid", outcome.best_row), ("test", outcome.test_row)):
        errors = [evaluate(parameters, batch) for _, batch in run.loaders[split].in_order()]
        found = metrics(jax.device_get(errors))
        for name in ("loss", "mae_e", "rmse_f"):
            assert found[name] == pytest.approx(row[name], rel=1e-5)


ARCHITECTURES = {
    "density": {
        "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
        "radial_type": "gaussian",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
        "use_reduced_cg": True,
    },
    "non-linear": {
        "interaction_cls_first": "RealAgnosticResidualNonLinearInteractionBlock",
        "num_interactions": 2,
        "correlation": (1, 2),
        "apply_cutoff": False,
        "readout_cls": "NonLinearBiasReadoutBlock",
        "use_last_readout_only": True,
        "use_agnostic_product": True,
    },
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_another_architecture_learns_and_keeps_its_constants(make_config, prepare, name):
    config = make_config(
        model=ARCHITECTURES[name],
        datasets={"valid_path": None, "test_path": None},
        optimizer={"max_epochs": 4},
    )
    run, files = prepare(config)
    before = dict(run.bundle.parameters)
    trained = parameter_table(split_trainable(run.model)[1])
    outcome = train(run, files, show_nothing)
    best = read_model_bundle(outcome.best)
    for field, value in ARCHITECTURES[name].items():
        assert getattr(best.config, field) == value
    assert best.parameters.keys() == before.keys()
    unchanged = {path for path, array in before.items() if (best.parameters[path] == array).all()}
    assert before.keys() - trained.keys() <= unchanged
    assert len(unchanged & trained.keys()) <= 2  # weights of what no data have
    _, rows = read_metrics(files.path(".metrics"))
    losses = [row["loss"] for row in rows if row["mode"] == "train"]
    assert losses[-1] < losses[0]


def test_patience(make_config, prepare):
    """With a step too small to change anything no evaluation beats the first."""
    config = make_config(
        optimizer={"lr": 1e-30, "max_epochs": 50}, train={"ema_decay": None, "patience": 2}
    )
    run, files = prepare(config)
    outcome = train(run, files, show_nothing)
    assert (outcome.epochs, outcome.best_row["epoch"]) == (3, 1)
    header, rows = read_metrics(files.path(".metrics"))
    assert header["status"] == "finished"
    assert max(row["epoch"] for row in rows) == 3


def test_a_step_that_is_not_finite_stops_the_run_and_keeps_the_best(make_config, prepare):
    run, files = prepare(make_config(optimizer={"max_epochs": 5}))
    loader = run.loaders["train"]

    def spoiled(ids):
        graphs = loader.graphs(ids)
        graphs[0] = graphs[0]._replace(interaction_energy=np.nan if 0 in ids else 1.0)
        return graphs

    def spoil_before_epoch_2(epochs, description, total):
        for epoch in epochs:
            if epoch == 2:
                run.loaders["train"] = PlannedLoader(spoiled, loader.plan, "float32")
            yield epoch

    (index,) = (i for i, batch in enumerate(loader.plan.batches) if 0 in batch)
    with pytest.raises(DivergedError, match=rf"^epoch 2: batch {index}: loss nan.*optimizer\.lr"):
        train(run, files, spoil_before_epoch_2)
    best = read_model_bundle(files.path("_best.msgpack"))
    assert best.model_card["metrics"]["epoch"] == 1
    header, rows = read_metrics(files.path(".metrics"))
    assert header["status"] == "stopped"
    assert {row["epoch"] for row in rows} == {1}


def test_an_evaluation_that_is_not_finite_is_not_saved(make_config, prepare):
    config = make_config(optimizer={"lr": 1e30}, train={"max_grad_norm": None, "ema_decay": None})
    run, files = prepare(config)
    with pytest.raises(DivergedError, match=r"^epoch 1: .*lower optimizer\.lr"):
        train(run, files, show_nothing)
    assert not files.path("_best.msgpack").exists()
    assert not files.path("_last.msgpack").exists()


def test_evaluations_between_epochs_are_skipped(make_config, prepare):
    config = make_config(optimizer={"max_epochs": 5}, train={"eval_interval": 2})
    run, files = prepare(config)
    train(run, files, show_nothing)
    _, rows = read_metrics(files.path(".metrics"))
    assert [row["epoch"] for row in rows if row["mode"] == "train"] == [1, 2, 3, 4, 5]
    assert [row["epoch"] for row in rows if row["mode"] == "valid"] == [2, 4, 5]


@pytest.mark.parametrize("label", ["energy", "forces"])
def test_a_label_that_is_not_a_number_is_named(make_config, prepare, tmp_path, data, label):
    path = tmp_path / "bad.h5"
    shutil.copy(data["train_path"], path)
    with h5py.File(path, "r+") as file:
        item = file["config_batch_0/config_4/properties"][label]
        bad = np.array(item)
        bad[(0,) * item.ndim] = np.nan
        item[...] = bad
    with pytest.raises(DataError, match=rf"bad\.h5: .*config_4: {label} .*nan"):
        prepare(make_config(datasets={"train_path": str(path)}))


def test_a_term_without_any_label_is_refused(make_config, prepare):
    with pytest.raises(DataError, match=r"stress found in 0 of 12 structures.*stress_weight"):
        prepare(make_config(loss={"stress_weight": 1.0}))


def test_isolated_structures_train(make_config, prepare, tmp_path, data):
    """A dataset with atoms that have no neighbours gives finite gradients."""
    from mace_jax.artifacts.dataset import Dataset, write_dataset_file
    from mace_jax.artifacts.provenance import make_provenance

    with Dataset(data["train_path"]) as dataset:
        structures = list(dataset)[:3]
    labels = {"energy": np.array(-13.6), "forces": np.zeros((1, 3))}
    atom = Structure(
        np.array([1]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool), labels
    )
    path = tmp_path / "atoms.h5"
    write_dataset_file(path, [*structures, atom], make_provenance("mace-jax-preprocess", []))
    config = make_config(
        datasets={"train_path": str(path), "valid_path": None, "test_path": None},
        optimizer={"max_epochs": 2},
    )
    run, files = prepare(config)
    outcome = train(run, files, show_nothing)
    assert np.isfinite(outcome.best_row["loss"])
