"""What a run would do: its shapes, and what XLA makes of its steps."""

import time
from typing import Any

from mace_jax.model.load import split_trainable
from mace_jax_train.method import make_method
from mace_jax_train.start import Run, parameter_count


def describe_run(run: Run) -> dict[str, Any]:
    """Compile the training step and the evaluation without running them.

    With the compile cache on, the run itself finds them there.

    Returns: parameters, steps per epoch, padded shapes, the largest training step's memory in bytes
        (arguments, outputs and temporaries together), and the seconds that compiling took.
    """
    network, parameters = split_trainable(run.model)
    method = make_method(run.config, network, len(run.loaders["train"]))
    state = method.initial_state(parameters)
    evaluated = method.evaluated(state)
    started = time.perf_counter()
    compiled = [
        stage.train_step.lower(state, batch).compile()
        for stage in method.stages
        for batch in run.loaders["train"].one_of_each_shape()
    ]
    for loader in run.loaders.values():
        for batch in loader.one_of_each_shape():
            for stage in method.stages:
                stage.eval_step.lower(evaluated, batch).compile()
    seconds = time.perf_counter() - started
    return {
        "parameters": parameter_count(run),
        "steps_per_epoch": len(run.loaders["train"]),
        "shapes": {
            split: [vars(caps) for caps in loader.shapes] for split, loader in run.loaders.items()
        },
        "structures": {split: loader.plan.n_structures for split, loader in run.loaders.items()},
        "step_memory_bytes": max(map(_memory, compiled)),
        "compile_seconds": seconds,
    }


def _memory(compiled: Any) -> int:
    """Return the bytes of arguments, outputs and temporaries."""
    memory = compiled.memory_analysis()
    return int(
        memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    )
