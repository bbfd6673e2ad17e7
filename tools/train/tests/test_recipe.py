"""The recipe in a bundle: what it says, and that a run is repeated by it, on the same data only."""

import json
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from mace_jax.artifacts.metrics import read_metrics, without_times
from mace_jax.artifacts.model_bundle import read_model_bundle, write_model_bundle
from mace_jax.artifacts.provenance import file_sha256, make_provenance
from mace_jax.artifacts.recipe import recipe_of, require_recipe
from mace_jax.artifacts.train_config_sections import LogsConfig, TrainSection
from mace_jax.errors import ArtifactError, ConfigError
from mace_jax.inspection.cli import main as inspect
from mace_jax.tracking import track_silently
from mace_jax_train.cli import main
from mace_jax_train.gin_config import load_train_config
from mace_jax_train.recipe import require_files_of_recipes
from mace_jax_train.run_files import default_name

pytestmark = pytest.mark.usefixtures("logging_as_before")

CONFIG = """
datasets.train_path = 'train.xyz'
datasets.valid_path = ['valid.h5']
datasets.E0s = 'e0s.json'
datasets.n_edge = 20
model.r_max = 3.0
model.num_bessel = 3
model.max_ell = 0
model.num_interactions = 1
model.hidden_irreps = '4x0e'
model.correlation = 2
model.radial_MLP = (8,)
optimizer.max_epochs = 2
"""
CIRCUMSTANCES = ["--name", "one", "--log-dir", "run", "--checkpoint-every", "1", "--device", "cpu"]


def command(*arguments) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments), "--quiet", "--launcher", "none"])
    assert stopped.value.code == 0


def refused(capsys, code, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments), "--quiet"])
    assert stopped.value.code == code
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def original(tmp_path_factory, train_xyz, data) -> Path:
    """The folder of a run that has ended."""
    folder = tmp_path_factory.mktemp("original")
    shutil.copy(train_xyz, folder / "train.xyz")
    shutil.copy(data["valid_path"], folder / "valid.h5")
    (folder / "e0s.json").write_text('{"1": -13.6, "6": -1029.0, "8": -2041.8}')
    (folder / "one.gin").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command("one.gin", *CIRCUMSTANCES)
    return folder


@pytest.fixture
def bundle(original) -> Path:
    return original / "run" / "one_best.msgpack"


@pytest.fixture
def elsewhere(original, tmp_path, monkeypatch) -> Path:
    """Another folder with the same data, and without what was only read for its numbers."""
    for name in ("train.xyz", "valid.h5"):
        shutil.copy(original / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(folder: Path, name: str):
    parameters = [
        {path: array.tobytes() for path, array in read_model_bundle(found).parameters.items()}
        for found in (folder / f"{name}_best.msgpack", folder / f"{name}_last.msgpack")
    ]
    return parameters, [without_times(row) for row in read_metrics(folder / f"{name}.metrics")[1]]


def test_a_repeated_run_ends_with_the_same_bytes(original, bundle, elsewhere):
    command("--like", bundle, "--log-dir", "again")
    assert results(elsewhere / "again", "one") == results(original / "run", "one")
    repeated = require_recipe(read_model_bundle(elsewhere / "again" / "one_best.msgpack"), bundle)
    assert repeated.config == require_recipe(read_model_bundle(bundle), bundle).config


def test_what_a_recipe_says(original, bundle):
    recipe = require_recipe(read_model_bundle(bundle), bundle)
    assert {
        option: [(file.path, file.sha256) for file in files]
        for option, files in recipe.files.items()
    } == {
        f"datasets.{name}_path": [(path, file_sha256(original / path))]
        for name, path in (("train", "train.xyz"), ("valid", "valid.h5"))
    }
    assert recipe.n_structures == {"train": 12, "valid": 5}
    assert (recipe.atomic_energies, recipe.n_devices) == ("file e0s.json", 1)
    assert recipe.config.datasets.E0s == "{1: -13.6, 8: -2041.8}"
    assert (recipe.config.optimizer.max_epochs, recipe.config.model.r_max) == (2, 3.0)


def test_what_cannot_change_results_is_no_part_of_it(bundle):
    config = require_recipe(read_model_bundle(bundle), bundle).config
    assert config.logs == LogsConfig()
    assert config.train.checkpoint_every == TrainSection.checkpoint_every
    assert config.flags.device == "auto"


def test_flags_change_a_recipe(bundle):
    recipe = require_recipe(read_model_bundle(bundle), bundle)
    assert load_train_config([bundle], [], {}) == recipe.config
    found = load_train_config([bundle], ["optimizer.lr = 0.5"], {"flags": {"seed": 7}})
    assert found == replace(
        recipe.config,
        flags=replace(recipe.config.flags, seed=7),
        optimizer=replace(recipe.config.optimizer, lr=0.5),
    )


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_changed_data_are_refused_by_name(bundle, elsewhere, capsys, dry):
    path = elsewhere / "train.xyz"
    path.write_text(path.read_text().replace("0.1", "0.2", 1))
    error = refused(capsys, 1, "--like", bundle, *dry)
    digest = file_sha256(path)[:12]
    assert f"datasets.train_path: train.xyz: found sha256 {digest}…, expected sha256 " in error
    assert "valid" not in error
    assert sorted(file.name for file in elsewhere.iterdir()) == ["train.xyz", "valid.h5"]


def test_data_that_are_given_anew_are_not_compared(bundle, elsewhere, capsys):
    (elsewhere / "train.xyz").rename(elsewhere / "moved.xyz")
    error = refused(capsys, 1, "--like", bundle)
    assert "datasets.train_path: train.xyz: cannot be read (No such file or directory)" in error
    config = load_train_config([bundle], [], {"datasets": {"train_path": "moved.xyz"}})
    require_files_of_recipes(config, [bundle], track_silently)


def changed(bundle, tmp_path, **recipe) -> Path:
    """Write the bundle with another recipe."""
    found = read_model_bundle(bundle)
    card = {**found.model_card, "recipe": {**found.model_card["recipe"], **recipe}}
    path = tmp_path / "changed.msgpack"
    write_model_bundle(path, replace(found, model_card=card), make_provenance("mace-jax-train", []))
    return path


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_another_number_of_devices_would_be_another_run(bundle, elsewhere, capsys, dry):
    path = changed(bundle, elsewhere, n_devices=2)
    before = sorted(elsewhere.iterdir())
    error = refused(capsys, 1, "--like", path, "--log-dir", "again", *dry)
    assert f"{path}: 2 devices trained it together, found 1, whose steps would be others" in error
    assert sorted(elsewhere.iterdir()) == before


def test_other_versions_are_said(bundle, elsewhere, capsys):
    with_ = require_recipe(read_model_bundle(bundle), bundle).computed_with
    assert with_ == {
        **{name: version(name) for name in ("mace-jax-train", "jax", "jaxlib", "optax")},
        "device": "cpu",
    }
    path = changed(bundle, elsewhere, computed_with={**with_, "jax": "0.1", "device": "gpu"})
    command("--like", path, "--dry-run")
    said = capsys.readouterr().err
    assert f"{path}: was trained with jax 0.1, now {version('jax')}: the last digits" in said
    assert "was trained with device gpu, now cpu" in said
    assert said.count("was trained with") == 2


def test_the_run_itself_is_not_replaced(original, bundle, capsys, monkeypatch):
    monkeypatch.chdir(original)
    assert "is read as configuration and would be replaced" in refused(
        capsys, 2, "--like", bundle, "--log-dir", "run", "--force"
    )


def test_a_bundle_without_a_recipe(bundle, tmp_path, capsys):
    path = tmp_path / "old.msgpack"
    found = replace(read_model_bundle(bundle), model_card={"metrics": {"loss": 1.0}})
    write_model_bundle(path, found, make_provenance("mace-jax-train", []))
    assert recipe_of(found, path) is None
    with pytest.raises(ConfigError, match=r"old\.msgpack: has no recipe"):
        require_recipe(found, path)
    assert "old.msgpack: has no recipe" in refused(capsys, 2, "--like", path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": {"datasets.train_path": [{"path": 3}]}}, r"model_card/recipe: Expected `str`"),
        ({"n_structures": None}, "model_card/recipe: Expected `object`, got `null`"),
        ({"config": {}}, "model_card/recipe/config: has no schema tag"),
    ],
)
def test_a_damaged_recipe(bundle, change, message):
    found = read_model_bundle(bundle)
    card = {**found.model_card, "recipe": {**found.model_card["recipe"], **change}}
    with pytest.raises(ArtifactError, match=message):
        require_recipe(replace(found, model_card=card), bundle)


def test_inspect_shows_it(bundle, capsys):
    with pytest.raises(SystemExit):
        inspect([str(bundle), "--json"])
    (file,) = json.loads(capsys.readouterr().out)["summary"]["files"]
    summary = file["summary"]
    assert summary["structures"] == {"train": 12, "valid": 5}
    assert summary["E0s from"] == "file e0s.json"
    assert (summary["devices"], summary["computed with"]["device"]) == (1, "cpu")
    assert summary["trained with"]["epochs"] == 2
    assert list(summary["recipe's files"]) == ["datasets.train_path", "datasets.valid_path"]


@pytest.mark.parametrize(
    ("configs", "name"),
    [
        ([], "run"),
        (["a/one.gin", "b.gin"], "one"),
        (["one.config.json"], "one"),
        (["run/one_best.msgpack"], "one"),
        (["one_last.msgpack", "b.gin"], "one"),
        (["model.msgpack"], "model"),
    ],
)
def test_the_name_of_a_run_that_is_given_none(configs, name):
    assert default_name([Path(path) for path in configs]) == name


HEADS = {
    "a": {"train_file": "train.xyz", "valid_file": "valid.h5", "E0s": "e0s.json"},
    "b": {"train_file": "train.xyz", "valid_file": "valid.h5", "E0s": "{1: -10.0, 8: -2000.0}"},
}


def test_heads_have_a_recipe_too(original, tmp_path, monkeypatch, capsys):
    for name in ("train.xyz", "valid.h5", "e0s.json", "one.gin"):
        shutil.copy(original / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    none = [f"--{split}-path=None" for split in ("train", "valid")]
    command("one.gin", *none, "--heads", HEADS, *CIRCUMSTANCES)
    bundle = Path("run/one_best.msgpack")
    recipe = require_recipe(read_model_bundle(bundle), bundle)
    assert [file.path for file in recipe.files["datasets.train_path"]] == ["train.xyz"] * 2
    assert recipe.config.datasets.heads[0].E0s == "{1: -13.6, 8: -2041.8}"
    assert recipe.atomic_energies.startswith("a: ")
    Path("e0s.json").unlink()  # its numbers are in the bundle
    command("--like", bundle, "--log-dir", "again")
    assert results(Path("again"), "one") == results(Path("run"), "one")
    Path("train.xyz").write_text(Path("train.xyz").read_text().replace("0.1", "0.2", 1))
    assert "datasets.train_path: train.xyz: found" in refused(capsys, 1, "--like", bundle)
