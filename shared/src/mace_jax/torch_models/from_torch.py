"""Turn a Torch MACE file into a model bundle; refuse by name what is not supported."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.architecture import predicts_energy
from mace_jax.artifacts.model_bundle import ModelBundle, ModelConfig
from mace_jax.equivariance.couplings import (
    count_full_couplings,
    fold,
    full_couplings,
    monomials,
    multiplicities,
)
from mace_jax.errors import ArtifactError, ConfigError
from mace_jax.torch_models.cuequivariance_products import e3nn_layout
from mace_jax.torch_models.torch_archive import Record, one_line, read_torch_archive
from mace_jax.torch_models.torch_config import (
    UnsupportedModelError,
    config_of_mapping,
    config_of_modules,
    refuse,
)
from mace_jax.torch_models.torch_layout import Arrays, Contraction, contractions, torch_layout
from mace_jax.torch_models.torch_modules import State, state_dict

_CONFIG_KEYS = ("config", "model_config", "hyper_parameters")
_STATE_KEYS = ("state_dict", "model_state_dict", "model")

# Tensors that carry nothing beyond the configuration, or that ``_bundle`` reads by name.
_KNOWN = re.compile(
    r"atomic_numbers|r_max|num_interactions|atomic_energies_fn\.atomic_energies"
    r"|scale_shift\.(scale|shift)|radial_embedding\.bessel_fn\.(r_max|prefactor|n)"
    r"|radial_embedding\.cutoff_fn\.(p|r_max)|pair_repulsion_fn\.(p|r_max|cutoff\.(p|r_max))"
    r"|(dipole|polarizability)_(mean|std)|.*\.output_mask|interactions\.\d+\.conv_tp\..*"
    r"|products\.\d+\.symmetric_contractions\.contractions\.\d+\."
    r"(U_matrix_\d+|weights_(max|\d+)_zeroed)"
)
_MAX_ELL = 11  # of the couplings that e3nn (torch) has
_MAX_CORRELATION = 8
# Couplings are of order 1, but of a model that once was float32 they are rounded.
_ROUNDING = 1e-5
_CONTRACTION_WEIGHTS = re.compile(
    r"(?P<root>products\.(?P<layer>\d+)\.symmetric_contractions\.contractions\.\d+)\."
    r"weights(_max|\.(?P<place>\d+))"
)


def convert_torch_model(path: Path) -> ModelBundle:
    """Read a Torch MACE model: saved whole, or as a state dict with its configuration.

    Raises:
        UnsupportedModelError: names the first part that is not supported.
        ArtifactError: the file is damaged.
    """
    content = read_torch_archive(path)
    try:
        return _bundle(*_parts(content))
    except (UnsupportedModelError, ConfigError) as error:
        message = f"{path}: {one_line(error)}"
        raise UnsupportedModelError(message) from error
    except (
        ArtifactError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        OverflowError,
        RecursionError,
    ) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        message = f"{path}: cannot be converted ({one_line(what)}); get the file again"
        raise ArtifactError(message) from error


def _parts(content: Any) -> tuple[ModelConfig, tuple[str, ...], State]:
    """Return configuration, heads and tensors of whatever the file holds."""
    if isinstance(content, Record):
        state = state_dict(content)
        config, heads = config_of_modules(content, state)
        _require_reasonable(config)
        return config, heads, e3nn_layout(content, config, state)
    if not isinstance(content, dict):
        refuse("the file", f"a {type(content).__name__} instead of a model is")
    saved = next((content[key] for key in _CONFIG_KEYS if isinstance(content.get(key), dict)), None)
    tensors = next((content[key] for key in _STATE_KEYS if key in content), None)
    if isinstance(tensors, Record):
        return _parts(tensors)
    if saved is None or not isinstance(tensors, dict):
        refuse(
            "the file",
            f"a dictionary of {sorted(map(str, content))[:5]} without a model's configuration is",
        )
    state = {name: array for name, array in tensors.items() if isinstance(array, np.ndarray)}
    if any(name.endswith("symmetric_contractions.weight") for name in state):
        refuse("the file", "a state dict in cuequivariance's layout, without the modules, is")
    default = "ScaleShiftMACE" if "scale_shift.scale" in state else "MACE"
    model = str(content.get("model_class") or saved.get("model") or default).rsplit(".", 1)[-1]
    return *config_of_mapping(saved, model, state), state


def _bundle(config: ModelConfig, heads: tuple[str, ...], state: State) -> ModelBundle:
    elements = np.argsort(state["atomic_numbers"], kind="stable").tolist()
    dtype = _require_one_dtype(config, state)
    _require_finite(state)
    _require_reasonable(config)
    config, parameters = _couplings(config, state)
    used = set()
    for tensor in torch_layout(config, len(heads)):
        if tensor.name not in state:
            message = f"no tensor {tensor.name}; the file is damaged or of an unknown version"
            raise ArtifactError(message)
        array = state[tensor.name]
        if tensor.name.endswith("covalent_radii"):
            array = array[list(config.atomic_numbers)]
        parameters |= tensor.split(array.astype(dtype, copy=False), elements)
        used.add(tensor.name)
    _require_all_used(config, state, used)
    energies, scale, shift = _energies_and_scale(config, heads, state, elements)
    return ModelBundle(
        config=config,
        dtype=dtype,
        heads=heads,
        atomic_energies=energies,
        scale=scale,
        shift=shift,
        parameters=parameters,
    )


def _require_reasonable(config: ModelConfig) -> None:
    """Check what decides how much there is to compute, before it is computed."""
    if config.max_ell > _MAX_ELL or max(config.correlations()) > _MAX_CORRELATION:
        refuse(config.model, f"max_ell={config.max_ell}, correlation={config.correlation} is")


def _require_one_dtype(config: ModelConfig, state: State) -> str:
    """Return the dtype of all weights; the exponents of ZBL have torch's default dtype."""
    names = [name for name in state if name.endswith((".weight", ".weights_max"))]
    dtypes = {str(state[name].dtype) for name in names if state[name].size}
    if not dtypes <= {"float32", "float64"} or len(dtypes) != 1:
        refuse(config.model, f"weights of dtype {' and '.join(sorted(dtypes))} are")
    return dtypes.pop()


def _require_finite(state: State) -> None:
    for name, array in state.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            message = f"{name} holds a number that is not finite"
            raise ArtifactError(message)


def _energies_and_scale(
    config: ModelConfig, heads: tuple[str, ...], state: State, elements: Sequence[int]
) -> tuple[dict[str, dict[int, float]], dict[str, float], dict[str, float]]:
    """Return E0s by head and element, and scale and shift by head."""
    if not predicts_energy(config):
        return {}, {}, {}
    table = np.atleast_2d(state["atomic_energies_fn.atomic_energies"])[:, elements]
    if len(table) == 1:
        table = np.repeat(table, len(heads), axis=0)
    energies = {
        head: dict(zip(config.atomic_numbers, map(float, row), strict=True))
        for head, row in zip(heads, table, strict=True)
    }
    scale, shift = np.ones(1), np.zeros(1)
    if config.model == "ScaleShiftMACE":
        scale, shift = state["scale_shift.scale"], state["scale_shift.shift"]
    scales, shifts = (
        dict(zip(heads, map(float, np.broadcast_to(array.ravel(), len(heads))), strict=True))
        for array in (scale, shift)
    )
    return energies, scales, shifts


def _couplings(config: ModelConfig, state: State) -> tuple[ModelConfig, Arrays]:
    """Find out which basis of couplings the file has.

    Returns: the configuration with ``use_reduced_cg`` as it is, and the couplings if they are not
        those of the full basis: entries of the symmetric tensors, in the order of monomials.
    """
    full = replace(config, use_reduced_cg=False)
    if all(_is_full_basis(contraction, state) for contraction in contractions(full)):
        return full, {}
    reduced = replace(config, use_reduced_cg=True)
    return reduced, {
        contraction.path: _symmetric_entries(contraction, state)
        for contraction in contractions(reduced)
    }


def _is_full_basis(contraction: Contraction, state: State) -> bool:
    tensor = _coupling_tensor(contraction, state)
    if tensor.shape[-1] != count_full_couplings(*contraction.coupling):
        return False
    expected = full_couplings(*contraction.coupling)
    return np.allclose(fold(tensor, contraction.degree), expected, rtol=0, atol=_ROUNDING)


def _symmetric_entries(contraction: Contraction, state: State) -> NDArray[Any]:
    """Return a coupling tensor's entries, one for each monomial: ``[2l+1, n_couplings, n]``."""
    tensor = _coupling_tensor(contraction, state)
    n_components, degree = tensor.shape[1], contraction.degree
    columns = monomials(n_components, degree).T
    entries = tensor[:, *columns].transpose(0, 2, 1)
    folded = fold(tensor, degree)
    if not np.allclose(
        folded, entries * multiplicities(n_components, degree), rtol=0, atol=_ROUNDING
    ):
        refuse(contraction.u_matrix, "this basis of couplings is")
    return entries


def _coupling_tensor(contraction: Contraction, state: State) -> NDArray[Any]:
    """Return ``[2l+1, dim, …, dim, n_couplings]``; torch leaves out axes of length one."""
    irreps, target, degree = contraction.coupling
    n_components = sum(irrep.dim for irrep in irreps)
    n_couplings = state[contraction.tensor.name].shape[1]
    shape = (target.dim, *[n_components] * degree, n_couplings)
    return state[contraction.u_matrix].reshape(shape)


def _require_all_used(config: ModelConfig, state: State, used: set[str]) -> None:
    """Check that nothing of the file is left behind but weights of couplings that are all zero."""
    for name, array in state.items():
        if name in used or array.size == 0 or _KNOWN.fullmatch(name):
            continue
        weights = _CONTRACTION_WEIGHTS.fullmatch(name)
        if weights:
            layer, place = int(weights["layer"]), weights["place"]
            highest = config.correlations()[layer]
            degree = highest if place is None else highest - 1 - int(place)
            if not state[f"{weights['root']}.U_matrix_{degree}"].any():
                continue
        refuse(config.model, f"tensor {name} is")
