"""Event files for TensorBoard: what stands in the metrics file, while the run goes on.

Whatever happens there, the run itself goes on: an event that cannot be written is a warning. Events
are written by the thread that trains: one that wrote behind it could end unseen, and let it wait.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mace_jax.artifacts.train_config_sections import TensorboardConfig, TrainConfig
from mace_jax.errors import ConfigError
from mace_jax_train.gin_text import gin_text
from mace_jax_train.reports import Report, Row, in_one_line, report_of

log = logging.getLogger(__name__)


def require_tensorboard(config: TensorboardConfig) -> None:
    """Refuse to start without the package that writes event files.

    Raises:
        ConfigError: it is not installed.
    """
    if config.enabled and find_spec("tensorboardX") is None:
        message = (
            "tensorboard.enabled: the package tensorboardX is not installed; "
            "pip install tensorboardX, or leave event files out with --no-tensorboard"
        )
        raise ConfigError(message)


@contextmanager
def tracker(
    config: TrainConfig, tag: str, facts: Mapping[str, Any], rows: Sequence[Row], epoch: int
) -> Iterator[Report]:
    """Write events while a run goes on, in a folder of its tag.

    TensorBoard shows the files there as one run. What an earlier part of this run reported of
    ``epoch`` and later ones, it forgets.

    Args:
        config: of the run; its gin file is shown as text.
        tag: of the run.
        facts: what else is shown, such as the number of parameters.
        rows: of the metrics file so far.
        epoch: that the run begins or goes on with.

    Yields: a function that takes the new rows of the metrics file, those of one epoch.

    Raises:
        ConfigError: the package is missing.
    """
    require_tensorboard(config.tensorboard)
    if not config.tensorboard.enabled:
        yield lambda _rows: None
        return
    folder = Path(config.tensorboard.dir or Path(config.logs.directory) / "tensorboard") / tag
    events = _Events(folder)
    try:
        events.begin(epoch, {"config": _code(gin_text(config)), "facts": _table(facts)})
        events.report([row for row in rows if row["epoch"] == epoch])
        yield events.report
    finally:
        events.close()


class _Events:
    """An event file, if it can be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def begin(self, epoch: int, texts: Mapping[str, str]) -> None:
        """Open a file, and have TensorBoard forget what it knows from ``epoch`` on."""
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import SessionLog
            from tensorboardX.summary import text

            self._folder.mkdir(parents=True, exist_ok=True)
            # the name of a file has the second in it, which one that goes on at once may share
            suffix = f".{time.time_ns()}"
            self._writer = EventsWriter(str(self._folder / "events"), filename_suffix=suffix)
            self._write(epoch, session_log=SessionLog(status=SessionLog.START))
            for name, content in texts.items():
                self._write(epoch, summary=text(name, content))
            self._writer.flush()
        except Exception as error:  # noqa: BLE001 - no report is worth a run
            log.warning("tensorboard: %s; nothing is reported there", in_one_line(error))
            self._writer = None

    def report(self, rows: Sequence[Row]) -> None:
        """Write the metrics of an epoch."""
        if self._writer is None or not rows:
            return
        try:
            from tensorboardX.proto.summary_pb2 import Summary

            values = [
                Summary.Value(tag=name, simple_value=value)
                for name, value in report_of(rows).items()
            ]
            self._write(rows[0]["epoch"], summary=Summary(value=values))
            self._writer.flush()
        except Exception as error:  # noqa: BLE001 - no report is worth a run
            text = "tensorboard: %s; this report is lost, the run goes on"
            log.warning(text, in_one_line(error))

    def close(self) -> None:
        """Close the file."""
        try:
            if self._writer is not None:
                self._writer.close()
        except Exception as error:  # noqa: BLE001 - no report is worth a run
            log.warning("tensorboard: %s", in_one_line(error))

    def _write(self, epoch: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time.time(), step=epoch, **what))


def _code(text: str) -> str:
    """Return text as a block that Markdown leaves alone."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _table(facts: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(["| | |", "| --- | --- |", *lines])
