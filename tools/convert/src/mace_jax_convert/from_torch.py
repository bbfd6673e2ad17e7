"""Turn the record of a Torch MACE model into a model bundle; refuse by name what is not supported.

Weights are only rearranged, never rescaled: both sides use e3nn's normalisation.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.model_bundle import ModelBundle, ModelConfig
from mace_jax.errors import ArtifactError
from mace_jax_convert.torch_archive import Record, read_torch_archive
from mace_jax_convert.torch_modules import (
    attribute,
    child,
    children,
    has_child,
    irreps,
    irreps_text,
    linear_weights,
    species_linear_weights,
    tensor,
)

Parameters = dict[str, NDArray[Any]]

_INTERACTIONS = ("RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock")
_GATES = {"torch.nn.functional.silu": "silu", "torch.tanh": "tanh", "torch.abs": "abs"}
# Attributes that change what the network computes, with the one value that is supported.
_REQUIRED = {
    "apply_cutoff": True,
    "use_reduced_cg": False,
    "use_so3": False,
    "use_agnostic_product": False,
    "use_last_readout_only": False,
    "use_edge_irreps_first": False,
    "edge_irreps": None,
}


class UnsupportedModelError(ArtifactError):
    """The file holds a model that this version does not convert."""


def convert_torch_model(path: Path) -> ModelBundle:
    """Read a ``torch.save(model)`` file of Torch MACE.

    Raises:
        UnsupportedModelError: names the first part that is not supported.
        ArtifactError: the file is damaged.
    """
    model = read_torch_archive(path)
    try:
        _require_supported(model)
        return _bundle(model)
    except UnsupportedModelError as error:
        message = f"{path}: {error}"
        raise UnsupportedModelError(message) from error
    except (ArtifactError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        message = f"{path}: cannot be converted ({error}); get the file again"
        raise ArtifactError(message) from error


def _refuse(what: str) -> NoReturn:
    message = f"{what} is not supported yet"
    raise UnsupportedModelError(message)


def _require_supported(model: Any) -> None:
    if not isinstance(model, Record):
        _refuse(f"a file that holds a {type(model).__name__} instead of a model")
    if model.class_name not in ("mace.modules.models.MACE", "mace.modules.models.ScaleShiftMACE"):
        _refuse(f"model class {model.class_name}")
    for name, value in _REQUIRED.items():
        if attribute(model, name, value) != value:
            _refuse(f"{name}={attribute(model, name)}")
    for name in ("pair_repulsion_fn", "joint_embedding", "embedding_readout"):
        if has_child(model, name):
            _refuse(name)
    radial = child(model, "radial_embedding")
    if has_child(radial, "distance_transform"):
        _refuse(f"{child(radial, 'distance_transform').short_name}")
    _require_supported_basis(child(radial, "bessel_fn"), float(tensor(model, "r_max")))
    _require_supported_blocks(model)
    elements = tensor(model, "atomic_numbers")
    if np.any(np.diff(elements) <= 0):
        _refuse(f"an order of elements that does not ascend, {elements.tolist()},")


def _require_supported_basis(basis: Record, r_max: float) -> None:
    if basis.short_name != "BesselBasis":
        _refuse(f"radial basis {basis.short_name}")
    frequencies = tensor(basis, "bessel_weights")
    untrained = np.pi / r_max * np.arange(1, len(frequencies) + 1)
    # they were formed in float32 or float64
    if not np.allclose(frequencies, untrained, rtol=1e-6):
        _refuse("a Bessel basis with trained frequencies")


def _require_supported_blocks(model: Record) -> None:
    last_irreps = irreps(attribute(children(model, "interactions")[-1], "hidden_irreps"))
    if [name for _, name in last_irreps] != ["0e"]:
        _refuse(f"a last layer that keeps {irreps_text(last_irreps)}")
    for block in children(model, "interactions"):
        if block.short_name not in _INTERACTIONS:
            _refuse(f"interaction block {block.short_name}")
        if attribute(block, "cueq_config") is not None:
            _refuse("a model in cuequivariance layout")
    for readout in children(model, "readouts"):
        if readout.short_name not in ("LinearReadoutBlock", "NonLinearReadoutBlock"):
            _refuse(f"readout {readout.short_name}")


def _bundle(model: Record) -> ModelBundle:
    heads = tuple(attribute(model, "heads", ["Default"]))
    elements = tuple(int(number) for number in tensor(model, "atomic_numbers"))
    energies = np.atleast_2d(tensor(child(model, "atomic_energies_fn"), "atomic_energies"))
    if has_child(model, "scale_shift"):
        block = child(model, "scale_shift")
        scale, shift = (
            np.broadcast_to(tensor(block, name).ravel(), len(heads)) for name in ("scale", "shift")
        )
    else:
        scale, shift = np.ones(len(heads)), np.zeros(len(heads))
    parameters = dict(_parameters(model))
    dtypes = {str(array.dtype) for array in parameters.values()}
    if len(dtypes) != 1:
        _refuse(f"a mixture of dtypes {sorted(dtypes)}")
    return ModelBundle(
        config=_config(model, elements),
        dtype=dtypes.pop(),
        heads=heads,
        atomic_energies={
            head: dict(zip(elements, (float(e) for e in row), strict=True))
            for head, row in zip(heads, energies, strict=True)
        },
        scale=dict(zip(heads, (float(x) for x in scale), strict=True)),
        shift=dict(zip(heads, (float(x) for x in shift), strict=True)),
        parameters=parameters,
    )


def _config(model: Record, elements: tuple[int, ...]) -> ModelConfig:
    blocks, products = children(model, "interactions"), children(model, "products")
    radial = child(model, "radial_embedding")
    correlations = {
        int(attribute(contraction, "correlation"))
        for product in products
        for contraction in _contractions(product)
    }
    neighbors = {float(attribute(block, "avg_num_neighbors")) for block in blocks}
    later = {block.short_name for block in blocks[1:]}
    if max(len(correlations), len(neighbors), len(later)) > 1:
        _refuse("a correlation, avg_num_neighbors or block that differs between later layers")
    gate, readout_irreps = _last_readout(children(model, "readouts")[-1])
    harmonics = irreps(attribute(child(model, "spherical_harmonics"), "irreps_out"))
    first = child(blocks[0], "conv_tp_weights").state["_modules"]
    widths = [tensor(layer, "weight").shape[0] for layer in first.values()]
    return ModelConfig(
        model=model.short_name,
        r_max=float(tensor(model, "r_max")),
        num_bessel=int(attribute(radial, "out_dim")),
        num_polynomial_cutoff=int(tensor(child(radial, "cutoff_fn"), "p")),
        max_ell=max(int(name[:-1]) for _, name in harmonics),
        num_interactions=len(blocks),
        hidden_irreps=irreps_text(irreps(attribute(blocks[0], "hidden_irreps"))),
        MLP_irreps=readout_irreps,
        correlation=correlations.pop(),
        radial_MLP=tuple(widths[1:]),
        gate=gate,
        interaction_cls=blocks[-1].short_name,
        interaction_cls_first=blocks[0].short_name,
        avg_num_neighbors=neighbors.pop(),
        atomic_numbers=elements,
    )


def _last_readout(readout: Record) -> tuple[str, str]:
    """Return gate and hidden irreps (of one head) of the last readout."""
    if readout.short_name == "LinearReadoutBlock":
        return "None", "16x0e"  # a single layer has no other readout: neither is used
    activation = child(readout, "non_linearity", "acts", "0")
    function = getattr(attribute(activation, "f"), "class_name", "")
    if function not in _GATES:
        _refuse(f"gate {function or activation.short_name}")
    ((hidden, _),) = irreps(attribute(readout, "hidden_irreps"))
    return _GATES[function], f"{hidden // attribute(readout, 'num_heads', 1)}x0e"


def _contractions(product: Record) -> list[Record]:
    return children(child(product, "symmetric_contractions"), "contractions")


def _parameters(model: Record) -> Iterable[tuple[str, NDArray[Any]]]:
    """Yield the trainable arrays under the names of ``mace_jax.model.MACE``."""
    ((_, embedding),) = linear_weights(child(model, "node_embedding", "linear")).items()
    yield "node_embedding/weight", embedding
    for index, block in enumerate(children(model, "interactions")):
        root = f"interactions/{index}"
        yield from _named(f"{root}/linear_up", linear_weights(child(block, "linear_up")))
        yield from _named(f"{root}/linear", linear_weights(child(block, "linear")))
        yield from _named(f"{root}/skip_tp", species_linear_weights(child(block, "skip_tp")))
        layers = child(block, "conv_tp_weights").state["_modules"].values()
        for number, layer in enumerate(layers):
            yield f"{root}/conv_tp_weights/layers/{number}", tensor(layer, "weight")
    for index, product in enumerate(children(model, "products")):
        root = f"products/{index}"
        yield from _contraction_weights(f"{root}/symmetric_contractions/weights", product)
        yield from _named(f"{root}/linear", linear_weights(child(product, "linear")))
    for index, readout in enumerate(children(model, "readouts")):
        for name, linear in readout.state["_modules"].items():
            if name.startswith("linear"):
                yield from _named(f"readouts/{index}/{name}", linear_weights(linear))


def _named(root: str, weights: Parameters) -> Iterable[tuple[str, NDArray[Any]]]:
    return ((f"{root}/weights/{name}", array) for name, array in weights.items())


def _contraction_weights(root: str, product: Record) -> Iterable[tuple[str, NDArray[Any]]]:
    """Yield ``[n_elements, n_couplings, channels]`` of every target and degree that couples."""
    targets = irreps(attribute(child(product, "symmetric_contractions"), "irreps_out"))
    for (_, target), contraction in zip(targets, _contractions(product), strict=True):
        highest = int(attribute(contraction, "correlation"))
        lower = child(contraction, "weights").state["_parameters"].values()
        weights = [tensor(contraction, "weights_max"), *lower]
        for degree, weight in zip(range(highest, 0, -1), weights, strict=True):
            if np.any(tensor(contraction, f"U_matrix_{degree}")):
                yield f"{root}/{target}/{degree}", weight
