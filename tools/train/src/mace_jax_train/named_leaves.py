"""The arrays of a tree by name, and back into a tree of the same form."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mace_jax.errors import ArtifactError

Tree = TypeVar("Tree")


def named_leaves(tree: Any) -> dict[str, NDArray[Any]]:
    """Return copies on the host, by path: ``optimizer/1/mu/…``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): np.array(leaf) for path, leaf in leaves}


def with_named_leaves(form: Tree, leaves: Mapping[str, NDArray[Any]], source: str) -> Tree:
    """Return a tree of the form of another one with these leaves, on the device.

    Args:
        form: what has the same paths, shapes and dtypes.
        leaves: by path.
        source: where they are from, for messages.

    Raises:
        ArtifactError: one is missing or left over, or has another shape or dtype.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(form)
    expected = {_name(path): leaf for path, leaf in paths}
    remedy = "it was written by another version of mace-jax-train; begin the run anew"
    for name in sorted(expected.keys() ^ leaves.keys()):
        state = "missing" if name in expected else "not part of this run's state"
        message = f"{source}/{name}: {state}; {remedy}"
        raise ArtifactError(message)
    for name, leaf in expected.items():
        found = leaves[name]
        if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            message = (
                f"{source}/{name}: {found.dtype} {found.shape}, expected {leaf.dtype} "
                f"{leaf.shape}; {remedy}"
            )
            raise ArtifactError(message)
    return jax.tree.unflatten(structure, [jnp.array(leaves[name]) for name in expected])


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
