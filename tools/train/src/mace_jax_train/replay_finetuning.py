"""Multi-head replay fine-tuning: a head of a model keeps its old data, and others learn new ones.

The flags of ``mace_run_train`` for it are no values of their own: they are written out here, once,
as heads, learning rate, average and loss of the configuration, which then says all of it.
"""

import logging
from collections.abc import Mapping
from typing import Any

from mace_jax.errors import ConfigError
from mace_jax.structures.atomic_energies import AVERAGE
from mace_jax_train.head_options import head_sections
from mace_jax_train.run_heads import HEAD

log = logging.getLogger(__name__)

SECTION = "replay"
# What the flags can say, and its types.
REPLAY_FIELDS: Mapping[str, Any] = {
    f"{SECTION}.multiheads_finetuning": bool,
    f"{SECTION}.force_mh_ft_lr": bool,
    f"{SECTION}.pt_train_file": tuple[str, ...],
    f"{SECTION}.pt_valid_file": tuple[str, ...],
    f"{SECTION}.pt_head_name": str,
    f"{SECTION}.weight_pt_head": float,
}
# What mace_run_train trains with then.
LR, EMA_DECAY, LOSS = 1e-4, 0.99999, "universal"
_MODELS = ("foundation_model", "torch_checkpoint", "start_from")
_PATHS = ("train_path", "valid_path", "test_path")

Sections = dict[str, dict[str, Any]]
Head = dict[str, Any]


def with_replay(sections: Sections, replay: Mapping[str, Any]) -> Sections:
    """Write multi-head fine-tuning out, if it is asked for.

    The replay head comes first and has the readout, E0s, scale and shift of the model's head, as
    has every other head that does not say otherwise. What is given stays as it is given.

    Args:
        sections: what is given of the configuration: section -> name -> value.
        replay: what the flags say, by the names of ``REPLAY_FIELDS``.

    Raises:
        ConfigError: a flag is given without ``--multiheads_finetuning``, or something is missing
            that it needs.
    """
    asked = [name for name, value in replay.items() if value not in (None, False, ())]
    if not replay.get("multiheads_finetuning"):
        if asked:
            message = (
                f"--{asked[0]}: belongs to multi-head fine-tuning, which is not asked for; give "
                "--multiheads_finetuning, or leave it out"
            )
            raise ConfigError(message)
        return sections
    _require_model(sections)
    datasets = dict(sections.get("datasets", {}))
    name = replay.get("pt_head_name") or "pt_head"
    given = {head["name"]: head for head in head_sections(datasets.pop("heads", None))}
    common = {"readout": sections["model"].get("torch_head")}
    old = _of_old_data({**common, **given.pop(name, {"name": name})}, replay)
    new = _new_heads(given, {path: datasets.pop(path, None) for path in _PATHS}, name)
    e0s = datasets.pop("E0s", None)
    heads = (old, *(_of_new_data(head, common, e0s) for head in new))
    written = {**sections, "datasets": {**datasets, "heads": heads}}
    trained = [head for head in heads if head.get("train_path")]
    _set_defaults(written, trained[-1]["name"], rate=not replay.get("force_mh_ft_lr"))
    return written


def _require_model(sections: Sections) -> None:
    if not any(sections.get("model", {}).get(name) for name in _MODELS):
        message = (
            "--multiheads_finetuning: there is no model to begin with; give --foundation-model, "
            "--torch-checkpoint or --start-from"
        )
        raise ConfigError(message)


def _of_old_data(head: Head, replay: Mapping[str, Any]) -> Head:
    """Return the replay head, with what the flags say of it."""
    told = {
        "train_path": tuple(replay.get("pt_train_file") or ()),
        "valid_path": tuple(replay.get("pt_valid_file") or ()),
        "weight": replay.get("weight_pt_head"),
    }
    given = {name: value for name, value in told.items() if value not in ((), None)}
    head = {"E0s": "foundation", **head, **given}
    if not head.get("train_path"):
        message = (
            f"--multiheads_finetuning: there are no replay data for head {head['name']}; give "
            "--pt_train_file structures of the data that the model was trained on, such as those "
            "that mace-jax-select-replay chooses"
        )
        raise ConfigError(message)
    return head


def _new_heads(
    given: Mapping[str, Head], paths: Mapping[str, Any], pt_head_name: str
) -> list[Head]:
    """Return the heads of new data: those that are given, or the one that the paths are of."""
    own = {path: value for path, value in paths.items() if value}
    what = None
    if given and own:
        what = "there are heads and datasets.train_path; name all data in the heads"
    elif not given and not own.get("train_path"):
        what = "there are no new data; give --train-path or --heads"
    elif not given and pt_head_name == HEAD:
        what = f"{HEAD!r} is the head of the new data; choose another --pt_head_name"
    if what:
        message = f"--multiheads_finetuning: {what}"
        raise ConfigError(message)
    return list(given.values()) or [{"name": HEAD, **own}]


def _of_new_data(head: Head, common: Head, e0s: str | None) -> Head:
    if head.get("weight") == 0 and not head.get("train_path"):
        return head  # which is kept as the model has it
    found = {**common, "E0s": e0s, **head}
    if str(found["E0s"]).lower() == AVERAGE:
        message = (
            f"--multiheads_finetuning: head {head['name']}: averages are no E0s that go with the "
            "model's readout; give --E0s estimated, which corrects the model's own by averages of "
            "its errors, or foundation, isolated_atom, a dict or a file"
        )
        raise ConfigError(message)
    return found


def _set_defaults(sections: Sections, last: str, *, rate: bool) -> None:
    """Set what ``mace_run_train`` sets, where nothing is given; there the last head decides."""
    defaults: list[tuple[str, str, Any]] = [
        ("loss", "loss_cls", LOSS),
        ("train", "best_head", last),
    ]
    if rate:
        defaults += [("optimizer", "lr", LR), ("train", "ema_decay", EMA_DECAY)]
    for section, name, value in defaults:
        own = sections[section] = dict(sections.get(section, {}))
        if name not in own:
            own[name] = value
            log.info("multi-head fine-tuning: %s.%s = %r", section, name, value)
        elif own[name] != value:
            text = "multi-head fine-tuning: %s.%s = %r is kept, where mace_run_train has %r"
            log.info(text, section, name, own[name], value)
