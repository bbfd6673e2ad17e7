"""The model that training begins with: a bundle, a Torch checkpoint or a released model."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.architecture import READOUT_IRREPS, predicts_energy
from mace_jax.artifacts.model_bundle import ModelBundle, ModelConfig
from mace_jax.artifacts.train_config import term_weights
from mace_jax.artifacts.train_config_sections import HeadConfig, ModelSection, TrainConfig
from mace_jax.elements import symbol
from mace_jax.equivariance.irreps import Irreps
from mace_jax.errors import ConfigError, DataError
from mace_jax.model.load import build_model, model_parameters
from mace_jax.structures.structure import Structure
from mace_jax.torch_models.foundation_models import released_model
from mace_jax.torch_models.select_elements import select_elements
from mace_jax.torch_models.select_head import select_heads
from mace_jax.torch_models.source import Source, released_source
from mace_jax.tracking import Track
from mace_jax_train.run_heads import HEAD

log = logging.getLogger(__name__)

# Of a head whose readout has random weights.
FRESH = "fresh"
_SOURCES = ("start_from", "torch_checkpoint", "foundation_model")
_OF_A_SOURCE = ("torch_head", "torch_param_dtype")
_IRREPS = ("hidden_irreps", "MLP_irreps", "edge_irreps")
_ROUNDING = 1e-6  # relative, of numbers that a Torch file may have in float32


@dataclass(frozen=True)
class StartingModel:
    """A model that training begins with.

    Attributes:
        bundle: of all its elements and heads, until ``of_heads`` and ``of_elements``.
        source: its file.
        head: whose readout heads begin with that do not say so; None: none was named.
    """

    bundle: ModelBundle
    source: Source
    head: str | None = None

    @property
    def name(self) -> str:
        """Its file, for messages."""
        return str(self.source.path)

    def require_elements(self, structure: Structure) -> None:
        """Check that the model knows all elements of a structure.

        Raises:
            DataError: it does not.
        """
        known = set(self.bundle.config.atomic_numbers)
        unknown = sorted(set(structure.atomic_numbers.tolist()) - known)
        if unknown:
            names = ", ".join(f"{symbol(z)} ({z})" for z in unknown)
            message = (
                f"{structure.place}: {names}: not known to {self.name}, expected elements of "
                f"{sorted(known)}; remove the structure or begin with another model"
            )
            raise DataError(message)

    def readout_of(self, head: HeadConfig) -> str | None:
        """Return the model's head whose readout a head of the run begins with; None: a fresh one.

        Raises:
            ConfigError: there is none of that name, or several that it may be.
        """
        known, asked = self.bundle.heads, head.readout
        if asked == FRESH:
            return None
        if asked is None:
            named = head.name if head.name in known else self.head
            asked = named or (known[0] if len(known) == 1 else None)
        if asked in known:
            return asked
        what = "has several heads" if asked is None else f"has no head {asked!r}"
        message = (
            f"{self.name}: {what}, expected one of {list(known)} for head {head.name}; set "
            "model.torch_head, or readout of the head"
        )
        raise ConfigError(message)

    def of_heads(self, heads: Sequence[HeadConfig], seed: int) -> "StartingModel":
        """Return the model of the heads that a run trains.

        Args:
            heads: that are trained.
            seed: of the weights of fresh readouts.

        Raises:
            ConfigError: as of ``readout_of``, or a readout is asked for that cannot be fresh.
        """
        sources = {head.name: self.readout_of(head) for head in heads}
        if not predicts_energy(self.bundle.config):
            return replace(self, bundle=replace(self.bundle, heads=tuple(sources)))
        fresh = None
        if None in sources.values():
            fresh = _fresh_parameters(self.bundle, len(sources), seed)
        bundle = select_heads(self.bundle, sources, fresh)
        log.info("%s: readouts: %s", self.name, _listed(sources))
        return replace(self, bundle=bundle)

    def of_kept_heads(
        self, heads: Sequence[HeadConfig], kept: Sequence[str], trained: Sequence[HeadConfig]
    ) -> ModelBundle | None:
        """Return what is kept of the model, and say what is not.

        Args:
            heads: that are configured, in order.
            kept: names of those that are not trained.
            trained: heads that are.

        Returns: the model of all heads; those that are trained have readouts of zeros.
        """
        sources = {
            head.name: self.readout_of(head) if head.name in kept else None for head in heads
        }
        own = {name: source for name, source in sources.items() if source}
        taken = {*own.values(), *map(self.readout_of, trained)}
        dropped = [name for name in self.bundle.heads if name not in taken]
        if own:
            log.info(
                "%s: kept without data: %s, with readout, E0s, scale and shift; the network that "
                "they share with the others is trained, so that what they predict changes",
                self.name,
                _listed(own),
            )
        if dropped:
            log.info(
                "%s: dropped: %s; a head of datasets.heads of weight 0 without data is kept",
                self.name,
                ", ".join(dropped),
            )
        return select_heads(self.bundle, sources) if own else None

    def of_elements(self, elements: Sequence[int], dtype: str) -> ModelBundle:
        """Return the model of some of its elements, in the dtype of training.

        Raises:
            ConfigError: the model does not know one of them.
        """
        try:
            bundle = select_elements(self.bundle, elements)
        except ConfigError as error:
            message = f"{self.name}: {error}; correct datasets.atomic_numbers"
            raise ConfigError(message) from error
        n_known = len(self.bundle.config.atomic_numbers)
        log.info("%s: %d of %d elements are kept", self.name, len(elements), n_known)
        return bundle if bundle.dtype == dtype else bundle.astype(dtype)


def read_starting_model(config: TrainConfig, track: Track) -> StartingModel | None:
    """Return the model that training begins with; None for a fresh network.

    Args:
        config: of the run.
        track: progress of a download.

    Raises:
        ConfigError: more than one is named, there is no such model or head, or an option says
            something else than the model.
        ArtifactError: the file is damaged or not supported, or the model cannot be had.
    """
    source = _source(config.model, track)
    if source is None:
        return None
    whole = source.read()
    _require_own_options(config, whole.config, source.path)
    _require_predicted(config, whole.config, source.path)
    bundle = whole
    if config.model.torch_param_dtype:
        bundle = bundle.astype(config.model.torch_param_dtype)
    kept = bundle.config
    log.info(
        "training begins with %s: %s, heads %s, %s weights; r_max %g Å, avg_num_neighbors %g, "
        "scale and shift of each head are kept",
        source.path,
        kept.model,
        ", ".join(whole.heads),
        bundle.dtype,
        kept.r_max,
        kept.avg_num_neighbors,
    )
    card = {
        "file": source.path.name,
        "sha256": source.as_input().sha256,
        "license": whole.license,
        "model_card": whole.model_card,
    }
    bundle = replace(bundle, model_card={"starting_model": card}, parity=None)
    starting = StartingModel(bundle, source, config.model.torch_head)
    for head in config.datasets.heads or _named(config.model):
        starting.readout_of(head)  # what is impossible is said before data are read
    return starting


def _listed(sources: Mapping[str, str | None]) -> str:
    return ", ".join(f"{head} from {source or FRESH}" for head, source in sources.items())


def _named(section: ModelSection) -> tuple[HeadConfig, ...]:
    """Return the head that is asked for where no heads are configured."""
    return (HeadConfig(HEAD, readout=section.torch_head),) if section.torch_head else ()


def _fresh_parameters(bundle: ModelBundle, n_heads: int, seed: int) -> dict[str, NDArray[Any]]:
    """Return random weights of the same network with so many heads, by path."""
    network = build_model(
        bundle.config,
        scale=[1.0] * n_heads,
        shift=[0.0] * n_heads,
        dtype="float32",
        rng=np.random.default_rng(seed),
    )
    return model_parameters(network)


def _source(section: ModelSection, track: Track) -> Source | None:
    named = [name for name in _SOURCES if getattr(section, name)]
    if len(named) > 1:
        message = f"model.{' and model.'.join(named)}: training begins with one model; keep one"
        raise ConfigError(message)
    if not named:
        for name in _OF_A_SOURCE:
            if getattr(section, name):
                message = (
                    f"model.{name} = {getattr(section, name)!r}, but training begins with a fresh "
                    f"network; remove it or set model.{' or model.'.join(_SOURCES)}"
                )
                raise ConfigError(message)
        return None
    text = getattr(section, named[0])
    if named[0] == "foundation_model" and not Path(text).is_file():
        return released_source(released_model(text), offline=False, track=track)
    return Source(Path(text))


def _require_own_options(config: TrainConfig, model: ModelConfig, path: Path) -> None:
    """Check that no option asks for another network than the model is.

    An option with its default value asks for nothing.

    Raises:
        ConfigError: one does.
    """
    section, default = config.model, ModelSection()
    differing = [
        f"model.{item.name} = {getattr(section, item.name)!r}, not {getattr(model, item.name)!r}"
        for item in fields(ModelConfig)
        if hasattr(section, item.name)
        and getattr(section, item.name) != getattr(default, item.name)
        and not _agree(item.name, getattr(section, item.name), model)
    ]
    if config.datasets.r_max and not _agree("r_max", config.datasets.r_max, model):
        differing.append(f"datasets.r_max = {config.datasets.r_max}, not {model.r_max}")
    if section.scaling != default.scaling:
        differing.append(f"model.scaling = {section.scaling!r}, not the model's scale and shift")
    if differing:
        message = (
            f"{path}: {'; '.join(differing)}: the network is the model's own; leave these options "
            "out or begin with another model"
        )
        raise ConfigError(message)


def _require_predicted(config: TrainConfig, model: ModelConfig, path: Path) -> None:
    """Check that the model predicts every quantity of the loss, in both stages.

    Raises:
        ConfigError: there is one that it does not.
    """
    predicted = ["energy", "forces", "stress", "virials"] if predicts_energy(model) else []
    predicted += ["dipole"] if model.model in READOUT_IRREPS else []
    stage_two = config.train.swa_config
    losses = {"loss": config.loss, "train.swa_config.loss": stage_two and stage_two.loss}
    for place, loss in losses.items():
        for term, weight in term_weights(loss).items() if loss else ():
            if term not in predicted:
                message = (
                    f"{path}: {model.model} predicts {', '.join(predicted)}, but "
                    f"{place}.{term}_weight is {weight}; choose another loss or model"
                )
                raise ConfigError(message)


def _agree(name: str, given: Any, model: ModelConfig) -> bool:
    """Return whether an option says what the model is, maybe in other words."""
    own = getattr(model, name)
    if name in _IRREPS and own is not None:
        return Irreps.parse(given, name) == Irreps.parse(own, name)
    if name == "correlation":
        n_layers = model.num_interactions
        wanted = (given,) * n_layers if isinstance(given, int) else given
        return tuple(wanted) == model.correlations()
    if isinstance(own, float):
        return bool(abs(given - own) <= _ROUNDING * abs(own))
    return bool(given == own)
