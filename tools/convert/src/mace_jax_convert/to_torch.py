"""Turn a model bundle into a Torch MACE model."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.architecture import READOUT_IRREPS
from mace_jax.artifacts.atomic_write import atomic_file
from mace_jax.artifacts.model_bundle import ModelBundle, ModelConfig
from mace_jax.equivariance.couplings import monomial_of_entry
from mace_jax.errors import ConfigError, IncompatibleError
from mace_jax.torch_models.torch_layout import contractions, torch_layout

# Arguments that the classes of dipole models do not have.
_ENERGY_MODELS_ONLY = (
    "pair_repulsion",
    "use_agnostic_product",
    "use_last_readout_only",
    "use_embedding_readout",
    "keep_last_layer_irreps",
)


def has_mace_torch() -> bool:
    """Return whether torch and mace-torch are installed; neither is imported."""
    return all(find_spec(name) is not None for name in ("torch", "mace"))


def mace_torch_version() -> str:
    """Return the installed version, such as ``mace-torch 0.3.16``."""
    return f"mace-torch {version('mace-torch')}"


def require_mace_torch() -> None:
    """Check that torch and mace-torch are installed.

    Raises:
        ConfigError: they are not.
    """
    if not has_mace_torch():
        message = (
            "torch and mace-torch are not installed, but this needs them; "
            'pip install "./tools/convert[torch]"'
        )
        raise ConfigError(message)


@contextmanager
def mace_torch_talks_less() -> Iterator[None]:
    """Send what mace-torch prints to stderr, and leave its warnings about its own code out."""
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


def write_torch_model(path: Path, bundle: ModelBundle) -> None:
    """Write a bundle as a file that mace-torch loads, atomically.

    Raises:
        ConfigError: torch or mace-torch is not installed.
        IncompatibleError: the installed mace-torch cannot hold the model.
    """
    model = torch_model(bundle)

    import torch

    with atomic_file(path) as temporary, temporary.open("wb") as file, mace_torch_talks_less():
        torch.save(model, file)


def torch_model(bundle: ModelBundle) -> Any:
    """Return the Torch MACE model of a bundle, in its dtype, on the CPU, for evaluation.

    Raises:
        ConfigError: torch or mace-torch is not installed.
        IncompatibleError: the installed mace-torch cannot hold the model.
    """
    require_mace_torch()
    with mace_torch_talks_less():
        import torch
        from mace import modules

        dtype = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, bundle.dtype))
        try:
            with torch.random.fork_rng(devices=[]), _couplings_of(bundle):
                torch.manual_seed(0)  # weights that no coupling uses stay as they are drawn
                name, arguments = _constructor(bundle)
                model = getattr(modules, name)(**arguments)
        finally:
            torch.set_default_dtype(dtype)
    _fill(model, bundle)
    return model.eval()


def _constructor(bundle: ModelBundle) -> tuple[str, dict[str, Any]]:
    """Return the class and the arguments that make a model of the bundle's architecture."""
    import torch
    from e3nn import o3
    from mace import modules

    config = bundle.config
    name = config.model
    gates = {"silu": torch.nn.functional.silu, "tanh": torch.tanh, "abs": torch.abs}
    arguments: dict[str, Any] = {
        "r_max": config.r_max,
        "num_bessel": config.num_bessel,
        "num_polynomial_cutoff": config.num_polynomial_cutoff,
        "max_ell": config.max_ell,
        "interaction_cls": modules.interaction_classes[config.interaction_cls],
        "interaction_cls_first": modules.interaction_classes[config.interaction_cls_first],
        "num_interactions": config.num_interactions,
        "num_elements": len(config.atomic_numbers),
        "hidden_irreps": o3.Irreps(config.hidden_irreps),
        "MLP_irreps": o3.Irreps(config.MLP_irreps),
        "atomic_energies": _atomic_energies(bundle),
        "avg_num_neighbors": config.avg_num_neighbors,
        "atomic_numbers": list(config.atomic_numbers),
        "correlation": config.correlation
        if isinstance(config.correlation, int)
        else list(config.correlation),
        "gate": gates.get(config.gate),
        "radial_MLP": list(config.radial_MLP),
    }
    if name != "EnergyDipolesMACE":
        arguments["radial_type"] = config.radial_type
    if name in READOUT_IRREPS:
        return name, arguments
    arguments |= {item: getattr(config, item) for item in _ENERGY_MODELS_ONLY}
    arguments |= {
        "apply_cutoff": config.apply_cutoff,
        "use_reduced_cg": config.use_reduced_cg,
        "use_so3": config.use_so3,
        "distance_transform": config.distance_transform,
        "edge_irreps": o3.Irreps(config.edge_irreps) if config.edge_irreps else None,
        "use_edge_irreps_first": config.use_edge_irreps_first,
        "heads": list(bundle.heads),
        "embedding_specs": _embedding_specs(config),
        "readout_cls": getattr(modules.blocks, config.readout_cls),
    }
    scale, shift = (
        [values[head] for head in bundle.heads] for values in (bundle.scale, bundle.shift)
    )
    if name == "ScaleShiftMACE" or any(factor != 1 for factor in scale) or any(shift):
        arguments |= {"atomic_inter_scale": scale, "atomic_inter_shift": shift}
        name = "ScaleShiftMACE"
    return name, arguments


def _atomic_energies(bundle: ModelBundle) -> NDArray[np.float64] | None:
    """Return E0s, ``[n_heads, n_elements]``."""
    if not bundle.atomic_energies:
        return None
    numbers = bundle.config.atomic_numbers
    return np.array([[bundle.atomic_energies[head][z] for z in numbers] for head in bundle.heads])


def _embedding_specs(config: ModelConfig) -> dict[str, dict[str, Any]] | None:
    specs: dict[str, dict[str, Any]] = {}
    for spec in config.embedding_specs:
        common: dict[str, Any] = {
            "type": spec.type,
            "per": spec.per,
            "emb_dim": spec.emb_dim,
            "in_dim": spec.in_dim,
        }
        if spec.key:
            common["key"] = spec.key
        if spec.type == "categorical":
            specs[spec.name] = {**common, "num_classes": spec.num_classes, "offset": spec.offset}
        else:
            specs[spec.name] = {**common, "use_bias": spec.use_bias}
    return specs or None


@contextmanager
def _couplings_of(bundle: ModelBundle) -> Iterator[None]:
    """Let mace-torch build its product bases with the couplings that the bundle keeps.

    It would else compute them with whatever version of cuequivariance is installed, or, without
    one, silently use the full basis.
    """
    if not bundle.config.use_reduced_cg:
        yield
        return

    from mace.modules import symmetric_contraction

    original: Callable[..., Any] = symmetric_contraction.U_matrix_real
    symmetric_contraction.U_matrix_real = _coupling_function(bundle)
    try:
        yield
    finally:
        symmetric_contraction.U_matrix_real = original


def _coupling_function(bundle: ModelBundle) -> Callable[..., list[Any]]:
    """Return a function in place of mace-torch's ``U_matrix_real``."""
    import torch

    known: dict[tuple[str, str, int], NDArray[Any]] = {}
    for contraction in contractions(bundle.config):
        irreps, target, degree = contraction.coupling
        key = ("+".join(f"1x{irrep}" for irrep in irreps), f"1x{target}", degree)
        entries = bundle.parameters[contraction.path]
        if not np.array_equal(known.setdefault(key, entries), entries):
            message = f"{contraction.path}: differs from another layer's; this needs one basis"
            raise IncompatibleError(message)

    def u_matrix_real(
        irreps_in: Any, irreps_out: Any, correlation: int, dtype: Any, **_: Any
    ) -> list[Any]:
        dim, dim_out = irreps_in.dim, irreps_out.dim
        entries = known.get((str(irreps_in), str(irreps_out), correlation))
        if entries is None:
            tensor = np.zeros((dim_out, *[dim] * correlation, 1))
        else:
            place = monomial_of_entry(dim, correlation)
            tensor = entries[:, :, place].transpose(0, 2, 1)
            tensor = tensor.reshape(dim_out, *[dim] * correlation, -1)
        tensor = tensor[0] if dim_out == 1 else tensor
        return [torch.from_numpy(np.ascontiguousarray(tensor)).to(dtype)]

    return u_matrix_real


def _fill(model: Any, bundle: ModelBundle) -> None:
    """Copy the bundle's arrays into a model of the same architecture."""
    import torch

    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for entry in torch_layout(bundle.config, len(bundle.heads)):
            if entry.name not in tensors:
                message = (
                    f"{mace_torch_version()} has no tensor {entry.name} in this architecture; "
                    "install mace-torch 0.3.16 or newer"
                )
                raise IncompatibleError(message)
            target, values = tensors[entry.name], torch.tensor(entry.join(bundle.parameters))
            if entry.name.endswith("covalent_radii"):
                target[list(bundle.config.atomic_numbers)] = values
            elif target.numel() == values.numel():
                target.copy_(values.reshape(target.shape))
            else:
                message = (
                    f"{entry.name}: {target.numel()} numbers in {mace_torch_version()}, "
                    f"expected {values.numel()}; install mace-torch 0.3.16 or newer"
                )
                raise IncompatibleError(message)
