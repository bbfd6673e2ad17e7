"""Where a model comes from: a file, Torch's or a bundle, or a released model."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mace_jax.artifacts.model_bundle import ModelBundle, model_bundle_input, read_model_bundle
from mace_jax.artifacts.provenance import Input, external_input
from mace_jax.torch_models.foundation_models import (
    FoundationModel,
    fetch_foundation_model,
    licence_notice,
)
from mace_jax.torch_models.from_torch import convert_torch_model
from mace_jax.tracking import Track

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A file and, if it is a released model, what is known of it."""

    path: Path
    released: FoundationModel | None = None

    @property
    def is_bundle(self) -> bool:
        """Whether the file is a bundle already."""
        return self.path.suffix == ".msgpack"

    def read(self) -> ModelBundle:
        """Read the file, whichever kind it is, without running anything it contains.

        Raises:
            ArtifactError: it is damaged, or holds a model that is not supported.
        """
        if self.is_bundle:
            return read_model_bundle(self.path)
        bundle = convert_torch_model(self.path)
        if self.released is None:
            return bundle
        card: dict[str, Any] = {
            "foundation": self.released.source,
            "name": self.released.name,
            "url": self.released.url,
        }
        return replace(bundle, license=self.released.license, model_card=card)

    def as_input(self) -> Input:
        """Describe the file in a provenance record."""
        if self.is_bundle:
            return model_bundle_input(self.path)
        return external_input("torch_model", self.path, "torch_checkpoint")


def released_source(released: FoundationModel, *, offline: bool, track: Track) -> Source:
    """Return a released model, downloaded if need be; say what its licence asks.

    Args:
        released: which.
        offline: use what was downloaded before only.
        track: progress of the download.

    Raises:
        DownloadError: the model cannot be had.
    """
    notice = licence_notice(released)
    if notice:
        log.warning("%s", notice)
    return Source(fetch_foundation_model(released, offline=offline, track=track), released)
