"""Every kind of mace-torch model through files both ways; nox sessions ``torch``, ``torch_cue``."""

import os
from dataclasses import replace

import numpy as np
import pytest

from mace_jax.artifacts.predictions import Predictions
from mace_jax.errors import ArtifactError
from mace_jax.torch_models.from_torch import convert_torch_model
from mace_jax_convert.to_torch import mace_torch_talks_less, write_torch_model

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("MACE_JAX_LIVE_TORCH"), reason="needs mace-torch; run `nox -s torch`"
    ),
    pytest.mark.filterwarnings("ignore"),
]

# What mace-torch cannot make, or cannot evaluate once it is made.
IMPOSSIBLE = {
    "atomic_dipoles_full_mlp",
    "charge_spin_readout_heads_mace",
    "config_gaussian",
    "cue_ir_mul_full_correlation_1",
    "cue_ir_mul_full_correlation_4",
    "cue_ir_mul_full_mace",
    "cue_mul_ir_full_correlation_1",
    "cue_mul_ir_full_correlation_4",
    "cue_mul_ir_full_mace",
    "ell_0",
    "ell_0_correlation_1",
    "full_with_cue_ell_0",
    "general_bias_readout",
    "json_gaussian",
    "linear_readout",
    "mlp_odd",
    "no_scalars",
    "polar",
    "pseudo_nonlinear",
    "repeated_irrep",
    "unequal_channels",
}
# The couplings in their files are rounded from, or to, another dtype than the model's.
ROUNDED = {"float32_to_float64", "float64_to_float32"}
NOT_EVALUATED = {"last_readout_only_layers_1", "two_heads_e0_1d", "two_heads_scale_scalar"}
REFUSED = {
    "bare_state_dict": "without a model's configuration is not supported yet",
    "class_les": "MACELES: latent Ewald summation is not supported yet",
    "class_polar": "PolarMACE: field blocks are not supported yet",
    "config_mace": "a configuration that says 'Model is not a ScaleShiftMACE",
    "dielectric_mlp_unsorted": "MLP_irreps: 3x0e + 3x2e + 3x1o, expected only irreps of",
    "dielectric_no_polarizability": "use_polarizability=False is not supported yet",
    "energy_dipoles_mlp_unsorted": "MLP_irreps: 3x1o + 3x0e, expected only irreps of",
    "json_mace": "a configuration that says 'Model is not a ScaleShiftMACE",
    "lora": "a LoRA that is not merged into the weights is not supported yet",
    "lora_nonlinear": "a LoRA that is not merged into the weights is not supported yet",
    "torchscript": "a TorchScript archive, expected one of torch.save",
    "torchscript_heads_zbl": "a TorchScript archive, expected one of torch.save",
    "torchscript_mace": "a TorchScript archive, expected one of torch.save",
    "training_checkpoint": "without a model's configuration is not supported yet",
}


@pytest.fixture
def made(variant, torch_models, tmp_path):
    """The variant's model, and the file that mace-torch writes of it."""
    path = tmp_path / "made.model"
    try:
        with mace_torch_talks_less():
            model = torch_models.build(variant)
            torch_models.save(model, torch_models.settings_of(variant).get("form", "model"), path)
    except Exception as error:
        if variant in IMPOSSIBLE:
            pytest.skip(f"impossible in mace-torch: {error}")
        raise
    assert variant not in IMPOSSIBLE
    return model, path


def assert_same(one, other):
    assert (one.config, one.heads, one.dtype) == (other.config, other.heads, other.dtype)
    assert one.atomic_energies == other.atomic_energies
    assert (one.scale, one.shift) == (other.scale, other.shift)
    assert one.parameters.keys() == other.parameters.keys()
    for path, array in one.parameters.items():
        assert array.dtype == other.parameters[path].dtype
        np.testing.assert_array_equal(array, other.parameters[path], err_msg=path)


def test_there_and_back(
    variant, made, torch_models, make_references, structures_of, evaluate, assert_agree, tmp_path
):
    import torch

    model, path = made
    if variant in REFUSED:
        with pytest.raises(ArtifactError) as caught:
            convert_torch_model(path)
        assert REFUSED[variant] in str(caught.value)
        return
    bundle = convert_torch_model(path)
    back = tmp_path / "back.model"
    write_torch_model(back, bundle)
    assert_same(convert_torch_model(back), bundle)
    if variant in NOT_EVALUATED:
        return

    with mace_torch_talks_less():
        expected = make_references.numbers(model)
        returned = make_references.numbers(torch.load(back, weights_only=False))
    assert returned.keys() == expected.keys()
    for quantity, values in expected.items():
        limit = (1e-6 if variant in ROUNDED else 1e-12) * max(1, np.abs(values).max())
        np.testing.assert_allclose(returned[quantity], values, rtol=0, atol=limit, err_msg=quantity)

    inputs = tmp_path / "structures.extxyz"
    torch_models.ase.io.write(inputs, torch_models.structures())
    structures = [
        replace(structure, head=head)
        for head in bundle.heads
        for structure in structures_of(inputs, bundle)
    ]
    assert_agree(
        bundle,
        structures,
        evaluate(bundle, structures),
        Predictions(expected.pop("n_node"), expected),
        was_float32=variant in ROUNDED,
    )
