"""Which model the command line names, and where its bundle goes."""

from pathlib import Path

from mace_jax.cli.progress import track_on_stderr
from mace_jax.errors import ConfigError
from mace_jax.torch_models.foundation_models import find_foundation_model
from mace_jax.torch_models.source import Source, released_source


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
    return released_source(released, offline=offline, track=track_on_stderr)


def default_output(source: Source) -> Path:
    """Return where a bundle goes: beside a file, into the working directory for a release."""
    if source.released is not None:
        return Path(f"{source.released.source}-{source.released.name}-jax.msgpack")
    return source.path.with_name(f"{source.path.stem}-jax.msgpack")
