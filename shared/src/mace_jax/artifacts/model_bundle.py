"""Model bundles: everything a prediction needs, in one msgpack file, readable with numpy alone.

The file is a map of ``header`` and ``arrays``; see ``header_and_arrays``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.header_and_arrays import (
    pack_header_and_arrays,
    read_header_and_arrays,
    unpack_header_and_arrays,
    write_header_and_arrays,
)
from mace_jax.artifacts.provenance import Input, file_sha256
from mace_jax.artifacts.versioned import tag
from mace_jax.errors import ConfigError
from mace_jax.units import UNITS

KIND = "model_bundle"
# Torch MACE's interaction blocks.
InteractionName = Literal[
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
    "RealAgnosticAttResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
]

_DTYPES = ("<f4", "<f8", "<i4", "<i8")


@dataclass(frozen=True)
class EmbeddingSpec:
    """An input beside atoms and positions, embedded and added to the features of every atom.

    Attributes:
        name: of the input, such as ``total_charge``.
        type: ``categorical`` or ``continuous``.
        per: ``graph`` or ``atom``.
        emb_dim: width of its embedding.
        in_dim: numbers that a continuous input has for each atom or graph.
        num_classes: values that a categorical input can take.
        offset: added to a categorical input, so that it starts at 0.
        use_bias: whether the layers of a continuous input have biases.
        key: of the structure's entry or column that holds it; by default its name.
    """

    name: str
    type: str
    per: str
    emb_dim: int
    in_dim: int = 1
    num_classes: int = 0
    offset: int = 0
    use_bias: bool = True
    key: str | None = None

    @property
    def source(self) -> str:
        """Name of the structure's entry or column."""
        return self.key or self.name


@dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters of a MACE network, by mace-torch's names.

    Attributes:
        model: ``MACE``, ``ScaleShiftMACE``, which scales and shifts the interaction energy,
            ``AtomicDipolesMACE``, ``EnergyDipolesMACE`` or ``AtomicDielectricMACE``.
        r_max: cutoff, Å.
        num_bessel: radial basis functions, of whichever kind.
        num_polynomial_cutoff: order p of the envelope.
        max_ell: highest l of the spherical harmonics on edges.
        num_interactions: message-passing layers.
        hidden_irreps: node features, such as ``32x0e + 32x1o``.
        MLP_irreps: hidden features of the last readout (of one head), such as ``16x0e``.
        correlation: body order of the product basis minus one; of all layers, or of each.
        radial_MLP: widths of the hidden layers that turn the radial basis into weights.
        gate: non-linearity of the last readout.
        interaction_cls, interaction_cls_first: interaction block of later layers and of the first.
        avg_num_neighbors: divides the sum over neighbours.
        atomic_numbers: the elements the model knows, ascending.
        radial_type: ``bessel``, ``gaussian`` or ``chebyshev``.
        distance_transform: ``Agnesi``, ``Soft`` or ``None``.
        apply_cutoff: whether the envelope multiplies the radial basis, or else the message.
        pair_repulsion: whether the ZBL repulsion of nuclei is added.
        readout_cls: class of the last readout.
        edge_irreps: features that a neighbour sends; by default all it has.
        use_edge_irreps_first: whether ``edge_irreps`` counts in the first layer, too.
        use_so3: whether inversion is left out of account.
        use_reduced_cg: whether the couplings of the product basis are independent of each other.
        use_agnostic_product: whether all elements share the weights of the product basis.
        use_last_readout_only: whether only the last layer is read out.
        keep_last_layer_irreps: whether the last layer computes more than scalars.
        use_embedding_readout: whether an energy is read from the embeddings, too.
        embedding_specs: further inputs.
    """

    model: str
    r_max: float
    num_bessel: int
    num_polynomial_cutoff: int
    max_ell: int
    num_interactions: int
    hidden_irreps: str
    MLP_irreps: str
    correlation: int | tuple[int, ...]
    radial_MLP: tuple[int, ...]
    gate: str
    interaction_cls: str
    interaction_cls_first: str
    avg_num_neighbors: float
    atomic_numbers: tuple[int, ...]
    radial_type: str = "bessel"
    distance_transform: str = "None"
    apply_cutoff: bool = True
    pair_repulsion: bool = False
    readout_cls: str = "NonLinearReadoutBlock"
    edge_irreps: str | None = None
    use_edge_irreps_first: bool = False
    use_so3: bool = False
    use_reduced_cg: bool = False
    use_agnostic_product: bool = False
    use_last_readout_only: bool = False
    keep_last_layer_irreps: bool = False
    use_embedding_readout: bool = False
    embedding_specs: tuple[EmbeddingSpec, ...] = ()

    def correlations(self) -> tuple[int, ...]:
        """Return the correlation of each layer.

        Raises:
            ConfigError: a list of another length than the layers.
        """
        if isinstance(self.correlation, int):
            return (self.correlation,) * self.num_interactions
        if len(self.correlation) != self.num_interactions:
            message = (
                f"correlation: {list(self.correlation)}, expected {self.num_interactions} numbers, "
                "one for each layer"
            )
            raise ConfigError(message)
        return self.correlation


@dataclass(frozen=True)
class ModelBundle:
    """A trained network.

    Attributes:
        config: hyper-parameters.
        dtype: ``float32`` or ``float64``, of parameters and computation.
        heads: names of the readout heads, in order.
        atomic_energies: head -> atomic number -> E0, eV.
        scale, shift: head -> value, eV; applied to each atom's interaction energy.
        parameters: path -> array.
        license: of the weights, if known.
        model_card: what people should know, free form.
        parity: how it was compared with the implementation it comes from, as in the schema.
    """

    config: ModelConfig
    dtype: str
    heads: tuple[str, ...]
    atomic_energies: Mapping[str, Mapping[int, float]]
    scale: Mapping[str, float]
    shift: Mapping[str, float]
    parameters: Mapping[str, NDArray[Any]]
    license: str | None = None
    model_card: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] | None = None

    def astype(self, dtype: str) -> "ModelBundle":
        """Return the same network in another dtype."""
        parameters = {name: array.astype(dtype) for name, array in self.parameters.items()}
        return replace(self, dtype=dtype, parameters=parameters)


def write_model_bundle(path: Path, bundle: ModelBundle, provenance: dict[str, Any]) -> None:
    """Write a bundle atomically."""
    header = _header(bundle, provenance)
    write_header_and_arrays(path, KIND, header, bundle.parameters, _DTYPES)


def pack_model_bundle(bundle: ModelBundle, provenance: dict[str, Any]) -> bytes:
    """Return the bytes of a bundle's file, to be kept inside another one."""
    header = _header(bundle, provenance)
    return pack_header_and_arrays(Path("bundle"), KIND, header, bundle.parameters, _DTYPES)


def _header(bundle: ModelBundle, provenance: dict[str, Any]) -> dict[str, Any]:
    config = asdict(bundle.config)
    return {
        "schema": tag(KIND),
        "provenance": provenance,
        "model": {name: list(v) if isinstance(v, tuple) else v for name, v in config.items()},
        "dtype": bundle.dtype,
        "heads": list(bundle.heads),
        "atomic_energies": {
            head: {str(number): float(energy) for number, energy in energies.items()}
            for head, energies in bundle.atomic_energies.items()
        },
        "scale": {head: float(value) for head, value in bundle.scale.items()},
        "shift": {head: float(value) for head, value in bundle.shift.items()},
        "units": UNITS,
        "license": bundle.license,
        "model_card": dict(bundle.model_card),
        "parity": bundle.parity,
    }


def read_model_bundle(path: Path) -> ModelBundle:
    """Read a bundle and check its digest.

    Raises:
        ArtifactError: it is missing, truncated, damaged or of another kind.
    """
    return _bundle(*read_header_and_arrays(path, KIND, _DTYPES))


def unpack_model_bundle(content: bytes, path: Path) -> ModelBundle:
    """Return the bundle whose file has these bytes; ``path`` is for messages.

    Raises:
        ArtifactError: they are truncated, damaged or of another kind.
    """
    return _bundle(*unpack_header_and_arrays(content, path, KIND, _DTYPES))


def _bundle(
    header: Mapping[str, Any], parameters: dict[str, NDArray[Any]], version: int
) -> ModelBundle:
    config = _config(header["model"])
    if version == 1:
        parameters |= _constants_of_version_1(config, header["dtype"])
    return ModelBundle(
        config=config,
        dtype=header["dtype"],
        heads=tuple(header["heads"]),
        atomic_energies={
            head: {int(number): energy for number, energy in energies.items()}
            for head, energies in header["atomic_energies"].items()
        },
        scale=header["scale"],
        shift=header["shift"],
        parameters=parameters,
        license=header["license"],
        model_card=header["model_card"],
        parity=header["parity"],
    )


def _config(document: Mapping[str, Any]) -> ModelConfig:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
    }
    values["embedding_specs"] = tuple(EmbeddingSpec(**spec) for spec in values["embedding_specs"])
    return ModelConfig(**values)


def _constants_of_version_1(config: ModelConfig, dtype: str) -> dict[str, NDArray[Any]]:
    """Return what version 1, which had the Bessel basis only, left to the network."""
    frequencies = np.pi / config.r_max * np.arange(1, config.num_bessel + 1)
    return {"radial_embedding/bessel_fn/bessel_weights": frequencies.astype(dtype)}


def model_bundle_input(path: Path) -> Input:
    """Describe a bundle in a provenance record."""
    return Input("model", path, KIND, tag(KIND)["version"], file_sha256(path))
