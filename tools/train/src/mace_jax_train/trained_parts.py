"""What trains: the parts of a network by name, which are frozen, and the learning rate of each.

A part is a path in the tree of weights, as a bundle names its arrays but with dots: ``readouts``,
``interactions.0``, ``products.1.linear``. ``*`` is any one name; ``embedding`` is
``node_embedding``.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.flatten_util import ravel_pytree

from mace_jax.artifacts.train_config_sections import OptimizerConfig, TrainConfig
from mace_jax.errors import ConfigError, did_you_mean
from mace_jax.model.load import split_trainable
from mace_jax.model.mace import MACE, DipoleMACE
from mace_jax_train.lora import Path, adapted_matrices, merged, new_adapters

log = logging.getLogger(__name__)

# (what trains, what is frozen) -> all weights of the network
Joined = Callable[[nnx.State, nnx.State], nnx.State]

_MEANS = {"embedding": "node_embedding"}


class TrainedParts(NamedTuple):
    """The weights of a network, by whether they train.

    Attributes:
        network: as a function of all its weights.
        trained: weights, or the adapters beside them.
        frozen: the other weights.
        joined: from both to all weights.
    """

    network: Callable[[nnx.State], MACE]
    trained: nnx.State
    frozen: nnx.State
    joined: Joined


class PartRow(NamedTuple):
    """How much of a part trains.

    Attributes:
        part: its name.
        parameters: that the network has there.
        trained: parameters that training changes there; adapters have parameters of their own.
        lr_factors: factors of their learning rate, ascending.
    """

    part: str
    parameters: int
    trained: int
    lr_factors: tuple[float, ...]


def trained_parts(model: MACE | DipoleMACE, config: TrainConfig) -> TrainedParts:
    """Divide the weights of a network into those that train and those that do not.

    Raises:
        ConfigError: a name is of no part, or nothing would train.
    """
    network, parameters = split_trainable(model)
    weights, optimizer = dict(nnx.to_flat_state(parameters)), config.optimizer
    require_parts(optimizer, [*weights])
    names, lora = optimizer.freeze or (), optimizer.lora
    free = {
        path: leaf
        for path, leaf in weights.items()
        if not any(_is_within(path, name) for name in names)
    }
    factors = adapted_matrices(model, lora) if lora else {}
    adapted = {path: matrix for path, matrix in free.items() if path in factors}
    if not (adapted if lora else free):
        message = "optimizer.freeze: nothing is left that trains; leave a part out of it"
        raise ConfigError(message)
    _warn_of_idle_factors(optimizer, adapted if lora else free)
    if lora:
        adapters = new_adapters(adapted, lora.rank, config.flags.seed)
        counted = {path: factors[path] for path in adapted}
        return TrainedParts(network, adapters, parameters, partial(merged, factors=counted))
    frozen = {path: leaf for path, leaf in weights.items() if path not in free}
    return TrainedParts(
        network, nnx.from_flat_state(free), nnx.from_flat_state(frozen), nnx.merge_state
    )


def require_parts(config: OptimizerConfig, paths: Sequence[Path]) -> None:
    """Check that everything that is frozen or has a factor is a part of a network.

    Args:
        config: what names parts.
        paths: of the network's arrays.

    Raises:
        ConfigError: names the nearest that is one.
    """
    for option in ("freeze", "lr_factors"):
        _require_parts(getattr(config, option) or (), paths, f"optimizer.{option}")


def _warn_of_idle_factors(config: OptimizerConfig, trained: Iterable[Path]) -> None:
    paths = [*trained]
    for name in config.lr_factors or ():
        if not any(_is_within(path, name) for path in paths):
            text = "optimizer.lr_factors: %s: nothing of it trains, so that its factor does nothing"
            log.warning(text, name)


def _is_within(path: Path, name: str) -> bool:
    """Return whether a weight belongs to a part."""
    wanted = _MEANS.get(name, name).split(".")
    return len(wanted) <= len(path) and all(
        one in ("*", str(found)) for one, found in zip(wanted, path, strict=False)
    )


def _require_parts(names: Sequence[str], paths: Sequence[Path], option: str) -> None:
    """Check that each name is of a part.

    Raises:
        ConfigError: names the nearest that is one.
    """
    for name in names:
        if not any(_is_within(path, name) for path in paths):
            depth = name.count(".") + 1
            known = {".".join(map(str, path[: n + 1])) for path in paths for n in range(depth)}
            message = (
                f"{option}: {name!r} is no part of this network that has weights; "
                f"{did_you_mean(name, {*known, *_MEANS})}"
            )
            raise ConfigError(message)


def lr_factors(config: OptimizerConfig, trained: nnx.State) -> Array | None:
    """Return the factor of each weight's learning rate, ``[n_weight]``; None: they are all 1."""
    if not config.lr_factors:
        return None
    factors = {
        path: leaf.replace(jnp.full_like(leaf[...], lr_factor(path, config.lr_factors)))
        for path, leaf in nnx.to_flat_state(trained)
    }
    return ravel_pytree(nnx.from_flat_state(factors))[0]


def lr_factor(path: Path, factors: Mapping[str, float]) -> float:
    """Return the factor of the innermost part that a weight is in, or 1."""
    names = [name for name in factors if _is_within(path, name)]
    if not names:
        return 1.0
    return factors[max(names, key=lambda name: (name.count("."), -name.count("*")))]


def part_rows(parts: TrainedParts, config: OptimizerConfig) -> list[PartRow]:
    """Return what trains of each part of a network, and of all."""
    weights = jax.eval_shape(parts.joined, parts.trained, parts.frozen)
    parameters: dict[str, int] = defaultdict(int)
    trained: dict[str, int] = defaultdict(int)
    factors: dict[str, set[float]] = defaultdict(set)
    for path, leaf in nnx.to_flat_state(weights):
        parameters[_part(path)] += leaf.size
    for path, leaf in nnx.to_flat_state(parts.trained):
        trained[_part(path)] += leaf.size
        factors[_part(path)].add(lr_factor(path, config.lr_factors or {}))
    of_all = set().union(*factors.values())
    return [
        *(
            PartRow(part, n, trained[part], (*sorted(factors[part]),))
            for part, n in parameters.items()
        ),
        PartRow("all", sum(parameters.values()), sum(trained.values()), (*sorted(of_all),)),
    ]


def _part(path: Path) -> str:
    """Return the name of the part that a weight is counted in: a block, or what is not in one."""
    return ".".join(map(str, path[:2] if isinstance(path[1], int) else path[:1]))


def log_parts(parts: TrainedParts, config: OptimizerConfig) -> None:
    """Show how much of each part trains, as a table."""
    if config.lora:
        log.info(
            "adapters of rank %d, alpha %g, beside %d matrices train; bundles have them merged",
            config.lora.rank,
            config.lora.alpha,
            len(nnx.to_flat_state(parts.trained)) // 2,
        )
    rows = part_rows(parts, config)
    if config.lora and rows[-1].trained > rows[-1].parameters:
        text = "optimizer.lora.rank: adapters of %d have more parameters than the network; lower it"
        log.warning(text, config.lora.rank)
    for line in part_lines(rows):
        log.info(line)


def part_lines(rows: Sequence[PartRow]) -> Iterator[str]:
    """Yield the lines of a table of what trains."""
    width = max(len(row.part) for row in rows)
    yield f"{'part':<{width}} {'parameters':>12} {'trained':>12}   lr factor"
    for part, parameters, trained, factors in rows:
        shown = ", ".join(f"{factor:g}" for factor in factors) or "frozen"
        yield f"{part:<{width}} {parameters:>12,} {trained:>12,}   {shown}"
