"""Look for what is wrong with data: a report instead of a dataset."""

import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mace_jax.artifacts.atomic_write import require_absent, write_bytes
from mace_jax.errors import CheckFailedError
from mace_jax.preparation.sources import stream_source, with_a_file
from mace_jax.structures.data_check.check import CheckLimits, DataCheck
from mace_jax.structures.label_keys import LabelCounts
from mace_jax_preprocess.options import Options

log = logging.getLogger(__name__)

REPORT = "check.json"


def check_data(options: Options) -> dict[str, Any]:
    """Read everything, say what was found, and write ``check.json`` below the prefix.

    Bad frames are findings like others, however many.

    Returns: the report.

    Raises:
        CheckFailedError: something cannot be right; the report is written all the same.
    """
    path = options.h5_prefix / REPORT
    require_absent(path, force=options.force)
    check = DataCheck(CheckLimits(close_fraction=options.close_fraction))
    with TemporaryDirectory(dir=options.work_dir) as work:
        for source in options.sources():
            file = with_a_file(source, Path(work))
            keys = options.keys_of_heads().get(source.head, options.keys)
            frames = stream_source(file, keys, LabelCounts(), check.add_bad)
            for _, structure in frames:
                check.add(structure, source.split)
    report = check.report()
    for line in report.lines():
        log.info(line)
    document = report.to_json()
    write_bytes(path, json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")
    n_errors = report.count("error")
    if n_errors:
        message = f"{path}: {n_errors} kinds of errors in the data, expected none; see the report"
        raise CheckFailedError(message)
    return document
