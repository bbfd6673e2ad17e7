"""The folder of what can be made or fetched again: compiled programs, downloaded models."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return ``$MACE_JAX_CACHE``, or the system's cache folder of the user."""
    return Path(
        os.environ.get("MACE_JAX_CACHE") or platformdirs.user_cache_dir("mace-jax")
    ).expanduser()
