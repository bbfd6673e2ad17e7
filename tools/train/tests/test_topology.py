import pytest

from mace_jax.artifacts.train_config_sections import FlagsConfig
from mace_jax.errors import ConfigError
from mace_jax_train.topology import Topology, find_topology

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "node[001-002]",
}
JAX = {
    "JAX_PROCESS_COUNT": "4",
    "JAX_PROCESS_INDEX": "3",
    "JAX_COORDINATOR_ADDRESS": "host0:777",
}


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        ({"distributed": True}, {}, r"--distributed: the process count is not known; give --pro"),
        ({"distributed": True, "process_count": 2}, {}, "2 processes: the process index is not"),
        ({"process_count": 2}, {}, "start the processes with --launcher local, srun or mpirun$"),
        ({"process_index": 0}, {}, "the process count is not known"),
        ({"process_count": 2, "process_index": 2}, {}, "^process index 2: expected 0 to 1 for 2"),
        ({"process_count": 2, "process_index": -1}, {}, "^process index -1: expected 0 to 1"),
        ({"process_count": 1, "process_index": 1}, {}, "^process index 1: expected 0 to 0"),
        ({}, JAX | {"JAX_PROCESS_INDEX": "x"}, "^JAX_PROCESS_INDEX: 'x', expected a number$"),
        ({}, JAX | {"JAX_PROCESS_COUNT": ""}, "^JAX_PROCESS_COUNT: '', expected a number$"),
    ],
)
def test_what_is_missing_or_impossible(flags, environment, message):
    with pytest.raises(ConfigError, match=message):
        find_topology(FlagsConfig(**flags), environment)


@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        ({}, {}),
        ({"process_count": 1}, {}),
        ({"distributed": True, "process_count": 1}, {}),
        ({"process_count": 1, "process_index": 0}, {}),
        ({"coordinator_address": "host"}, {}),
    ],
)
def test_a_process_that_trains_alone(flags, environment):
    assert find_topology(FlagsConfig(**flags), environment) is None


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ({"process_count": 2, "process_index": 1}, {}, (2, 1, "127.0.0.1:12345")),
        ({}, JAX, (4, 3, "host0:777")),
        ({"distributed": True}, JAX, (4, 3, "host0:777")),
        # a flag that is given wins, each for itself
        ({"process_count": 5}, JAX, (5, 3, "host0:777")),
        ({"process_index": 0}, JAX, (4, 0, "host0:777")),
        ({"coordinator_address": "host1"}, JAX, (4, 3, "host1:12345")),
        ({"coordinator_port": 9}, JAX, (4, 3, "host0:9")),
        ({}, JAX | {"JAX_COORDINATOR_PORT": "8"}, (4, 3, "host0:777")),
        ({"coordinator_address": "h"}, JAX | {"JAX_COORDINATOR_PORT": "8"}, (4, 3, "h:8")),
        ({"coordinator_address": "[::1]"}, JAX, (4, 3, "[::1]:12345")),
        ({"coordinator_address": "[::1]:5"}, JAX, (4, 3, "[::1]:5")),
    ],
)
def test_flags_win_over_the_environment(flags, environment, expected):
    assert find_topology(FlagsConfig(**flags), environment) == Topology(*expected)


def test_a_cluster_is_asked_where_distributed_is_given_and_warned_of_where_it_is_not(caplog):
    assert find_topology(FlagsConfig(distributed=True), SLURM) == Topology(None, None, None)
    assert not caplog.records
    assert find_topology(FlagsConfig(), SLURM) is None
    (record,) = caplog.records
    assert record.getMessage().startswith("SLURM_STEP_NUM_TASKS is 2, and each of these processes")
    caplog.clear()
    assert find_topology(FlagsConfig(), SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert not caplog.records


def test_numbers_that_are_said_win_over_the_cluster():
    """As in `JAX_PROCESS_COUNT=2 JAX_PROCESS_INDEX=${SLURM_PROCID} mace-jax-train …`."""
    flags = FlagsConfig(distributed=True, coordinator_address="host0", coordinator_port=12345)
    assert find_topology(flags, SLURM | JAX) == Topology(4, 3, "host0:12345")
