"""A place inside an epoch, for a run that is continued."""

import hashlib
import json
from dataclasses import asdict
from typing import NamedTuple

from mace_jax.artifacts.batch_plan import BatchPlan
from mace_jax.errors import IncompatibleError


class Cursor(NamedTuple):
    """A place inside an epoch.

    Attributes:
        plan_digest: ``plan_digest`` of the plan whose batches are meant.
        epoch: number of the epoch.
        batch: batches of it that are done.
    """

    plan_digest: str
    epoch: int
    batch: int


def plan_digest(plan: BatchPlan) -> str:
    """Return the SHA-256 of what decides on the batches of an epoch, and on nothing else."""
    decisive = {
        "datasets": [dataset.sha256 for dataset in plan.datasets],
        "r_max": plan.r_max,
        "processes": plan.processes,
        "shapes": [asdict(caps) for caps in plan.shapes],
        "shape_counts": plan.shape_counts,
    }
    digest = hashlib.sha256(json.dumps(decisive).encode())
    for array in (plan.batches.ids, plan.batches.offsets):
        digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()


def require_cursor_fits(cursor: Cursor, plan: BatchPlan, n_batches: int) -> None:
    """Check that a cursor is a place in an epoch of ``n_batches`` batches of ``plan``.

    Raises:
        IncompatibleError: it belongs to another plan, or lies beyond the epoch.
    """
    expected = plan_digest(plan)
    if cursor.plan_digest != expected:
        message = (
            f"cursor: of the plan {cursor.plan_digest[:12]}…, expected {expected[:12]}…; "
            "continue with the plan that the run began with"
        )
        raise IncompatibleError(message)
    if not 0 <= cursor.batch <= n_batches:
        message = (
            f"cursor: {cursor.batch} batches done, expected 0 to {n_batches}; "
            "continue with as many processes as the run began with"
        )
        raise IncompatibleError(message)
