"""Where each array of a bundle stands in the state dict of a Torch MACE model.

One description serves both directions: a torch tensor, flattened, is the arrays of the bundle
flattened, one after the other. Weights are only rearranged, never rescaled: both sides use e3nn's
normalisation.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.architecture import (
    ATTENTION_MLP,
    ATTENTION_SCALARS,
    DENSITY_MLP,
    READOUT_IRREPS,
    Architecture,
    Layer,
    architecture,
    dipole_hidden_irreps,
    gate_input,
)
from mace_jax.artifacts.model_bundle import ModelConfig
from mace_jax.equivariance.couplings import count_full_couplings, count_reduced_couplings
from mace_jax.equivariance.irreps import SCALAR, Irrep, Irreps
from mace_jax.errors import ArtifactError

Arrays = dict[str, NDArray[Any]]


class Part(NamedTuple):
    """An array of the bundle.

    Attributes:
        path: its name there.
        shape: its shape there.
        element_axis: the axis that counts chemical elements, if any.
    """

    path: str
    shape: tuple[int, ...]
    element_axis: int | None = None


class Tensor(NamedTuple):
    """A torch tensor and what it holds.

    Attributes:
        name: in the state dict.
        parts: in order.
        transposed: whether torch keeps outputs before inputs.
    """

    name: str
    parts: tuple[Part, ...]
    transposed: bool = False

    def split(self, tensor: NDArray[Any], elements: Sequence[int]) -> Arrays:
        """Return the bundle's arrays.

        Args:
            tensor: as torch has it.
            elements: where each element of the bundle stands among the model's.

        Raises:
            ArtifactError: it has another size than the architecture says.
        """
        expected = sum(prod(part.shape) for part in self.parts)
        if tensor.size != expected:
            message = (
                f"{self.name}: {tensor.size} numbers, expected {expected} from the architecture; "
                "the file is damaged or of an unknown version"
            )
            raise ArtifactError(message)
        flat = (tensor.T if self.transposed else tensor).ravel()
        arrays = {}
        start = 0
        for part in self.parts:
            array = flat[start : start + prod(part.shape)].reshape(part.shape)
            start += array.size
            if part.element_axis is not None:
                array = array.take(elements, axis=part.element_axis)
            arrays[part.path] = array
        return arrays

    def join(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the torch tensor, flat unless transposed, of the bundle's arrays."""
        if self.transposed:
            (part,) = self.parts
            return np.ascontiguousarray(arrays[part.path].T)
        return np.concatenate([arrays[part.path].ravel() for part in self.parts])


class Contraction(NamedTuple):
    """The couplings of one degree to one irrep in a product basis, and their weights.

    Attributes:
        tensor: their weights.
        u_matrix: name of the coupling tensor in the state dict.
        path: name of the couplings in a bundle that keeps them.
        coupling: irreps of the features, irrep of the result, number of factors.
    """

    tensor: Tensor
    u_matrix: str
    path: str
    coupling: tuple[tuple[Irrep, ...], Irrep, int]

    @property
    def degree(self) -> int:
        """Number of factors."""
        return self.coupling[2]


def torch_layout(config: ModelConfig, n_heads: int) -> list[Tensor]:
    """Return all tensors of a model that a bundle holds, couplings of the product basis excepted.

    Raises:
        ConfigError: the configuration is impossible.
    """
    return list(_tensors(config, architecture(config), n_heads))


def weights_name(correlation: int, degree: int) -> str:
    """Return the name, within its contraction, of the weights of products of ``degree`` factors."""
    return "weights_max" if degree == correlation else f"weights.{correlation - degree - 1}"


def contractions(config: ModelConfig) -> list[Contraction]:
    """Return the couplings that exist in the product bases of a model."""
    return list(_contractions(config, architecture(config)))


def _tensors(config: ModelConfig, irreps: Architecture, n_heads: int) -> Iterator[Tensor]:
    n_elements = len(config.atomic_numbers)
    yield _embedding("node_embedding", "node_embedding.linear", n_elements, irreps.channels)
    yield from _radial(config)
    for index, layer in enumerate(irreps.layers):
        yield from _interaction(f"interactions.{index}", layer, config)
        yield from _linear(f"products.{index}.linear", layer.output_irreps, layer.output_irreps)
    for contraction in _contractions(config, irreps):
        yield contraction.tensor
    for index, (kind, layer_index) in enumerate(irreps.readouts):
        inputs = irreps.layers[layer_index].output_irreps
        yield from _readout(f"readouts.{index}", kind, inputs, config, n_heads)
    if config.embedding_specs:
        yield from _joint_embedding(config, irreps.channels)
        if config.use_embedding_readout:
            scalars = Irreps([(SCALAR, irreps.channels)])
            heads = Irreps([(SCALAR, n_heads)])
            yield from _linear("embedding_readout.linear", scalars, heads)
    if config.model == "AtomicDielectricMACE":
        yield _same("change_of_basis", (6, 3, 3))


def _same(name: str, shape: tuple[int, ...], *, element_axis: int | None = None) -> Tensor:
    """Return a tensor that is the same in both."""
    return Tensor(name, (Part(name.replace(".", "/"), shape, element_axis),))


def _embedding(path: str, name: str, n_elements: int, channels: int) -> Tensor:
    return Tensor(f"{name}.weight", (Part(f"{path}/weight", (n_elements, channels), 0),))


def _linear(
    name: str, inputs: Irreps, outputs: Irreps, *, use_bias: bool = False
) -> Iterator[Tensor]:
    path = name.replace(".", "/")
    parts = tuple(
        Part(f"{path}/weights/{irrep}", (channels, outputs[irrep]))
        for irrep, channels in inputs.items()
        if irrep in outputs
    )
    if parts:
        yield Tensor(f"{name}.weight", parts)
    if use_bias:
        yield _same(f"{name}.bias", (outputs[SCALAR],))


def _species_linear(
    name: str, inputs: Irreps, outputs: Irreps, n_elements: int
) -> Iterator[Tensor]:
    path = name.replace(".", "/")
    parts = tuple(
        Part(f"{path}/weights/{irrep}", (channels, n_elements, outputs[irrep]), 1)
        for irrep, channels in inputs.items()
        if irrep in outputs
    )
    if parts:
        yield Tensor(f"{name}.weight", parts)


def _dense(
    path: str, name: str, n_in: int, n_out: int, *, use_bias: bool = True
) -> Iterator[Tensor]:
    weight = Part(f"{path}/weight", (n_in, n_out))
    yield Tensor(f"{name}.weight", (weight,), transposed=True)
    if use_bias:
        yield Tensor(f"{name}.bias", (Part(f"{path}/bias", (n_out,)),))


def _fully_connected_net(name: str, widths: Sequence[int]) -> Iterator[Tensor]:
    path = name.replace(".", "/")
    for index, shape in enumerate(pairwise(widths)):
        yield Tensor(f"{name}.layer{index}.weight", (Part(f"{path}/layers/{index}", shape),))


def _radial_mlp(name: str, widths: Sequence[int]) -> Iterator[Tensor]:
    """Yield the layers of a ``Sequential`` of dense layer, layer norm and silu in turn."""
    path = name.replace(".", "/")
    for index, (n_in, n_out) in enumerate(pairwise(widths)):
        yield from _dense(f"{path}/layers/{index}", f"{name}.net.{3 * index}", n_in, n_out)
    for index, width in enumerate(widths[1:-1]):
        norm = f"{name}.net.{3 * index + 1}"
        yield Tensor(f"{norm}.weight", (Part(f"{path}/norms/{index}/scale", (width,)),))
        yield Tensor(f"{norm}.bias", (Part(f"{path}/norms/{index}/bias", (width,)),))


def _radial(config: ModelConfig) -> Iterator[Tensor]:
    basis = "radial_embedding.bessel_fn"
    if config.radial_type != "chebyshev":
        yield _same(f"{basis}.{config.radial_type}_weights", (config.num_bessel,))
    transform = "radial_embedding.distance_transform"
    scalars = {"Agnesi": ("q", "p", "a"), "Soft": ("alpha",)}.get(config.distance_transform, ())
    for scalar in scalars:
        yield _same(f"{transform}.{scalar}", ())
    if scalars:
        yield _covalent_radii(transform, config)
    if config.pair_repulsion:
        yield _same("pair_repulsion_fn.c", (4,))
        yield _same("pair_repulsion_fn.a_exp", ())
        yield _same("pair_repulsion_fn.a_prefactor", ())
        yield _covalent_radii("pair_repulsion_fn", config)


def _covalent_radii(module: str, config: ModelConfig) -> Tensor:
    """Return the radii of the model's elements; torch has those of all elements."""
    return _same(f"{module}.covalent_radii", (len(config.atomic_numbers),))


def _interaction(name: str, layer: Layer, config: ModelConfig) -> Iterator[Tensor]:
    n_elements, n_basis = len(config.atomic_numbers), config.num_bessel
    yield from _linear(f"{name}.linear_up", layer.node_irreps, layer.edge_irreps)
    if layer.block == "RealAgnosticAttResidualInteractionBlock":
        scalars = Irreps([(SCALAR, ATTENTION_SCALARS)])
        yield from _linear(f"{name}.linear_down", layer.node_irreps, scalars)
        widths = (n_basis + 2 * ATTENTION_SCALARS, *ATTENTION_MLP, layer.n_weights)
        yield from _fully_connected_net(f"{name}.conv_tp_weights", widths)
        yield from _linear(f"{name}.linear", layer.path_irreps, layer.message_irreps)
        yield from _linear(f"{name}.skip_linear", layer.node_irreps, layer.output_irreps)
    elif layer.block == "RealAgnosticResidualNonLinearInteractionBlock":
        channels = layer.node_irreps[SCALAR]
        n_inputs = n_basis + 2 * channels
        path = name.replace(".", "/")
        for end in ("source_embedding", "target_embedding"):
            yield _embedding(f"{path}/{end}", f"{name}.{end}", n_elements, channels)
        mlp = (n_inputs, *config.radial_MLP, layer.n_weights)
        yield from _radial_mlp(f"{name}.conv_tp_weights", mlp)
        yield from _radial_mlp(f"{name}.density_fn", (n_inputs, *DENSITY_MLP, 1))
        yield from _linear(f"{name}.skip_tp", layer.node_irreps, layer.output_irreps)
        yield from _linear(f"{name}.linear_res", layer.edge_irreps, layer.gate_irreps)
        yield from _linear(f"{name}.linear_1", layer.path_irreps, layer.gate_irreps)
        yield from _linear(f"{name}.linear_2", layer.message_irreps, layer.message_irreps)
        yield _same(f"{name}.alpha", ())
        yield _same(f"{name}.beta", ())
    else:
        mlp = (n_basis, *config.radial_MLP, layer.n_weights)
        yield from _fully_connected_net(f"{name}.conv_tp_weights", mlp)
        yield from _linear(f"{name}.linear", layer.path_irreps, layer.message_irreps)
        residual = "Residual" in layer.block
        skip = (
            (layer.node_irreps, layer.output_irreps)
            if residual
            else (layer.message_irreps, layer.message_irreps)
        )
        yield from _species_linear(f"{name}.skip_tp", *skip, n_elements)
        if "Density" in layer.block:
            yield from _fully_connected_net(f"{name}.density_fn", (n_basis, 1))


def _contractions(config: ModelConfig, irreps: Architecture) -> Iterator[Contraction]:
    count = count_reduced_couplings if config.use_reduced_cg else count_full_couplings
    n_elements = 1 if config.use_agnostic_product else len(config.atomic_numbers)
    element_axis = None if config.use_agnostic_product else 0
    for index, layer in enumerate(irreps.layers):
        root = f"products.{index}.symmetric_contractions"
        path = root.replace(".", "/")
        channels = layer.message_irreps[SCALAR]
        for k, target in enumerate(layer.output_irreps):
            module = f"{root}.contractions.{k}"
            for degree in range(1, layer.correlation + 1):
                n_couplings = count(layer.message_irreps, target, degree)
                if not n_couplings:
                    continue
                weights = f"{module}.{weights_name(layer.correlation, degree)}"
                shape = (n_elements, n_couplings, channels)
                part = Part(f"{path}/weights/{target}/{degree}", shape, element_axis)
                yield Contraction(
                    Tensor(weights, (part,)),
                    f"{module}.U_matrix_{degree}",
                    f"{path}/couplings/{target}/{degree}",
                    (tuple(layer.message_irreps), target, degree),
                )


def _readout(
    name: str, kind: str, inputs: Irreps, config: ModelConfig, n_heads: int
) -> Iterator[Tensor]:
    if config.model in READOUT_IRREPS:
        outputs = READOUT_IRREPS[config.model]
        if kind.startswith("Linear"):
            yield from _linear(f"{name}.linear", inputs, outputs)
        else:
            hidden = dipole_hidden_irreps(config)
            yield from _linear(f"{name}.linear_1", inputs, gate_input(hidden))
            yield from _linear(f"{name}.linear_2", hidden, outputs)
        return
    outputs = Irreps([(SCALAR, n_heads)])
    if kind == "LinearReadoutBlock":
        yield from _linear(f"{name}.linear", inputs, outputs)
        return
    scalars = Irreps.parse(config.MLP_irreps, "MLP_irreps")[SCALAR]
    middle = Irreps([(SCALAR, n_heads * scalars)])
    use_bias = kind == "NonLinearBiasReadoutBlock"
    yield from _linear(f"{name}.linear_1", inputs, middle)
    if use_bias:
        yield from _linear(f"{name}.linear_mid", middle, middle, use_bias=True)
    yield from _linear(f"{name}.linear_2", middle, outputs, use_bias=use_bias)


def _joint_embedding(config: ModelConfig, channels: int) -> Iterator[Tensor]:
    for spec in config.embedding_specs:
        path, name = (
            f"joint_embedding/embedders/{spec.name}",
            f"joint_embedding.embedders.{spec.name}",
        )
        if spec.type == "categorical":
            shape = (spec.num_classes, spec.emb_dim)
            yield Tensor(f"{name}.weight", (Part(f"{path}/weight", shape),))
            continue
        for index, n_in in enumerate((spec.in_dim, spec.emb_dim)):
            yield from _dense(
                f"{path}/layers/{index}",
                f"{name}.{2 * index}",
                n_in,
                spec.emb_dim,
                use_bias=spec.use_bias,
            )
    width = sum(spec.emb_dim for spec in config.embedding_specs)
    yield from _dense(
        "joint_embedding/project", "joint_embedding.project.0", width, channels, use_bias=False
    )
