import re

import numpy as np
import pytest

from mace_jax.errors import ArtifactError
from mace_jax_convert.from_torch import UnsupportedModelError, convert_torch_model

TRUE = b"\x88"


def name(text: str) -> bytes:
    """A string of the pickle."""
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def test_configuration_and_scalars(checkpoint):
    bundle = convert_torch_model(checkpoint)
    config = bundle.config
    assert (config.model, config.r_max, config.num_bessel) == ("ScaleShiftMACE", 4.0, 5)
    assert (config.max_ell, config.num_interactions, config.correlation) == (2, 2, 3)
    assert (config.hidden_irreps, config.MLP_irreps) == ("4x0e + 4x1o", "6x0e")
    assert (config.radial_MLP, config.gate) == ((16, 16), "silu")
    assert (config.atomic_numbers, config.avg_num_neighbors) == ((1, 6, 8), 1.3)
    assert (bundle.dtype, bundle.heads) == ("float64", ("Default",))
    assert bundle.atomic_energies == {"Default": {1: -13.587, 6: -1029.433, 8: -2041.839}}
    assert (bundle.scale, bundle.shift) == ({"Default": 0.83}, {"Default": -0.27})


def refusal(path) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        convert_torch_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith("is not supported yet")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (b"models\nScaleShiftMACE\n", b"models\nAtomicDipolesMACE\n", "AtomicDipolesMACE"),
        (b"models\nScaleShiftMACE\n", b"other\nScaleShiftMACE\n", "mace.modules.other.Scale"),
        (
            b"blocks\nRealAgnosticResidualInteractionBlock\n",
            b"blocks\nRealAgnosticDensityInteractionBlock\n",
            "interaction block RealAgnosticDensityInteractionBlock",
        ),
        (b"radial\nBesselBasis\n", b"radial\nGaussianBasis\n", "radial basis GaussianBasis"),
        (b"\nNonLinearReadoutBlock\n", b"\nNonLinearBiasReadoutBlock\n", "NonLinearBiasReadout"),
        (b"functional\nsilu\n", b"functional\ngelu\n", "gate torch.nn.functional.gelu"),
        (name("scale_shift"), name("pair_repulsion_fn"), "pair_repulsion_fn"),
        (name("scale_shift"), name("joint_embedding"), "joint_embedding"),
        (name("scale_shift"), name("embedding_readout"), "embedding_readout"),
        (name("cutoff_fn"), name("distance_transform"), "PolynomialCutoff"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_parts_are_refused_by_name(edited, old, new, named):
    assert named in refusal(edited(old, new))


@pytest.mark.parametrize(
    ("attribute", "value", "found"),
    [
        ("use_reduced_cg", TRUE, "use_reduced_cg=True"),
        ("use_so3", TRUE, "use_so3=True"),
        ("use_last_readout_only", TRUE, "use_last_readout_only=True"),
    ],
)
def test_other_settings_are_refused_by_name(entries, edited, attribute, value, found):
    pickled = entries["archive/data.pkl"]
    (old,) = re.findall(re.escape(name(attribute)) + rb"(?s:r.{4})[\x88\x89]", pickled)
    assert found in refusal(edited(old, old[:-1] + value))


def test_a_state_dict_is_refused(write_pickle):
    path = write_pickle(b"\x80\x02}X\x01\x00\x00\x00aI1\ns.")
    assert "a file that holds a dict instead of a model" in refusal(path)


@pytest.mark.parametrize(
    "part", ["atomic_numbers", "linear_up", "products", "r_max", "weights_max"]
)
def test_a_model_that_lacks_a_part_is_damaged(edited, part):
    path = edited(name(part), name("x" * len(part)))
    with pytest.raises(ArtifactError, match=part) as caught:
        convert_torch_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def with_storage(entries, old: np.ndarray, new: np.ndarray):
    """Replace the storages that hold exactly the numbers ``old``."""
    found = [key for key, content in entries.items() if content == old.tobytes()]
    assert found
    return {**entries, **dict.fromkeys(found, new.astype(old.dtype).tobytes())}


def test_unordered_elements_are_refused_or_sorted(entries, write_entries):
    """Species are looked up in ascending order, so any other order would mix up the elements."""
    path = write_entries(with_storage(entries, np.array([1, 6, 8]), np.array([8, 6, 1])))
    try:
        elements = convert_torch_model(path).config.atomic_numbers
    except ArtifactError:
        return
    assert elements == (1, 6, 8)


def test_trained_bessel_frequencies_are_refused(entries, write_entries):
    """The bundle has no place for them, so they must be the usual n π / r_max."""
    usual = np.pi / 4.0 * np.linspace(1.0, 5.0, 5)
    path = write_entries(with_storage(entries, usual, 1.1 * usual))
    with pytest.raises(ArtifactError, match="bessel"):
        convert_torch_model(path)


def test_weights_that_do_not_fit_the_irreps_are_refused(edited):
    path = edited(name("irreps_in1"), name("irreps_in9"))
    with pytest.raises(ArtifactError):
        convert_torch_model(path)
