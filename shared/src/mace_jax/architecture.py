"""What a model's configuration means: the irreps of every layer and the kind of every readout.

The network is built from this, and so is the map between its parameters and those of Torch MACE.
"""

from typing import NamedTuple

from mace_jax.artifacts.model_bundle import EmbeddingSpec, ModelConfig
from mace_jax.equivariance.irreps import (
    SCALAR,
    VECTOR,
    Irrep,
    Irreps,
    products,
    spherical_harmonics_irreps,
)
from mace_jax.errors import ConfigError

# Irreps that a readout of dipole models produces.
READOUT_IRREPS = {
    "EnergyDipolesMACE": Irreps([(SCALAR, 1), (VECTOR, 1)]),
    "AtomicDipolesMACE": Irreps([(VECTOR, 1)]),
    "AtomicDielectricMACE": Irreps([(SCALAR, 2), (VECTOR, 1), (Irrep(2, 1), 1)]),
}

# What makes the second moment of an activation of standard normal numbers one. Torch e3nn estimates
# 1/sqrt(E[f(z)²]) from a million samples of one seed; its digits are part of every Torch MACE
# model, so they are used instead of the exact integrals.
ACTIVATION_SCALES = {
    "silu": 1.6791767923989418,
    "tanh": 1.5937334472592695,
    "abs": 1.001110600838467,
    "sigmoid": 1.8467055342154763,
}

ATTENTION_SCALARS = 64  # channels that each end of an edge adds to the attention block's MLP
ATTENTION_MLP = (256, 256, 256)
DENSITY_MLP = (64,)  # hidden layer of the non-linear block's density


class Path(NamedTuple):
    """A coupling of a neighbour's irrep with a spherical harmonic to an irrep of the message."""

    node: Irrep
    edge: Irrep
    message: Irrep
    channels: int


class Layer(NamedTuple):
    """One message-passing layer.

    Attributes:
        block: class name of its interaction block.
        node_irreps: of the features that come in.
        edge_irreps: of the features that a neighbour sends.
        message_irreps: of the sum over neighbours, after its linear map.
        output_irreps: of the features after the product basis.
        correlation: highest degree of the product basis.
        paths: couplings of the convolution.
    """

    block: str
    node_irreps: Irreps
    edge_irreps: Irreps
    message_irreps: Irreps
    output_irreps: Irreps
    correlation: int
    paths: tuple[Path, ...]

    @property
    def path_irreps(self) -> Irreps:
        """Irreps of the sum over neighbours, before its linear map."""
        return Irreps((path.message, path.channels) for path in self.paths)

    @property
    def n_weights(self) -> int:
        """Number of weights that the radial MLP gives to each edge."""
        return sum(path.channels for path in self.paths)

    @property
    def gate_irreps(self) -> Irreps:
        """Irreps that go into a gate whose output is a message; the gates are scalars."""
        return gate_input(self.message_irreps)


class Readout(NamedTuple):
    """A readout and the layer whose features it reads."""

    kind: str
    layer: int


class Architecture(NamedTuple):
    """The irreps of a network.

    Attributes:
        channels: number of scalar features of a node.
        harmonics: irreps of the spherical harmonics.
        layers: the message-passing layers.
        readouts: in order.
    """

    channels: int
    harmonics: tuple[Irrep, ...]
    layers: tuple[Layer, ...]
    readouts: tuple[Readout, ...]


def architecture(config: ModelConfig) -> Architecture:
    """Return the irreps of every layer.

    Raises:
        ConfigError: the configuration is impossible.

    Source: the constructors of mace-torch's model classes.
    """
    _check(config)
    hidden = Irreps.parse(config.hidden_irreps, "hidden_irreps")
    channels = _hidden_channels(hidden)
    harmonics = spherical_harmonics_irreps(config.max_ell, use_so3=config.use_so3)
    correlations = config.correlations()
    node_irreps = Irreps([(SCALAR, channels)])
    layers = []
    for index in range(config.num_interactions):
        first = index == 0
        outputs = _output_irreps(config, hidden, index)
        messages = _message_irreps(config, hidden, harmonics, first=first)
        sent = _sent_irreps(config, node_irreps, first=first)
        block = config.interaction_cls_first if first else config.interaction_cls
        if "NonLinear" in block and Irrep(0, -1) in messages:  # its gate would break parity
            message = f"interaction_cls: {block}, expected another one with 0o in hidden_irreps"
            raise ConfigError(message)
        layers.append(
            Layer(
                block,
                node_irreps,
                sent,
                messages,
                outputs,
                correlations[index],
                _paths(sent, harmonics, messages),
            )
        )
        node_irreps = outputs
    return Architecture(channels, harmonics, tuple(layers), _readouts(config))


def predicts_energy(config: ModelConfig) -> bool:
    """Return whether a model has energies, hence E0s, scale and shift."""
    return config.model not in ("AtomicDipolesMACE", "AtomicDielectricMACE")


def model_inputs(config: ModelConfig) -> tuple[EmbeddingSpec, ...]:
    """Return what a model needs to be told beside atoms and positions."""
    if config.model in ("AtomicDipolesMACE", "EnergyDipolesMACE"):
        return (EmbeddingSpec("charges", "continuous", "atom", 0),)
    if config.model == "AtomicDielectricMACE":
        return (EmbeddingSpec("total_charge", "continuous", "graph", 0),)
    return config.embedding_specs


def dipole_hidden_irreps(config: ModelConfig) -> Irreps:
    """Return the hidden features of the last readout of a dipole model: what it can use.

    Raises:
        ConfigError: only some of ``MLP_irreps`` can contribute to what the model predicts, or
            they stand in an order that mace-torch gets wrong.
    """
    hidden = Irreps.parse(config.MLP_irreps, "MLP_irreps")
    outputs = READOUT_IRREPS[config.model]
    used = Irreps((irrep, channels) for irrep, channels in hidden.items() if irrep in outputs)
    if used and (used != hidden or list(used) != sorted(used)):
        message = f"MLP_irreps: {hidden}, expected only irreps of {outputs}, by ascending l"
        raise ConfigError(message)
    return used


def gate_input(irreps: Irreps) -> Irreps:
    """Return ``irreps`` sorted, with one scalar more for each channel that is not a scalar."""
    gates = sum(channels for irrep, channels in irreps.items() if irrep.l > 0)
    return Irreps(sorted([*irreps.items(), *([(SCALAR, gates)] if gates else [])]))


def _check(config: ModelConfig) -> None:
    """Check what no single layer can tell."""
    numbers = config.atomic_numbers
    if list(numbers) != sorted(set(numbers)):
        message = f"atomic_numbers: {list(numbers)}, expected ascending numbers"
        raise ConfigError(message)
    if config.radial_type == "gaussian" and config.num_bessel < 2:
        message = f"num_bessel: {config.num_bessel}, expected at least 2 for a gaussian basis"
        raise ConfigError(message)
    names = [spec.name for spec in config.embedding_specs]
    if len(set(names)) != len(names):
        message = f"embedding_specs: {names}, expected each name once"
        raise ConfigError(message)
    if config.model not in READOUT_IRREPS:
        hidden = Irreps.parse(config.MLP_irreps, "MLP_irreps")
        if SCALAR not in hidden:
            message = f"MLP_irreps: {hidden}, expected scalars such as 16x0e"
            raise ConfigError(message)


def _sent_irreps(config: ModelConfig, node_irreps: Irreps, *, first: bool) -> Irreps:
    """Return the irreps of the features that a neighbour sends."""
    if config.edge_irreps is None or (first and not config.use_edge_irreps_first):
        return node_irreps
    sent = Irreps.parse(config.edge_irreps, "edge_irreps")
    if first:  # only scalars have come so far
        sent = Irreps((irrep, channels) for irrep, channels in sent.items() if irrep == SCALAR)
    if not set(sent) & set(node_irreps):
        message = f"edge_irreps: {config.edge_irreps}, expected some of the features' {node_irreps}"
        raise ConfigError(message)
    return sent


def _hidden_channels(hidden: Irreps) -> int:
    """Return the number of channels, which all hidden irreps share in MACE."""
    channels = set(hidden.values())
    if SCALAR not in hidden or len(channels) != 1:
        message = (
            f"hidden_irreps: {hidden}, expected 0e and the same number of channels for "
            "every irrep, such as '32x0e + 32x1o'"
        )
        raise ConfigError(message)
    return channels.pop()


def _output_irreps(config: ModelConfig, hidden: Irreps, index: int) -> Irreps:
    """Return what layer ``index`` passes on: the last one keeps what its readout needs."""
    pairs = list(hidden.items())
    last = index == config.num_interactions - 1
    if config.model == "AtomicDielectricMACE" or not last:
        return hidden
    if config.model in READOUT_IRREPS:
        if index == 0:
            return hidden
        if len(pairs) < 2:
            message = f"hidden_irreps: {hidden}, expected vectors, too, for dipoles"
            raise ConfigError(message)
        return Irreps(pairs[1:2] if config.model == "AtomicDipolesMACE" else pairs[:2])
    if config.keep_last_layer_irreps and index > 0:
        return hidden
    return Irreps(pairs[:1])


def _message_irreps(
    config: ModelConfig, hidden: Irreps, harmonics: tuple[Irrep, ...], *, first: bool
) -> Irreps:
    """Return those of the harmonics; after the first layer of both parities with 0o hidden."""
    both = Irrep(0, -1) in hidden and not first and config.model not in READOUT_IRREPS
    irreps = harmonics
    if both:
        irreps = tuple(Irrep(ell, p) for ell in range(config.max_ell + 1) for p in (-1, 1))
    return Irreps((irrep, hidden[SCALAR]) for irrep in irreps)


def _paths(sent: Irreps, harmonics: tuple[Irrep, ...], targets: Irreps) -> tuple[Path, ...]:
    """Return all couplings that end in ``targets``.

    Source: mace-torch ``tp_out_irreps_with_instructions``.
    """
    paths = [
        Path(node, edge, message, channels)
        for node, channels in sent.items()
        for edge in harmonics
        for message in products(node, edge)
        if message in targets
    ]
    return tuple(sorted(paths, key=lambda path: path.message))


def _readouts(config: ModelConfig) -> tuple[Readout, ...]:
    last = config.num_interactions - 1
    if config.model in READOUT_IRREPS:
        dipole_hidden_irreps(config)
        suffix = "DipolePolar" if config.model == "AtomicDielectricMACE" else "Dipole"
        return tuple(
            Readout(f"{'Non' if index == last and last else ''}Linear{suffix}ReadoutBlock", index)
            for index in range(last + 1)
        )
    linear = () if config.use_last_readout_only else range(max(last, 1))
    readouts = [Readout("LinearReadoutBlock", index) for index in linear]
    if last:
        readouts.append(Readout(config.readout_cls, last))
    return tuple(readouts)
