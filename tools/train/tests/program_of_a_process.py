"""What tests start as one of several processes: joins the others as the tool does, and trains.

Arguments: what goes wrong, in which process; then what else is to be done.
"""

import json
import logging
import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from mace_jax.artifacts.train_config_sections import FlagsConfig
from mace_jax.errors import DataError, MaceJaxError
from mace_jax_train.data_parallel import Devices, all_devices
from mace_jax_train.processes import Processes, joined, leave
from mace_jax_train.topology import find_topology

N_STEPS = 20
AT_STEP = 10


def go_wrong(how: str, step: int) -> None:
    match how:
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hangs":
            time.sleep(100)
        case "fails":
            message = "batch: cannot be read"
            raise DataError(message)


def batches(step: int, n: int) -> list[dict[str, np.ndarray]]:
    """The batches of a group: of 0, 1, 2, … graphs, the empty one with numbers that are none."""
    rng = np.random.default_rng(step)
    made = []
    for place in range(n):
        x = rng.normal(size=(n, 3))
        x[place:] = np.nan
        made.append({"x": np.nan_to_num(x) if place else x, "mask": np.arange(n) < place})
    return made


def train(devices: Devices, processes: Processes, how: str) -> dict[str, object]:
    """Fit w to x·w = 1, one group a step; ``how`` is what goes wrong here."""

    def loss(w, batch):
        error = jnp.where(batch["mask"], batch["x"] @ w - 1, 0)
        return jnp.square(error).sum() / batch["mask"].sum()

    def step(w, batch):
        n_graph = batch["mask"].sum()
        value, gradient = jax.value_and_grad(loss)(w, batch)
        sums = devices.total((n_graph * gradient, n_graph * value, n_graph), n_graph)
        gradients, losses, n_graphs = sums
        return w - 0.05 * gradients / n_graphs, losses / n_graphs

    compiled = devices.compiled(step, donate=True)
    w = devices.replicated(jnp.full(3, 1.0 if how == "differs" else 0.0))
    losses, votes = [], []
    for n in range(N_STEPS):
        if n == AT_STEP:
            go_wrong(how, n)
        group = batches(n, devices.n_batch)
        with processes.waiting("a step"):
            w, value = compiled(w, devices.put([group[place] for place in devices.own]))
            yes = (n == AT_STEP + processes.index,)
            vote = devices.added([yes] * len(devices.own))
            losses.append(float(value))
            votes.append(int(vote[0]))
    return {"losses": losses, "w": jax.device_get(w).tolist(), "votes": votes}


def main(how: str, where: str) -> dict[str, object]:
    topology = find_topology(FlagsConfig(), os.environ)
    with joined(topology) as processes, jax.enable_x64(True):
        here = how if processes.index == int(where) else ""
        with processes.first_before_others("data"):
            if here == "fails early":
                go_wrong("fails", 0)
        name = processes.agreed("name", f"run of {processes.index}")
        logging.getLogger("mace_jax_train").info("information")
        logging.getLogger("mace_jax_train").warning("a warning")
        return train(all_devices(processes), processes, here) | {"name": name}


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mace_jax_train").setLevel(logging.INFO)
    code = 0
    try:
        print(json.dumps(main(*sys.argv[1:])))
    except MaceJaxError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    leave(code)
