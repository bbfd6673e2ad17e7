import re
from dataclasses import fields, replace

import numpy as np
import pytest

from mace_jax.artifacts.model_bundle import EmbeddingSpec, ModelConfig
from mace_jax.errors import ArtifactError
from mace_jax.torch_models.from_torch import UnsupportedModelError, convert_torch_model
from mace_jax.torch_models.torch_archive import Global, Record, read_torch_archive

COMMON = ModelConfig(
    model="ScaleShiftMACE",
    r_max=4.0,
    num_bessel=4,
    num_polynomial_cutoff=5,
    max_ell=2,
    num_interactions=2,
    hidden_irreps="4x0e + 4x1o",
    MLP_irreps="3x0e",
    correlation=2,
    radial_MLP=(8, 8),
    gate="silu",
    interaction_cls="RealAgnosticResidualInteractionBlock",
    interaction_cls_first="RealAgnosticResidualInteractionBlock",
    avg_num_neighbors=5.3,
    atomic_numbers=(1, 6, 7, 8, 14, 29),
)
CHARGE = EmbeddingSpec("total_charge", "categorical", "graph", 3, num_classes=11, offset=5)
SPIN = EmbeddingSpec("total_spin", "categorical", "graph", 4, num_classes=6)
TWO_HEADS = ("rough", "fine")


def blocks(later: str, first: str | None = None) -> dict[str, str]:
    return {
        "interaction_cls": f"RealAgnostic{later}InteractionBlock",
        "interaction_cls_first": f"RealAgnostic{later if first is None else first}InteractionBlock",
    }


# Of the stored checkpoints, what differs from COMMON.
CONFIGS = {
    "agnostic_product_mace_plain": {"model": "MACE", "use_agnostic_product": True, **blocks("")},
    "all_embeddings_readout_heads": {
        "use_embedding_readout": True,
        "embedding_specs": (
            EmbeddingSpec("quant_v", "continuous", "atom", 5, in_dim=2, use_bias=False),
            CHARGE,
            EmbeddingSpec("cat", "categorical", "atom", 3, num_classes=3),
            EmbeddingSpec("elec_temp", "continuous", "graph", 3),
            SPIN,
        ),
    },
    "atomic_dipoles": {
        "model": "AtomicDipolesMACE",
        "MLP_irreps": "3x1o",
        **blocks("Residual", ""),
    },
    "attention_then_residual": blocks("Residual", "AttResidual"),
    "bias_readout_three_heads_mace": {
        "model": "MACE",
        "hidden_irreps": "4x0e",
        "readout_cls": "NonLinearBiasReadoutBlock",
    },
    "chebyshev_agnesi": {
        "hidden_irreps": "4x0e",
        "radial_type": "chebyshev",
        "distance_transform": "Agnesi",
    },
    "config_nonlinear": {
        "apply_cutoff": False,
        "edge_irreps": "3x0e + 3x1o",
        **blocks("ResidualNonLinear"),
    },
    "correlation_3_2": {"correlation": (3, 2)},
    "correlation_4_so3": {
        "max_ell": 1,
        "hidden_irreps": "4x0e + 4x1e",
        "correlation": 4,
        "use_so3": True,
    },
    "cue_ir_mul_reduced_l1_correlation_3": {"correlation": 3, "use_reduced_cg": True},
    "cue_mul_ir_full_heads_zbl": {"distance_transform": "Agnesi", "pair_repulsion": True},
    "dielectric": {
        "model": "AtomicDielectricMACE",
        "hidden_irreps": "4x0e + 4x1o + 4x2e",
        "MLP_irreps": "3x0e + 3x1o + 3x2e",
        **blocks("Residual", ""),
    },
    "edge_irreps_first": {
        "hidden_irreps": "8x0e + 8x1o",
        "edge_irreps": "5x0e + 3x1o",
        "use_edge_irreps_first": True,
    },
    "energy_dipoles": {
        "model": "EnergyDipolesMACE",
        "MLP_irreps": "3x0e + 3x1o",
        **blocks("Residual", ""),
    },
    "json_density_heads": blocks("DensityResidual", "Density"),
    "json_embeddings": {
        "hidden_irreps": "4x0e",
        "gate": "tanh",
        "readout_cls": "NonLinearBiasReadoutBlock",
        "use_embedding_readout": True,
        "embedding_specs": (CHARGE, SPIN),
    },
    "keep_last_layer_nonlinear_heads": {
        "keep_last_layer_irreps": True,
        **blocks("ResidualNonLinear"),
    },
    "last_readout_only_mace_heads": {
        "model": "MACE",
        "hidden_irreps": "4x0e",
        "use_last_readout_only": True,
    },
    "layers_1": {  # has no last readout: MLP_irreps and gate say nothing
        "num_interactions": 1,
        "hidden_irreps": "4x0e",
        "MLP_irreps": "16x0e",
        "gate": "None",
    },
    "no_cutoff_density": {
        "distance_transform": "Agnesi",
        "apply_cutoff": False,
        **blocks("DensityResidual", "Density"),
    },
    "old_mace": {"model": "MACE", **blocks("Residual", "")},
    "pseudo": {"hidden_irreps": "4x0e + 4x0o + 4x1o + 4x1e"},
    "r_max_4.5": {"r_max": 4.5, "num_bessel": 6, "hidden_irreps": "4x0e"},
    "radial_mlp_one": {"radial_MLP": (16,), "hidden_irreps": "4x0e"},
    "reduced_l1_correlation_3": {"correlation": 3, "use_reduced_cg": True},
    "soft_l1_gaussian": {"radial_type": "gaussian", "distance_transform": "Soft"},
    "trainable_all_float32": {"distance_transform": "Agnesi", "pair_repulsion": True},
    "trainable_bessel": {"hidden_irreps": "4x0e"},
    "unsorted_elements_l1_zbl": {
        "atomic_numbers": (1, 6, 8),
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
    },
    "zbl_p8_l1": {"num_polynomial_cutoff": 8, "pair_repulsion": True},
}
HEADS = {
    "all_embeddings_readout_heads": TWO_HEADS,
    "bias_readout_three_heads_mace": (*TWO_HEADS, "Default"),
    "cue_mul_ir_full_heads_zbl": TWO_HEADS,
    "json_density_heads": TWO_HEADS,
    "keep_last_layer_nonlinear_heads": TWO_HEADS,
    "last_readout_only_mace_heads": TWO_HEADS,
    "unsorted_elements_l1_zbl": TWO_HEADS,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration(convert, name):
    bundle = convert(name)
    assert bundle.config == replace(COMMON, **CONFIGS[name])
    assert bundle.heads == HEADS.get(name, ("Default",))
    assert bundle.dtype == ("float32" if "float32" in name else "float64")
    assert {str(array.dtype) for array in bundle.parameters.values()} == {bundle.dtype}


def test_the_stored_checkpoints_differ_in_every_setting_but_one():
    varied = {name for changed in CONFIGS.values() for name in changed}
    assert {field.name for field in fields(ModelConfig)} - varied == {"avg_num_neighbors"}


def test_avg_num_neighbors(convert_edited, module_of):
    def edit(model):
        for layer in "01":
            module_of(model, f"interactions.{layer}").state["avg_num_neighbors"] = 61.9

    assert convert_edited(edit).config.avg_num_neighbors == 61.9


# E0s, scale and shift


def test_defect_12_e0_scale_and_shift_of_each_head(convert):
    bundle = convert("unsorted_elements_l1_zbl")
    assert bundle.scale == {"rough": 0.83, "fine": 0.83 + 0.31}
    assert bundle.shift == {"rough": -0.27, "fine": -0.27 + 0.46}
    e0 = {1: -1.31, 6: -5.27, 8: -7.13}
    expected = {"rough": e0, "fine": {z: e * 1.11 + 0.4 for z, e in e0.items()}}
    assert list(bundle.atomic_energies) == list(expected)
    for head, energies in expected.items():
        assert bundle.atomic_energies[head] == pytest.approx(energies, rel=1e-15)


def test_an_unscaled_model_has_scale_1_and_shift_0(convert):
    bundle = convert("bias_readout_three_heads_mace")
    assert set(bundle.scale.values()) == {1.0}
    assert set(bundle.shift.values()) == {0.0}


def test_e0s_of_one_row_are_those_of_the_head(convert):
    assert convert("old_mace").atomic_energies["Default"][14] == -3.38


@pytest.mark.parametrize("name", ["atomic_dipoles", "dielectric"])
def test_a_model_of_dipoles_alone_has_no_energies(convert, name):
    bundle = convert(name)
    assert bundle.atomic_energies == bundle.scale == bundle.shift == {}


def test_elements_are_sorted_with_all_that_belongs_to_them(convert_edited, convert):
    """The file has O, H, C."""
    orders = []

    def note(model):
        orders.append(model.state["_buffers"]["atomic_numbers"].tolist())

    bundle = convert_edited(note, "unsorted_elements_l1_zbl")
    assert orders == [[8, 1, 6]]
    radii = bundle.parameters["pair_repulsion_fn/covalent_radii"]
    np.testing.assert_allclose(radii, [0.31, 0.76, 0.66])  # H, C, O


@pytest.mark.parametrize(
    ("name", "path", "usual"),
    [
        (
            "trainable_bessel",
            "radial_embedding/bessel_fn/bessel_weights",
            np.pi / 4 * np.arange(1, 5),
        ),
        ("trainable_all_float32", "radial_embedding/distance_transform/p", 4.5580),
        ("trainable_all_float32", "pair_repulsion_fn/a_exp", 0.300),
    ],
)
def test_trained_constants_are_kept(convert, name, path, usual):
    found = convert(name).parameters[path]
    ratio = found / usual
    assert np.abs(ratio - 1).max() > 0.01
    assert (abs(ratio - 1) < 0.5).all()


# What is not supported is refused by name


def refusal(convert, *arguments) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        convert(*arguments)
    message = str(caught.value)
    assert re.match(r"/\S+\.model: ", message)
    assert "\n" not in message
    return message.split(": ", 1)[1]


def rename(module_of, path: str, name: str):
    """Return an edit that gives a module another class of the same Python module."""

    def edit(model):
        module = module_of(model, path) if path else model
        module.class_name = f"{module.class_name.rpartition('.')[0]}.{name}"

    return edit


@pytest.mark.parametrize(
    ("path", "name", "message"),
    [
        ("", "PolarMACE", "PolarMACE: field blocks are not supported yet"),
        ("", "MACELES", "MACELES: latent Ewald summation is not supported yet"),
        ("", "LAMMPS_MACE", "LAMMPS_MACE: a LAMMPS wrapper is not supported yet"),
        ("", "BOTNet", "mace.modules.models.BOTNet: this class is not supported yet"),
        (
            "interactions.1",
            "AgnosticBlock",
            "ScaleShiftMACE: interaction block AgnosticBlock is not supported yet",
        ),
        (
            "products.0",
            "OtherProductBlock",
            "ScaleShiftMACE: product basis OtherProductBlock is not supported yet",
        ),
        (
            "radial_embedding.bessel_fn",
            "SineBasis",
            "ScaleShiftMACE: radial basis SineBasis is not supported yet",
        ),
        ("readouts.1", "OwnReadout", "ScaleShiftMACE: readout OwnReadout is not supported yet"),
        (
            "readouts.0",
            "NonLinearReadoutBlock",
            "ScaleShiftMACE: readout NonLinearReadoutBlock of layer 0 is not supported yet",
        ),
    ],
)
def test_other_classes(convert_edited, module_of, path, name, message):
    assert refusal(convert_edited, rename(module_of, path, name)) == message


def test_a_class_of_the_same_name_from_elsewhere(convert_edited):
    def edit(model):
        model.class_name = "elsewhere.ScaleShiftMACE"

    message = "elsewhere.ScaleShiftMACE: this class is not supported yet"
    assert refusal(convert_edited, edit) == message


def test_another_distance_transform(convert_edited, module_of):
    edit = rename(module_of, "radial_embedding.distance_transform", "LogTransform")
    message = "ScaleShiftMACE: distance transform LogTransform is not supported yet"
    assert refusal(convert_edited, edit, "soft_l1_gaussian") == message


def test_another_gate(convert_edited, module_of):
    def edit(model):
        activation = module_of(model, "readouts.1.non_linearity.acts.0")
        activation.state |= {"f": Global("torch.nn.functional.gelu"), "cst": 1.0}

    assert refusal(convert_edited, edit) == "ScaleShiftMACE: gate gelu is not supported yet"


def test_an_activation_of_another_scale(convert_edited, module_of):
    def edit(model):
        module_of(model, "readouts.1.non_linearity.acts.0").state["cst"] = 1.5

    assert "silu scaled by 1.5, not 1.67" in refusal(convert_edited, edit)


def test_a_module_of_someone_s_own(convert_edited, module_of):
    def edit(model):
        module_of(model, "interactions.0.linear").class_name = "my_layers.Linear"

    message = "ScaleShiftMACE: module my_layers.Linear is not supported yet"
    assert refusal(convert_edited, edit) == message


def test_lora(convert_edited, module_of):
    def edit(model):
        module_of(model, "interactions.0.linear").state["_parameters"]["lora_A"] = np.ones((2, 2))

    message = "ScaleShiftMACE: a LoRA that is not merged into the weights is not supported yet"
    assert refusal(convert_edited, edit) == message


def test_layers_of_different_avg_num_neighbors(convert_edited, module_of):
    def edit(model):
        module_of(model, "interactions.0").state["avg_num_neighbors"] = 5.4

    message = "ScaleShiftMACE: an avg_num_neighbors that differs between layers is not supported"
    assert message in refusal(convert_edited, edit)


def test_an_additional_tensor(convert_edited, module_of):
    def edit(model):
        module_of(model, "readouts.0").state["_parameters"]["temperature"] = np.ones(3)

    message = "ScaleShiftMACE: tensor readouts.0.temperature is not supported yet"
    assert refusal(convert_edited, edit) == message


def test_another_dtype(convert_edited):
    def edit(model):
        change_tensors(model, lambda array: array.astype("f2") if array.dtype == "f8" else array)

    message = "ScaleShiftMACE: weights of dtype float16 are not supported yet"
    assert refusal(convert_edited, edit) == message


def test_mixed_dtypes(convert_edited, module_of):
    def edit(model):
        change_weight(module_of, model, lambda array: array.astype(np.float32))

    message = "ScaleShiftMACE: weights of dtype float32 and float64 are not supported yet"
    assert refusal(convert_edited, edit) == message


def change_tensors(module: Record, change) -> None:
    for name in ("_parameters", "_buffers"):
        tensors = module.state.get(name) or {}
        for key, array in tensors.items():
            if isinstance(array, np.ndarray):
                tensors[key] = change(array)
    for child in (module.state.get("_modules") or {}).values():
        if isinstance(child, Record):
            change_tensors(child, change)


def change_weight(module_of, model, change) -> None:
    parameters = module_of(model, "interactions.1.linear").state["_parameters"]
    parameters["weight"] = change(parameters["weight"])


# A file of tensors


@pytest.mark.parametrize("name", ["config_nonlinear", "json_density_heads"])
def test_configuration_and_tensors_under_other_names(convert_edited, convert, name):
    def edit(content):
        content["model_state_dict"] = content.pop("state_dict")
        content["model_config"] = content.pop("config")

    renamed, plain = convert_edited(edit, name), convert(name)
    assert renamed.config == plain.config
    assert renamed.parameters.keys() == plain.parameters.keys()


def test_a_bare_state_dict(convert_edited):
    def edit(content):
        tensors = content.pop("state_dict")
        content.clear()
        content.update(tensors)

    message = refusal(convert_edited, edit, "config_nonlinear")
    assert "without a model's configuration" in message


def test_a_training_checkpoint(convert_edited):
    def edit(content):
        content["model"] = content.pop("state_dict")
        content["optimizer"], content["lr_scheduler"] = {}, {}
        del content["config"]

    message = refusal(convert_edited, edit, "config_nonlinear")
    assert message == (
        "the file: a dictionary of ['lr_scheduler', 'model', 'optimizer'] without a model's "
        "configuration is not supported yet"
    )


def test_a_dictionary_that_holds_a_whole_model(convert_edited, convert, write_stored):
    model = read_torch_archive(write_stored("correlation_3_2"))

    def edit(content):
        content.clear()
        content.update(epoch=7, model=model)

    assert convert_edited(edit, "config_nonlinear").config == convert("correlation_3_2").config


def test_a_configuration_that_mace_torch_could_not_make(convert_edited):
    def edit(content):
        content["config"] = {"error": "Model is not a ScaleShiftMACE model"}

    message = refusal(convert_edited, edit, "config_nonlinear")
    assert "a configuration that says 'Model is not a ScaleShiftMACE model'" in message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("interaction_cls", "<class 'mace.modules.blocks.Other'>", "interaction block Other is"),
        ("gate", "<function gelu at 0x7f>", "gate gelu is"),
    ],
)
def test_an_unknown_part_in_a_configuration(convert_edited, name, value, message):
    def edit(content):
        content["config"][name] = value

    found = refusal(convert_edited, edit, "json_density_heads")
    assert found == f"ScaleShiftMACE: {message} not supported yet"


@pytest.mark.parametrize(
    "name", ["num_bessel", "hidden_irreps", "num_interactions", "interaction_cls"]
)
def test_an_incomplete_configuration(convert_edited, name):
    def edit(content):
        del content["config"][name]

    with pytest.raises(ArtifactError, match=name):
        convert_edited(edit, "config_nonlinear")


def test_cuequivariance_s_tensors_without_its_modules(convert_edited):
    """The couplings are in the modules."""

    def edit(content):
        tensors = content["state_dict"]
        for name in [name for name in tensors if ".contractions." in name]:
            del tensors[name]
        for layer in "01":
            tensors[f"products.{layer}.symmetric_contractions.weight"] = np.ones((6, 20, 4))

    assert "cuequivariance" in refusal(convert_edited, edit, "config_nonlinear")


# Damaged files


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(convert_edited, module_of, value):
    def edit(model):
        change_weight(module_of, model, lambda array: np.where(array == array.max(), value, array))

    with pytest.raises(ArtifactError, match=r"interactions\.1\.linear\.weight holds a number"):
        convert_edited(edit)


def test_a_weight_of_another_size(convert_edited, module_of):
    def edit(model):
        change_weight(module_of, model, lambda array: array[:-1])

    with pytest.raises(ArtifactError, match=r"interactions\.1\.linear\.weight: \d+ numbers, expec"):
        convert_edited(edit)


@pytest.mark.parametrize("numbers", [[1, 6, 7, 8, 14, 14], [1, 6, 7, 8, 14]])
def test_wrong_elements(convert_edited, numbers):
    def edit(model):
        model.state["_buffers"]["atomic_numbers"] = np.array(numbers)

    with pytest.raises(ArtifactError):
        convert_edited(edit)


@pytest.mark.parametrize(
    "path",
    [
        "interactions.0.linear_up",
        "interactions.1.conv_tp_weights.layer2",
        "products",
        "products.0.symmetric_contractions.contractions.0",
        "radial_embedding.bessel_fn",
        "readouts.1.linear_2",
        "spherical_harmonics",
        "scale_shift",
        "atomic_energies_fn",
    ],
)
def test_a_model_that_lacks_a_part_is_damaged(convert_edited, module_of, path):
    def edit(model):
        owner, _, name = path.rpartition(".")
        del (module_of(model, owner) if owner else model).state["_modules"][name]

    with pytest.raises(ArtifactError) as caught:
        convert_edited(edit)
    assert "\n" not in str(caught.value)


# Couplings


def change_couplings(module_of, model, change, layer: int = 0) -> None:
    path = f"products.{layer}.symmetric_contractions.contractions.0"
    buffers = module_of(model, path).state["_buffers"]
    name = "U_matrix_2"
    buffers[name] = change(buffers[name])


@pytest.mark.parametrize("name", ["correlation_3_2", "reduced_l1_correlation_3"])
def test_edited_couplings_are_refused(convert_edited, module_of, name):
    """Such a tensor is not symmetric, and no basis has it."""

    def change(couplings):
        couplings = couplings.copy()
        couplings[0, 1] += 0.01
        return couplings

    def edit(model):
        change_couplings(module_of, model, change)

    message = refusal(convert_edited, edit, name)
    assert message.endswith("U_matrix_2: this basis of couplings is not supported yet")


def test_symmetric_couplings_are_kept_as_they_are(convert_edited, module_of, convert):
    """Only mace-torch's full basis is computed anew; any other goes along with the model."""

    def edit(model):
        change_couplings(module_of, model, lambda couplings: 2 * couplings)

    name = "reduced_l1_correlation_3"
    found, plain = convert_edited(edit, name).parameters, convert(name).parameters
    changed = [path for path in plain if not np.array_equal(found[path], plain[path])]
    assert changed == ["products/0/symmetric_contractions/couplings/0e/2"]
    np.testing.assert_array_equal(found[changed[0]], 2 * plain[changed[0]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounded_couplings_are_those_of_the_full_basis(convert_edited, dtype):
    def edit(model):
        change_tensors(
            model,
            lambda array: array.astype(np.float32).astype(dtype) if array.dtype == "f8" else array,
        )

    assert not convert_edited(edit).config.use_reduced_cg


def test_the_full_basis_is_not_stored(convert):
    assert not any("couplings" in path for path in convert("correlation_3_2").parameters)
    reduced = convert("reduced_l1_correlation_3").parameters
    assert any("couplings" in path for path in reduced)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(ArtifactError, match=r"no\.pt: cannot be read"):
        convert_torch_model(tmp_path / "no.pt")
