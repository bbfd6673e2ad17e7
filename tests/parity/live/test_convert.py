"""The commands of the converter beside a live mace-torch; runs in the nox session ``torch``."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from mace_jax.artifacts.model_bundle import (
    EmbeddingSpec,
    ModelBundle,
    ModelConfig,
    read_model_bundle,
    write_model_bundle,
)
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.model.load import build_model, model_parameters
from mace_jax.model.predict import predict
from mace_jax.torch_models.from_torch import convert_torch_model
from mace_jax_convert import cli, cli_to_torch, verify
from mace_jax_convert.evaluate_torch import evaluate_torch
from mace_jax_convert.to_torch import mace_torch_talks_less

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("MACE_JAX_LIVE_TORCH"), reason="needs mace-torch; run `nox -s torch`"
    ),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    """Return a function that runs a command in this process and an own folder."""
    monkeypatch.chdir(tmp_path)

    def main(command, *arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command.main([str(argument) for argument in arguments])
        return stopped.value.code, *capfd.readouterr()

    return main


@pytest.fixture
def write_variant(torch_models, tmp_path):
    """Return a function that writes a model of mace-torch."""

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.model"
        with mace_torch_talks_less():
            torch_models.save(torch_models.build(name), "model", path)
        return path

    return write


# Both commands


def test_verify_and_back(run, write_variant, tmp_path):
    path = write_variant("all_embeddings_readout_heads")
    code, out, err = run(cli, "--torch-model", path, "--verify", "-o", "a.msgpack", "--json")
    assert code == 0, err
    errors = json.loads(out)["summary"]["errors"]
    assert set(errors) == {"energy", "forces", "virials"}
    assert max(errors.values()) < 1e-11
    parity = read_model_bundle(tmp_path / "a.msgpack").parity
    assert parity["reference"].startswith("mace-torch 0.")

    code, out, err = run(cli_to_torch, "a.msgpack", "--verify", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["artifact"] == "a-torch.model"
    assert answer["summary"]["heads"] == ["rough", "fine"]
    assert max(answer["summary"]["errors"].values()) < 1e-11
    back = convert_torch_model(tmp_path / "a-torch.model")
    before = read_model_bundle(tmp_path / "a.msgpack")
    assert (back.config, back.heads) == (before.config, before.heads)
    for name, array in before.parameters.items():
        np.testing.assert_array_equal(back.parameters[name], array)


@pytest.mark.parametrize("name", ["float32_l1", "zbl_float32", "reduced_cg_without_cue"])
def test_verify_is_content_with(run, write_variant, name):
    code, _, err = run(cli, "--torch-model", write_variant(name), "--verify")
    assert code == 0, err


@pytest.mark.parametrize("command", [cli, cli_to_torch])
def test_verify_fails_where_the_numbers_differ(run, write_variant, monkeypatch, tmp_path, command):
    run(cli, "--torch-model", write_variant("base"), "-o", "a.msgpack")
    ours = verify._our_numbers

    def slightly_wrong(*arguments):
        return [{**found, "forces": found["forces"] * (1 + 1e-7)} for found in ours(*arguments)]

    monkeypatch.setattr(verify, "_our_numbers", slightly_wrong)
    source = ["--torch-model", "a.msgpack"] if command is cli else ["a.msgpack"]
    code, out, err = run(command, *source, "--verify", "--output", "b", "--quiet")
    assert (code, out) == (3, "")
    assert "a.msgpack: forces differs from mace-torch" in err.splitlines()[-1]
    assert not (tmp_path / "b").exists()


def test_one_head_and_float32(run, write_variant, torch_models, make_references, tmp_path):
    import torch

    path = write_variant("bias_readout_three_heads_mace")
    run(cli, "--torch-model", path, "-o", "a.msgpack")
    code, _, err = run(cli_to_torch, "a.msgpack", "--head", "fine", "-o", "fine.model")
    assert code == 0, err
    code, _, err = run(cli_to_torch, "a.msgpack", "--dtype", "float32", "-o", "small.model")
    assert code == 0, err
    with mace_torch_talks_less():
        every, alone, small = (
            torch.load(tmp_path / name, weights_only=False)
            for name in (path.name, "fine.model", "small.model")
        )
        inputs = torch_models.structures()
        expected = torch_models.evaluate(every, inputs, "fine", torch.float64)
        found = torch_models.evaluate(alone, inputs, "fine", torch.float64)
        assert alone.heads == ["fine"]
        assert {parameter.dtype for parameter in small.parameters()} == {torch.float32}
        rounded = torch_models.evaluate(small, inputs, "fine", torch.float64)
    for theirs, ours, roughly in zip(expected, found, rounded, strict=True):
        for quantity in ("energy", "forces", "node_energy", "virials"):
            np.testing.assert_allclose(ours[quantity], theirs[quantity], rtol=0, atol=1e-10)
            np.testing.assert_allclose(roughly[quantity], theirs[quantity], rtol=0, atol=1e-3)


def test_the_calculator_of_mace_torch_takes_the_file(run, write_variant, torch_models, tmp_path):
    path = write_variant("base_l1")
    run(cli, "--torch-model", path, "-o", "a.msgpack")
    run(cli_to_torch, "a.msgpack", "-o", "back.model")
    with mace_torch_talks_less():
        from mace.calculators import MACECalculator

        energies = []
        for file in (path, tmp_path / "back.model"):
            atoms = torch_models.structures()[3]
            atoms.calc = MACECalculator(str(file), device="cpu", default_dtype="float64")
            energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[1], rel=1e-13)


# Networks that were made here


def made_here(config: ModelConfig) -> ModelBundle:
    """A bundle of random weights."""
    heads = ("one", "other") if config.model in ("MACE", "ScaleShiftMACE") else ("Default",)
    scaled = config.model == "ScaleShiftMACE"
    scale = {head: 0.8 + 0.1 * scaled * index for index, head in enumerate(heads)}
    scale = scale if scaled else dict.fromkeys(heads, 1.0)
    shift = dict.fromkeys(heads, -0.3 if scaled else 0.0)
    energies = {head: {1: -13.6, 6: -1029.4, 8: -2041.8} for head in heads}
    if config.model in ("AtomicDipolesMACE", "AtomicDielectricMACE"):
        scale = shift = energies = {}
    with jax.enable_x64(True):
        model = build_model(
            config,
            scale=list(scale.values()),
            shift=list(shift.values()),
            dtype="float64",
            rng=np.random.default_rng(3),
        )
        parameters = model_parameters(model)
    return ModelBundle(config, "float64", heads, energies, scale, shift, parameters)


COMMON = ModelConfig(
    model="ScaleShiftMACE",
    r_max=4.0,
    num_bessel=4,
    num_polynomial_cutoff=5,
    max_ell=2,
    num_interactions=2,
    hidden_irreps="4x0e + 4x1o",
    MLP_irreps="3x0e",
    correlation=3,
    radial_MLP=(8,),
    gate="silu",
    interaction_cls="RealAgnosticResidualInteractionBlock",
    interaction_cls_first="RealAgnosticInteractionBlock",
    avg_num_neighbors=3.0,
    atomic_numbers=(1, 6, 8),
)
CONFIGS = {
    "default": COMMON,
    "reduced couplings": replace(COMMON, use_reduced_cg=True),
    "reduced couplings, both parities": replace(
        COMMON, use_reduced_cg=True, hidden_irreps="4x0e + 4x0o + 4x1o + 4x1e", correlation=2
    ),
    "much": replace(
        COMMON,
        model="MACE",
        interaction_cls="RealAgnosticResidualNonLinearInteractionBlock",
        interaction_cls_first="RealAgnosticResidualNonLinearInteractionBlock",
        correlation=(3, 2),
        distance_transform="Agnesi",
        apply_cutoff=False,
        pair_repulsion=True,
        readout_cls="NonLinearBiasReadoutBlock",
        edge_irreps="3x0e + 2x1o",
        embedding_specs=(
            EmbeddingSpec("total_charge", "categorical", "graph", 3, num_classes=9, offset=4),
        ),
    ),
    "density": replace(
        COMMON,
        interaction_cls="RealAgnosticDensityResidualInteractionBlock",
        interaction_cls_first="RealAgnosticDensityInteractionBlock",
        radial_type="gaussian",
        num_interactions=3,
    ),
    "dipoles": replace(COMMON, model="AtomicDipolesMACE", MLP_irreps="3x1o"),
    "energy and dipoles": replace(COMMON, model="EnergyDipolesMACE", MLP_irreps="3x0e + 3x1o"),
    "dielectric": replace(
        COMMON,
        model="AtomicDielectricMACE",
        hidden_irreps="4x0e + 4x1o + 4x2e",
        MLP_irreps="3x0e + 3x1o + 3x2e",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_network_made_here_is_the_same_there(run, tmp_path, name):
    bundle = made_here(CONFIGS[name])
    write_model_bundle(
        tmp_path / "a.msgpack", bundle, make_provenance("mace-jax-train", [], seed=3)
    )
    code, _, err = run(cli_to_torch, "a.msgpack", "-o", "a.model")
    assert code == 0, err
    back = convert_torch_model(tmp_path / "a.model")
    assert back.config == bundle.config
    structures = verify.verification_structures(bundle)
    theirs = evaluate_torch(bundle, structures)
    with jax.enable_x64(True):
        ours = predict(back, "back", structures, n_edge=1)
    for index, expected in enumerate(theirs):
        found = ours.of_structure(index)
        assert expected
        for quantity, values in expected.items():
            limit = 1e-9 * max(1, np.abs(values).max())
            np.testing.assert_allclose(
                found[quantity], values, rtol=0, atol=limit, err_msg=quantity
            )


# A model as large as the released ones


def test_time_and_memory_of_a_large_model(write_variant, tmp_path):
    path = write_variant("mp0_medium")
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "import mace_jax.torch_models.from_torch, mace_jax_convert.source\n"
        "from mace_jax_convert.cli import main\n"
        "def peak():\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    return 1024 * int(re.search(r'VmHWM:\\s*(\\d+) kB', status)[1])\n"
        "before = peak()\n"
        "try:\n"
        "    main(['--torch-model', sys.argv[1], '--json'])\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "loaded = {'torch', 'jax', 'flax', 'e3nn', 'e3nn_jax', 'mace'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "print(peak(), peak() - before)\n"
    )
    start = time.perf_counter()
    command = [sys.executable, "-c", code, path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert time.perf_counter() - start < 10
    peak, added = map(int, done.stdout.splitlines()[-1].split())
    assert peak < 1e9
    assert added < 3 * path.stat().st_size
    bundle = read_model_bundle(tmp_path / "mp0_medium-jax.msgpack")
    assert len(bundle.config.atomic_numbers) == 89
