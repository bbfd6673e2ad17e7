"""What a model sees of atoms: the one part of this tool that needs jax, which an extra brings."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.errors import ConfigError
from mace_jax.structures.structure import Structure

log = logging.getLogger(__name__)

Describe = Callable[[Sequence[Structure]], list[NDArray[np.floating]]]


def require_jax() -> None:
    """Check that descriptors can be computed.

    Raises:
        ConfigError: jax is not installed.
    """
    if any(find_spec(name) is None for name in ("jax", "flax")):
        message = (
            "--method farthest-point: computes with the model, which needs jax; install "
            '"mace-jax-preprocess[model]", or choose another method'
        )
        raise ConfigError(message)


@contextmanager
def describing(
    bundle: ModelBundle, source: Path, *, n_edge: int, device: str, compile_cache: bool
) -> Iterator[Describe]:
    """Set this process up to compute descriptors.

    Args:
        bundle: the model.
        source: its file, for messages.
        n_edge: edges of a batch, at most; raised if one structure alone has more.
        device: as of ``computing``.
        compile_cache: as there.

    What was assumed of structures that do not tell the model all that it is told is a warning.

    Yields: a function that returns the invariant features of every atom of some structures,
        ``[n_atoms, k]`` each.

    Raises:
        ConfigError: jax is not installed, or the device is not there.
    """
    require_jax()
    from mace_jax.model.atom_features import AtomFeatures
    from mace_jax.model.computing import computing

    with computing(bundle.dtype, device=device, compile_cache=compile_cache):
        features = AtomFeatures(bundle, str(source), n_edge=n_edge)
        yield features
        for sentence in features.assumptions():
            log.warning("%s: %s", source, sentence)
