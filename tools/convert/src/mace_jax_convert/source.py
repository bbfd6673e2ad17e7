"""Where a model to be converted comes from: a file of the user's, or a released model."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mace_jax.artifacts.model_bundle import ModelBundle, model_bundle_input, read_model_bundle
from mace_jax.artifacts.provenance import Input, external_input
from mace_jax.cli.progress import track_on_stderr
from mace_jax.errors import ConfigError
from mace_jax_convert.foundation_models import (
    FoundationModel,
    fetch_foundation_model,
    find_foundation_model,
    licence_notice,
)
from mace_jax_convert.from_torch import convert_torch_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A file and, if it is a released model, what is known of it."""

    path: Path
    released: FoundationModel | None = None

    @property
    def default_output(self) -> Path:
        """Where its bundle goes: beside a file, into the working directory for a release."""
        if self.released is not None:
            return Path(f"{self.released.source}-{self.released.name}-jax.msgpack")
        return self.path.with_name(f"{self.path.stem}-jax.msgpack")

    @property
    def is_bundle(self) -> bool:
        """Whether the file is a bundle already."""
        return self.path.suffix == ".msgpack"

    def read(self) -> ModelBundle:
        """Read the file, whichever kind it is, without running anything it contains."""
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


def open_source(
    torch_model: Path | None, foundation: str | None, model_name: str | None, *, offline: bool
) -> Source:
    """Return the source that the options name; download it if need be.

    Raises:
        ConfigError: the options contradict each other, or there is no such model.
        DownloadError: the model cannot be had.
    """
    if torch_model is not None:
        if foundation or model_name or offline:
            message = "--torch-model: cannot go with --foundation, --model-name or --offline"
            raise ConfigError(message)
        return Source(torch_model)
    released = find_foundation_model(foundation or "mp", model_name)
    notice = licence_notice(released)
    if notice:
        log.warning("%s", notice)
    path = fetch_foundation_model(released, offline=offline, track=track_on_stderr)
    return Source(path, released)
