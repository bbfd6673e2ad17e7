"""What a run would do: its shapes, and what XLA makes of its steps."""

import time
from collections.abc import Iterator
from typing import Any

from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.model.load import split_trainable
from mace_jax_train.head_table import describe_heads
from mace_jax_train.method import make_method
from mace_jax_train.start import Run, parameter_count


def describe_run(run: Run) -> dict[str, Any]:
    """Compile the training step and the evaluation without running them.

    With the compile cache on, the run itself finds them there.

    Returns: parameters, devices that train together, steps per epoch, what each head has and counts
        (as ``describe_heads``), padded shapes, structures and those that have each label by split,
        the largest training step's memory in bytes of each
        device (arguments, outputs and temporaries together), and the seconds that compiling took.
    """
    devices = run.devices
    network, parameters = split_trainable(run.model)
    method = make_method(run.config, network, run.n_steps, devices, run.factors)
    state = method.initial_state(parameters)
    evaluated = method.evaluated(state)
    started = time.perf_counter()
    compiled = [
        stage.train_step.lower(state, batch).compile()
        for stage in method.stages
        for batch in _one_group_of_each_shape(run, "train")
    ]
    for split in run.loaders:
        for batch in _one_group_of_each_shape(run, split):
            for stage in method.stages:
                stage.eval_step.lower(evaluated, batch).compile()
    seconds = time.perf_counter() - started
    return {
        "parameters": parameter_count(run),
        "devices": devices.n_batch,
        "steps_per_epoch": run.n_steps,
        "heads": describe_heads(run),
        "shapes": {
            split: [vars(caps) for caps in loader.shapes] for split, loader in run.loaders.items()
        },
        "structures": {split: loader.plan.n_structures for split, loader in run.loaders.items()},
        "labels": {split: dict(found) for split, found in run.labels.items()},
        "step_memory_bytes": max(map(_memory, compiled)),
        "compile_seconds": seconds,
    }


def _one_group_of_each_shape(run: Run, split: str) -> Iterator[GraphBatch]:
    """Yield what each step of a split is compiled for, on its devices."""
    for batch in run.loaders[split].one_of_each_shape():
        yield run.devices.put([batch] * len(run.devices.own))


def _memory(compiled: Any) -> int:
    """Return the bytes of arguments, outputs and temporaries."""
    memory = compiled.memory_analysis()
    return int(
        memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    )
