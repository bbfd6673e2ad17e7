"""The recipe that a run leaves in its bundles, and whether its files are still what they were."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from mace_jax.artifacts.model_bundle import ModelBundle, read_model_bundle
from mace_jax.artifacts.provenance import file_sha256
from mace_jax.artifacts.recipe import NamedFile, Recipe, require_recipe
from mace_jax.artifacts.train_config_sections import SECTIONS, TrainConfig
from mace_jax.errors import IncompatibleError, MaceJaxError
from mace_jax.structures.atomic_energies import AVERAGE
from mace_jax.torch_models.foundation_models import fetch_foundation_model, released_model
from mace_jax.tracking import Track, track_silently
from mace_jax_train.inputs import SPLITS, split_sources
from mace_jax_train.start import Run
from mace_jax_train.training_statistics import FOUNDATION, ISOLATED_ATOM

log = logging.getLogger(__name__)

BUNDLE = ".msgpack"
# What cannot change the results of a run.
_CIRCUMSTANCES = {
    "flags": "device debug distributed process_count process_index coordinator_address "
    "coordinator_port",
    "logs": "name directory include_timestamp level",
    "datasets": "num_workers",
    "train": "log_errors resume_from checkpoint_dir checkpoint_steps checkpoint_every "
    "checkpoint_keep checkpoint_best",
    "wandb_run": "enabled project entity group name tags notes mode dir",
    "tensorboard": "enabled dir",
}
_FILES = (
    *(f"datasets.{split}_plan" for split in SPLITS),
    "datasets.statistics_file",
    "model.start_from",
    "model.torch_checkpoint",
    "model.foundation_model",
)


def run_recipe(run: Run) -> Recipe:
    """Return what a run is made from; it is the same whether the run began or goes on."""
    return Recipe(
        config=_without_circumstances(run.config, run.bundle),
        files={
            **{
                f"datasets.{split}_path": tuple(
                    NamedFile(str(source.path), digest)
                    for source, digest in zip(
                        split_sources(run.config.datasets, split), digests, strict=True
                    )
                )
                for split, digests in run.digests.items()
            },
            **{option: named for option in _FILES if (named := _named(run.config, option))},
        },
        n_structures={split: loader.plan.n_structures for split, loader in run.loaders.items()},
        atomic_energies=_origin_of_energies(run),
        n_devices=run.devices.n_batch,
        computed_with=_computing(),
    )


def _computing() -> dict[str, str]:
    """Return what the last digits of a run depend on."""
    versions = {name: version(name) for name in ("mace-jax-train", "jax", "jaxlib", "optax")}
    return {**versions, "device": jax.default_backend()}


def _without_circumstances(config: TrainConfig, bundle: ModelBundle) -> TrainConfig:
    """Return a configuration as by default where it cannot change the results.

    E0s from a file are the numbers that were in it.
    """
    by_head = bundle.atomic_energies
    of_all = by_head if len(by_head) > 1 else next(iter(by_head.values()), {})
    sections = {name: _with_defaults(getattr(config, name), name) for name in SECTIONS}
    datasets = sections["datasets"]
    heads = tuple(
        replace(head, E0s=_written_out(head.E0s, by_head.get(head.name, {})))
        for head in datasets.heads
    )
    sections["datasets"] = replace(datasets, E0s=_written_out(datasets.E0s, of_all), heads=heads)
    return TrainConfig(**sections)


def _written_out(e0s: str | None, energies: Mapping[Any, Any]) -> str | None:
    """Return E0s from a file as the numbers that were in it."""
    return str(dict(energies)) if e0s and e0s.endswith(".json") and energies else e0s


def _with_defaults(section: Any, name: str) -> Any:
    names = _CIRCUMSTANCES.get(name, "").split()
    return replace(
        section, **{item.name: item.default for item in fields(section) if item.name in names}
    )


def _origin_of_energies(run: Run) -> str:
    """Say where the E0s of a run are from."""
    if len(run.heads) > 1:
        return "; ".join(f"{head}: {source}" for head, source in run.energy_sources.items())
    config = run.config
    e0s, statistics, model = config.datasets.E0s, config.datasets.statistics_file, config.model
    if statistics and (e0s or AVERAGE).lower() in (AVERAGE, ISOLATED_ATOM):
        return f"statistics file {Path(statistics).name}"
    if e0s is None:
        begins_with = model.start_from or model.torch_checkpoint or model.foundation_model
        return FOUNDATION if begins_with else ISOLATED_ATOM
    if e0s.endswith(".json"):
        return f"file {Path(e0s).name}"
    return e0s.lower() if e0s.isidentifier() else "given"


def _named(
    config: TrainConfig, option: str, track: Track = track_silently
) -> tuple[NamedFile, ...]:
    """Return the files that an option names, with their digests.

    Raises:
        ArtifactError, DataError: there is none where it says.
    """
    section, name = option.split(".")
    if name.endswith("_path"):
        sources = split_sources(config.datasets, name.removesuffix("_path"))
        return tuple(NamedFile(str(one.path), one.as_input().sha256) for one in sources)
    value = getattr(getattr(config, section), name)
    if value is None:
        return ()
    path = Path(value)
    if name == "foundation_model" and not path.is_file():
        path = fetch_foundation_model(released_model(value), offline=False, track=track)
    return (NamedFile(value, file_sha256(path)),)


def require_files_of_recipes(config: TrainConfig, configs: Sequence[Path], track: Track) -> None:
    """Check that a run which repeats another reads what that one read.

    An option that says something else than the recipe is what the user wants.

    Args:
        config: of the run.
        configs: what it is made from; bundles among them have recipes.
        track: progress of a download.

    Raises:
        IncompatibleError: a file has changed; every such file is named.
    """
    for path, recipe in _recipes(configs):
        changed = list(_changes(config, recipe, track))
        if changed:
            message = (
                f"{path}: the files of its recipe are not here: {'; '.join(changed)}; bring "
                "back what it was trained on, or give other files by their own flags"
            )
            raise IncompatibleError(message)


def require_devices_of_recipes(configs: Sequence[Path], n_devices: int) -> None:
    """Check that a run which repeats another takes the same steps.

    What only changes the last digits is said.

    Args:
        configs: what the run is made from; bundles among them have recipes.
        n_devices: that train together.

    Raises:
        IncompatibleError: they are more or fewer, so that a step would be on other structures.
    """
    for path, recipe in _recipes(configs):
        if recipe.n_devices != n_devices:
            message = (
                f"{path}: {recipe.n_devices} devices trained it together, found {n_devices}, whose "
                f"steps would be others; start it on {recipe.n_devices}, or train another model "
                "from what --print-config shows"
            )
            raise IncompatibleError(message)
        then, now = recipe.computed_with, _computing()
        for name in (name for name in then if then[name] != now.get(name)):
            text = "%s: was trained with %s %s, now %s: the last digits may differ"
            log.warning(text, path, name, then[name], now.get(name))


def _recipes(configs: Sequence[Path]) -> Iterator[tuple[Path, Recipe]]:
    for path in configs:
        if path.suffix == BUNDLE:
            yield path, require_recipe(read_model_bundle(path), path)


def _changes(config: TrainConfig, recipe: Recipe, track: Track) -> Iterator[str]:
    for option, recorded in recipe.files.items():
        if _says(config, option) != _says(recipe.config, option):
            log.info("%s: is not that of the recipe, as was asked for", option)
            continue
        try:
            found = {file.path: file.sha256 for file in _named(config, option, track)}
        except MaceJaxError as error:
            yield f"{option}: {error}"
            continue
        expected = {file.path: file.sha256 for file in recorded}
        for path in dict.fromkeys([*expected, *found]):
            if found.get(path) != expected.get(path):
                was, now = (_short(digests.get(path)) for digests in (expected, found))
                yield f"{option}: {path}: found {now}, expected {was}"


def _says(config: TrainConfig, option: str) -> list[Any]:
    """Return the value of an option; that of paths is those of every head, too."""
    section, name = option.split(".")
    heads = config.datasets.heads if name.endswith("_path") else ()
    return [getattr(one, name) for one in (getattr(config, section), *heads)]


def _short(digest: Any) -> str:
    return f"sha256 {digest[:12]}…" if digest else "no such file"
