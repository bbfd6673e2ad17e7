"""Divide what was read into splits by chance, shuffle, and cut into files."""

import logging
import random
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mace_jax.errors import ConfigError
from mace_jax.preparation.spool import Spool
from mace_jax.preparation.write_split import split_evenly
from mace_jax_preprocess.options import Options

log = logging.getLogger(__name__)

Order = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Structures of a split, in the order in which they are written.

    Attributes:
        name: ``train``, ``valid`` or ``test``.
        role: of the files that they were read from, ``train`` for a fraction of these.
        spool: where they are.
        order: their numbers in there.
    """

    name: str
    role: str
    spool: Spool
    order: Order


def divide(spools: Mapping[str, Spool], options: Options) -> list[Split]:
    """Return the splits, those that fractions of the training data become included.

    Raises:
        ConfigError: there is nothing to train on, or too little to divide.
    """
    given = options.given_splits()
    orders = {
        name: Split(name, name if name in given else "train", spool, np.arange(len(spool)))
        for name, spool in spools.items()
    }
    if "train" not in orders:
        message = (
            "--train_file: no structure is left to train on; give more data or smaller fractions"
        )
        raise ConfigError(message)
    if options.split == "random":
        orders |= _divided_by_chance(orders["train"], options)
    if options.shuffle:
        generator = random.Random(options.seed)  # noqa: S311 - not for secrets
        for name in ("train", "valid"):
            if name in orders:
                orders[name] = _shuffled(orders[name], generator)
    return [orders[name] for name in ("train", "valid", "test") if name in orders]


def _divided_by_chance(train: Split, options: Options) -> dict[str, Split]:
    """Take fractions of the training data in the order of a seeded permutation."""
    n, fractions = len(train.order), options.fractions()
    taken: dict[str, int] = {
        name: max(1, int(fraction * n))
        for name, fraction in (("valid", fractions.valid), ("test", fractions.test))
        if fraction
    }
    if n <= len(taken):
        files = ", ".join(str(path) for path in options.train_file)
        what = "one structure" if n == 1 else f"{n} structures"
        message = f"{files}: {what} cannot be split; give --valid_file"
        raise ConfigError(message)
    permutation = np.random.default_rng(options.seed).permutation(n)
    result, first = {}, 0
    for n_waiting, (name, wanted) in zip((len(taken), 1), taken.items(), strict=False):
        last = min(first + wanted, n - n_waiting)  # one at least for each of the others
        chosen = np.sort(permutation[first:last])
        result[name] = replace(train, name=name, order=train.order[chosen])
        log.info("%s: %d of %d training structures, by seed %d", name, len(chosen), n, options.seed)
        first = last
    result["train"] = replace(train, order=train.order[np.sort(permutation[first:])])
    return result


def _shuffled(split: Split, generator: random.Random) -> Split:
    order = array("q", split.order.tobytes())  # a list would take four times the memory
    generator.shuffle(order)
    return replace(split, order=np.array(order))


def files_of(split: Split, n_process: int) -> dict[str, Order]:
    """Return which structures go into which file, named as by Torch MACE.

    Test data is one file a config type, ``<config_type>_<head>_<process>.h5`` with an empty head.
    """
    if split.name != "test":
        stem = {"train": "train", "valid": "val"}[split.name]
        parts = split_evenly(split.order, n_process)
        return {f"{stem}_{number}.h5": part for number, part in enumerate(parts)}
    members: dict[str, list[Order]] = {}
    for config_type, numbers in split.spool.by_config_type().items():
        name = re.sub(r"[^\w.+-]", "-", config_type)
        members.setdefault(f"{name}__0.h5", []).append(numbers)
    files = {
        name: split.order[np.isin(split.order, np.concatenate(numbers))]
        for name, numbers in sorted(members.items())
    }
    return {name: order for name, order in files.items() if len(order)}
