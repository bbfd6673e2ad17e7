"""The hyper-parameters of a Torch MACE model, from its modules or from a saved configuration.

What a file of an older mace-torch lacks gets the value that that version behaved by.
"""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import takewhile
from typing import Any, NoReturn, get_args

from mace_jax.architecture import ACTIVATION_SCALES, READOUT_IRREPS
from mace_jax.artifacts.model_bundle import EmbeddingSpec, InteractionName, ModelConfig
from mace_jax.equivariance.irreps import SCALAR
from mace_jax.errors import ArtifactError
from mace_jax.torch_models.torch_archive import Record
from mace_jax.torch_models.torch_modules import (
    State,
    attribute,
    child,
    children,
    function_name,
    has_child,
    irreps,
    irreps_text,
    number,
    submodules,
)

ENERGY_MODELS = ("MACE", "ScaleShiftMACE")
MODELS = (*ENERGY_MODELS, *READOUT_IRREPS)
_INTERACTIONS = get_args(InteractionName)
# A single layer has a linear readout only.
_OF_SINGLE_LAYER = {
    "MLP_irreps": "16x0e",
    "gate": "None",
    "readout_cls": ModelConfig.readout_cls,
}
_PACKAGES = ("mace", "e3nn", "torch", "cuequivariance_torch", "openequivariance")
_BASES = {"BesselBasis": "bessel", "GaussianBasis": "gaussian", "ChebychevBasis": "chebyshev"}
_TRANSFORMS = {"AgnesiTransform": "Agnesi", "SoftTransform": "Soft"}
_GATES = ("silu", "tanh", "abs", "None")
_LAST_READOUTS = ("NonLinearReadoutBlock", "NonLinearBiasReadoutBlock")
_WHY_NOT = {
    "PolarMACE": "field blocks are",
    "MACELES": "latent Ewald summation is",
    "LAMMPS_MACE": "a LAMMPS wrapper is",
}


class UnsupportedModelError(ArtifactError):
    """The file holds a model that this version does not convert."""


def refuse(model: str, what: str) -> NoReturn:
    """Raise ``UnsupportedModelError``."""
    message = f"{model}: {what} not supported yet"
    raise UnsupportedModelError(message)


def config_of_modules(model: Record, state: State) -> tuple[ModelConfig, tuple[str, ...]]:
    """Return hyper-parameters and heads of a model that was saved whole.

    Args:
        model: its record.
        state: its tensors.

    Raises:
        UnsupportedModelError: names the first part that is not supported.
    """
    name = model.short_name
    if name not in MODELS or not model.class_name.startswith("mace."):
        why = _WHY_NOT.get(name)
        refuse(name if why else model.class_name, why or "this class is")
    blocks, products = children(model, "interactions"), children(model, "products")
    readouts = children(model, "readouts")
    radial = child(model, "radial_embedding")
    if any("lora" in tensor for tensor in state):
        refuse(name, "a LoRA that is not merged into the weights is")
    if not attribute(model, "use_polarizability", True):
        refuse(name, "use_polarizability=False is")
    _require_known_modules(model)
    heads = tuple(attribute(model, "heads") or ["Default"])
    specs = attribute(model, "embedding_specs") if has_child(model, "joint_embedding") else None
    harmonics = irreps(attribute(child(model, "spherical_harmonics"), "irreps_out"))
    last_readout = readouts[-1] if readouts else None
    hidden, kept = _hidden_irreps(name, blocks)
    config = ModelConfig(
        model=name,
        r_max=number(state["r_max"]),
        num_bessel=int(number(attribute(radial, "out_dim"))),
        num_polynomial_cutoff=int(number(state["radial_embedding.cutoff_fn.p"])),
        max_ell=max(irrep.l for irrep in harmonics),
        num_interactions=len(blocks),
        hidden_irreps=hidden,
        MLP_irreps=_hidden_of_readout(name, last_readout, len(heads)),
        correlation=_correlations(len(products), state, products),
        radial_MLP=_radial_mlp(blocks, state),
        gate=_gate(name, last_readout),
        interaction_cls=blocks[-1].short_name,
        interaction_cls_first=blocks[0].short_name,
        avg_num_neighbors=_avg_num_neighbors(name, blocks),
        atomic_numbers=_atomic_numbers(state),
        radial_type=_named(name, "radial basis", child(radial, "bessel_fn"), _BASES),
        distance_transform=_distance_transform(name, radial),
        apply_cutoff=bool(attribute(radial, "apply_cutoff", True)),
        pair_repulsion=has_child(model, "pair_repulsion_fn"),
        readout_cls=_readout_cls(name, last_readout),
        edge_irreps=_edge_irreps(attribute(model, "edge_irreps")),
        use_edge_irreps_first=bool(attribute(model, "use_edge_irreps_first", False)),
        use_so3=any(irrep.p != (-1) ** irrep.l for irrep in harmonics),
        use_agnostic_product=bool(attribute(products[0], "use_agnostic_product", False)),
        use_last_readout_only=len(readouts) < len(blocks),
        keep_last_layer_irreps=kept,
        use_embedding_readout=has_child(model, "embedding_readout"),
        embedding_specs=_embedding_specs(specs),
    )
    _require_consistent(model, config, blocks)
    return config, heads


def config_of_mapping(
    saved: Mapping[str, Any], model: str, state: State
) -> tuple[ModelConfig, tuple[str, ...]]:
    """Return hyper-parameters and heads of a configuration saved beside a state dict.

    Args:
        saved: the arguments of the model's class, as ``extract_config_mace_model`` of mace-torch
            collects them.
        model: name of the class.
        state: the tensors, which say what ``extract_config_mace_model`` leaves out.

    Raises:
        UnsupportedModelError: names the first part that is not supported.
        ArtifactError: an argument is missing.
    """
    if model not in MODELS:
        refuse(model, _WHY_NOT.get(model, "this class is"))
    if "error" in saved:  # mace-torch's answer for classes it does not know
        refuse(model, f"a configuration that says {saved['error']!r} is")
    saved = {name: _plain(value) for name, value in saved.items()}
    n_layers = _integer(saved["num_interactions"])
    last = f"products.{n_layers - 1}.symmetric_contractions.contractions.1.weights_max"
    single = n_layers == 1 and model in ENERGY_MODELS
    values = {
        name: _CONVERSIONS.get(name, _as_it_is)(saved[name])
        for name in (item.name for item in fields(ModelConfig))
        if saved.get(name) is not None
    }
    values = {
        "gate": "None",
        "radial_MLP": (64, 64, 64),
        **values,
        "model": model,
        "r_max": number(state["r_max"]),
        "atomic_numbers": _atomic_numbers(state),
        "correlation": _correlations(n_layers, state),
        "keep_last_layer_irreps": last in state and model in ENERGY_MODELS and not single,
        **(_OF_SINGLE_LAYER if single else {}),
    }
    config = ModelConfig(**values)
    _require_known(config)
    return config, tuple(saved.get("heads") or ["Default"])


def _require_known_modules(model: Record) -> None:
    """Check that every module is of a class whose computation is known here."""
    name = model.short_name
    for module in submodules(model).values():
        if module.class_name.split(".")[0] not in _PACKAGES:
            refuse(name, f"module {module.class_name} is")
        if module.short_name == "normalize2mom":
            _require_known_scale(name, attribute(module, "f"), attribute(module, "cst"))
        elif module.short_name == "GatedEquivariantBlock":
            for kind in ("scalar", "gate"):
                activation = attribute(module, f"_act_{kind}")
                _require_known_scale(name, activation, attribute(module, f"_{kind}_cst"))
    for block in children(model, "interactions"):
        if block.short_name not in _INTERACTIONS:
            refuse(name, f"interaction block {block.short_name} is")
    for product in children(model, "products"):
        if product.short_name != "EquivariantProductBasisBlock":
            refuse(name, f"product basis {product.short_name} is")


def _require_known_scale(model: str, activation: Any, scale: Any) -> None:
    activation = function_name(activation)
    expected = ACTIVATION_SCALES.get(activation, 1.0)
    if abs(number(scale) - expected) > 1e-6:
        refuse(model, f"{activation} scaled by {number(scale)}, not {expected}, is")


def _require_known(config: ModelConfig) -> None:
    choices = {
        "interaction block": (
            (config.interaction_cls, config.interaction_cls_first),
            _INTERACTIONS,
        ),
        "radial basis": ((config.radial_type,), _BASES.values()),
        "distance transform": ((config.distance_transform,), ("None", *_TRANSFORMS.values())),
        "gate": ((config.gate,), _GATES),
        "readout": ((config.readout_cls,), _LAST_READOUTS),
    }
    for what, (found, known) in choices.items():
        for name in found:
            if name not in known:
                refuse(config.model, f"{what} {name} is")


def _plain(value: Any) -> Any:
    """Return the number, list or so that a text stands for, where mace-torch made it a text."""
    if isinstance(value, str):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass  # a text, such as a class or irreps
    return value


def _class_name(value: Any) -> str:
    """Return a class or function name from a record or from text such as ``<class 'a.B'>``."""
    if isinstance(value, str):
        found = re.search(r"class '([\w.]+)'|(?:function|method) (\w+)", value)
        value = (found[1] or found[2]) if found else value
    return function_name(value)


def _integer(value: Any) -> int:
    return int(number(value))


def _as_it_is(value: Any) -> Any:
    return value


def _named(model: str, what: str, module: Record, names: Mapping[str, str]) -> str:
    if module.short_name not in names:
        refuse(model, f"{what} {module.short_name} is")
    return names[module.short_name]


def _distance_transform(model: str, radial: Record) -> str:
    if not has_child(radial, "distance_transform"):
        return "None"
    transform = child(radial, "distance_transform")
    return _named(model, "distance transform", transform, _TRANSFORMS)


def _hidden_irreps(model: str, blocks: list[Record]) -> tuple[str, bool]:
    """Return the irreps of the layers, and whether the last one keeps them all."""
    outputs = [irreps_text(attribute(block, "hidden_irreps")) for block in blocks]
    kept = len(blocks) > 1 and outputs[-1] == outputs[0] and len(irreps(outputs[0])) > 1
    return outputs[0], kept and model not in READOUT_IRREPS


def _correlations(
    n_layers: int, state: State, products: list[Record] | None = None
) -> int | tuple[int, ...]:
    """Return the correlation of each layer, read from its weights; one number if all agree."""
    degrees = []
    for layer in range(n_layers):
        root = f"products.{layer}.symmetric_contractions"
        if f"{root}.contractions.0.weights_max" in state:
            lower = (f"{root}.contractions.0.weights.{index}" for index in range(len(state)))
            degrees.append(1 + sum(1 for _ in takewhile(state.__contains__, lower)))
        elif products is not None:
            symmetric = child(products[layer], "symmetric_contractions")
            degrees.append(int(number(attribute(symmetric, "contraction_degree"))))
        else:
            message = f"no tensor {root}.contractions.0.weights_max"
            raise ArtifactError(message)
    return degrees[0] if len(set(degrees)) == 1 else tuple(degrees)


def _radial_mlp(blocks: list[Record], state: State) -> tuple[int, ...]:
    """Return the hidden widths of the radial MLP, read from its weights."""
    for index, block in enumerate(blocks):
        if block.short_name == "RealAgnosticAttResidualInteractionBlock":
            continue  # its widths are fixed
        root = f"interactions.{index}.conv_tp_weights"
        weights = [f"{root}.layer{number}.weight" for number in range(len(state))]
        if weights[0] in state:
            widths = [state[name].shape[1] for name in weights if name in state]
        else:
            weights = [f"{root}.net.{3 * number}.weight" for number in range(len(state))]
            widths = [state[name].shape[0] for name in weights if name in state]
        return tuple(widths[:-1])
    return tuple(attribute(blocks[0], "radial_MLP") or (64, 64, 64))


def _avg_num_neighbors(model: str, blocks: list[Record]) -> float:
    values = {number(attribute(block, "avg_num_neighbors")) for block in blocks}
    if len(values) > 1:
        refuse(model, "an avg_num_neighbors that differs between layers is")
    return values.pop()


def _atomic_numbers(state: State) -> tuple[int, ...]:
    """Return the elements as a bundle has them, ascending."""
    return tuple(sorted(int(atomic_number) for atomic_number in state["atomic_numbers"]))


def _hidden_of_readout(model: str, readout: Record | None, n_heads: int) -> str:
    """Return the hidden irreps (of one head) of the last readout."""
    hidden = attribute(readout, "hidden_irreps") if readout is not None else None
    if hidden is None:
        return _OF_SINGLE_LAYER["MLP_irreps"]
    if model in READOUT_IRREPS:
        return irreps_text(hidden)
    found = irreps(hidden)
    if list(found) != [SCALAR] or found[SCALAR] % n_heads:
        refuse(model, f"a readout with hidden irreps {found} and {n_heads} heads is")
    return f"{found[SCALAR] // n_heads}x0e"


def _readout_cls(model: str, readout: Record | None) -> str:
    default = ModelConfig.readout_cls
    if readout is None or readout.short_name.startswith("Linear"):
        return default
    if readout.short_name in _LAST_READOUTS:
        return readout.short_name
    if model in READOUT_IRREPS and readout.short_name.startswith("NonLinearDipole"):
        return default
    refuse(model, f"readout {readout.short_name} is")


def _gate(model: str, readout: Record | None) -> str:
    """Return the non-linearity of the last readout."""
    if readout is None:
        return "None"
    if has_child(readout, "non_linearity"):
        (activation, *_) = children(child(readout, "non_linearity"), "acts")
        gate = function_name(activation and attribute(activation, "f"))
    elif has_child(readout, "equivariant_nonlin"):
        nonlinearity = child(readout, "equivariant_nonlin")
        if has_child(nonlinearity, "act_gates"):  # e3nn's Gate, of older versions
            (activation, *_) = children(child(nonlinearity, "act_gates"), "acts")
            gate = function_name(activation and attribute(activation, "f"))
        else:
            gate = function_name(attribute(nonlinearity, "_act_gate"))
    else:
        gate = "None"
    if gate not in _GATES:
        refuse(model, f"gate {gate} is")
    return gate


def _edge_irreps(value: Any) -> str | None:
    return None if value is None else irreps_text(value)


def _embedding_specs(specs: Mapping[str, Mapping[str, Any]] | None) -> tuple[EmbeddingSpec, ...]:
    return tuple(
        EmbeddingSpec(
            name=name,
            type=spec["type"],
            per="graph" if spec["per"] == "graph" else "atom",
            emb_dim=int(spec["emb_dim"]),
            in_dim=int(spec.get("in_dim", 1)),
            num_classes=int(spec.get("num_classes", 0)),
            offset=int(spec.get("offset", 0)),
            use_bias=bool(spec.get("use_bias", True)),
            key=spec.get("key"),
        )
        for name, spec in (specs or {}).items()
    )


def _require_consistent(model: Record, config: ModelConfig, blocks: list[Record]) -> None:
    """Check what a configuration cannot say of a file that was edited by hand."""
    name = model.short_name
    if {block.short_name for block in blocks[1:]} - {config.interaction_cls}:
        refuse(name, "an interaction block that differs between later layers is")
    for index, readout in enumerate(children(model, "readouts")[:-1]):
        if not readout.short_name.startswith("Linear"):
            refuse(name, f"readout {readout.short_name} of layer {index} is")


# How the arguments of mace-torch's classes become those of ``ModelConfig``.
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "num_bessel": _integer,
    "num_polynomial_cutoff": _integer,
    "max_ell": _integer,
    "num_interactions": _integer,
    "avg_num_neighbors": number,
    "hidden_irreps": irreps_text,
    "MLP_irreps": irreps_text,
    "edge_irreps": irreps_text,
    "interaction_cls": _class_name,
    "interaction_cls_first": _class_name,
    "readout_cls": _class_name,
    "gate": _class_name,
    "radial_MLP": lambda widths: tuple(int(width) for width in widths),
    "embedding_specs": _embedding_specs,
}
