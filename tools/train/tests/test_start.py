"""What a fresh run is made of: scale and shift, models of dipoles, labels and heads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mace_jax.artifacts.dataset import Dataset, write_dataset_file
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.artifacts.train_config_sections import DatasetsConfig
from mace_jax.errors import ConfigError, DataError
from mace_jax.model.mace import DipoleMACE
from mace_jax.structures.structure import Structure
from mace_jax_train.inputs import label_keys

E0 = {1: -13.6, 8: -2041.8}
DIPOLES = {"num_interactions": 2, "hidden_irreps": "4x0e + 4x1o", "max_ell": 1}


@pytest.fixture
def train_path(data, tmp_path):
    """Return a function that writes the training data after a change of every structure."""

    def write(change) -> str:
        with Dataset(Path(data["train_path"])) as dataset:
            changed = [change(index, structure) for index, structure in enumerate(dataset)]
        path = tmp_path / "changed.h5"
        write_dataset_file(path, changed, make_provenance("mace-jax-preprocess", []))
        return str(path)

    return write


def with_dipole(index: int, structure: Structure) -> Structure:
    dipole = np.array([0.1 * index, -0.2, 0.3])
    return replace(structure, properties={**structure.properties, "dipole": dipole})


def only_dipole(index: int, structure: Structure) -> Structure:
    return replace(structure, properties={"dipole": np.array([0.1 * index, -0.2, 0.3])})


@pytest.mark.parametrize("model", ["MACE", "ScaleShiftMACE"])
@pytest.mark.parametrize("scaling", ["rms_forces_scaling", "std_scaling", "no_scaling"])
def test_scale_and_shift(make_config, prepare, data, model, scaling):
    run, _ = prepare(make_config(model={"model": model, "scaling": scaling}))
    with Dataset(Path(data["train_path"])) as dataset:
        structures = list(dataset)
    per_atom = [
        (s.properties["energy"] - sum(E0[int(z)] for z in s.atomic_numbers)) / len(s)
        for s in structures
    ]
    forces = np.concatenate([s.properties["forces"].ravel() for s in structures])
    scale = {
        "rms_forces_scaling": np.sqrt(np.mean(forces**2)),
        "std_scaling": np.std(per_atom, ddof=1),
        "no_scaling": 1.0,
    }[scaling]
    shift = np.mean(per_atom) if model == "ScaleShiftMACE" and scaling != "no_scaling" else 0.0
    assert run.bundle.scale["Default"] == pytest.approx(scale, rel=1e-9)
    assert run.bundle.shift["Default"] == pytest.approx(shift, rel=1e-9)
    assert (run.model.scale, run.model.shift) == (
        tuple(run.bundle.scale.values()),
        tuple(run.bundle.shift.values()),
    )


def test_a_model_of_dipoles_needs_no_energies(make_config, prepare, train_path):
    config = make_config(
        datasets={
            "train_path": train_path(only_dipole),
            "valid_path": None,
            "test_path": None,
            "E0s": None,
        },
        model={**DIPOLES, "model": "AtomicDipolesMACE"},
        loss={"loss_cls": "dipole"},
    )
    run, files = prepare(config)
    assert isinstance(run.model, DipoleMACE)
    assert (run.bundle.atomic_energies, run.bundle.scale, run.bundle.shift) == ({}, {}, {})
    assert run.bundle.config.avg_num_neighbors > 1
    assert not files.path(".statistics.json").exists()


def test_energies_and_dipoles(make_config, prepare, train_path, caplog):
    config = make_config(
        datasets={"train_path": train_path(with_dipole), "valid_path": None, "test_path": None},
        model={**DIPOLES, "model": "EnergyDipolesMACE"},
        loss={"loss_cls": "energy_forces_dipole"},
    )
    run, _ = prepare(config)
    assert isinstance(run.model, DipoleMACE)
    assert run.bundle.atomic_energies == {"Default": E0}
    assert (run.bundle.scale, run.bundle.shift) == ({"Default": 1.0}, {"Default": 0.0})
    assert "charges: given by 0 of 12 structures; 0 is assumed for the others" in caplog.text
    (_, batch), *_ = run.loaders["train"].in_order()
    assert set(batch.inputs) == {"charges"}


@pytest.mark.parametrize(
    ("sections", "found"),
    [
        ({"loss": {"loss_cls": "virials"}}, r"virials found in 0 .* loss\.virials_weight is 1\.0"),
        (
            {
                "loss": {"loss_cls": "weighted"},
                "train": {"swa_config": {"loss": {"loss_cls": "stress"}}},
            },
            r"stress found in 0 .* train\.swa_config\.loss\.stress_weight is 10\.0",
        ),
    ],
)
def test_a_term_of_either_stage_without_labels(make_config, prepare, sections, found):
    with pytest.raises(DataError, match=found):
        prepare(make_config(**sections))


def test_more_batches_for_an_update_than_an_epoch_has(make_config, prepare):
    run, _ = prepare(make_config(optimizer={"accumulate": 4}))
    assert run.n_steps == 4
    message = r"^optimizer\.accumulate = 5, but an epoch has only 4 steps"
    with pytest.raises(ConfigError, match=message):
        prepare(make_config(optimizer={"accumulate": 5}))


def test_labels_are_counted_in_each_split(make_config, prepare, train_path):
    def change(index, structure):
        return with_dipole(index, structure) if index < 3 else structure

    run, _ = prepare(make_config(datasets={"train_path": train_path(change)}))
    assert run.labels["train"] == {"energy": 12, "forces": 12, "dipole": 3}
    assert run.labels["valid"] == {"energy": 5, "forces": 5}


def test_an_impossible_network_is_said_before_data_are_read(make_config, prepare):
    config = make_config(
        model={"hidden_irreps": "4x0e + 8x1o"}, datasets={"train_path": "absent.h5"}
    )
    with pytest.raises(ConfigError, match=r"^hidden_irreps: "):
        prepare(config)


def test_training_data_of_one_head_of_any_name(make_config, prepare, train_path):
    path = train_path(lambda _, s: replace(s, head="pbe"))
    run, _ = prepare(make_config(datasets={"train_path": path}))
    assert run.bundle.atomic_energies == {"Default": E0}


def test_e0s_of_isolated_atoms(make_config, prepare, train_xyz, tmp_path):
    atoms = {"H": -13.5, "O": -2041.5}
    text = "".join(
        f'1\nProperties=species:S:1:pos:R:3 pbc="F F F" config_type=IsolatedAtom REF_energy={e}\n'
        f"{name} 0 0 0\n"
        for name, e in atoms.items()
    )
    path = tmp_path / "with_atoms.xyz"
    path.write_text(Path(train_xyz).read_text() + text)
    run, _ = prepare(make_config(datasets={"train_path": str(path), "E0s": "isolated_atom"}))
    assert run.bundle.atomic_energies == {"Default": {1: -13.5, 8: -2041.5}}
    assert run.loaders["train"].plan.n_structures == 12


def test_every_key_of_the_configuration_is_looked_under():
    names = ("energy", "forces", "stress", "virials", "dipole", "polarizability", "charges")
    given = {f"{name}_key": f"my_{name}" for name in names}
    keys = label_keys(DatasetsConfig("train.xyz", head_key="my_head", **given))
    assert keys.given == {name: f"my_{name}" for name in names}
    assert keys.head == "my_head"
    assert label_keys(DatasetsConfig("train.xyz")).head == "head"


def test_labels_under_other_keys_are_read(make_config, prepare, train_xyz, tmp_path):
    path = tmp_path / "keys.xyz"
    text = Path(train_xyz).read_text().replace("REF_forces", "f")
    path.write_text(text.replace("REF_energy=", 'mu="0.1 0.2 0.3" e='))
    datasets = {"train_path": str(path), "energy_key": "e", "forces_key": "f", "dipole_key": "mu"}
    run, _ = prepare(make_config(datasets=datasets))
    (first, *_) = run.loaders["train"].graphs([0])
    assert first.structure.properties["dipole"].tolist() == [0.1, 0.2, 0.3]
    assert first.structure.properties.keys() == {"energy", "forces", "dipole"}
