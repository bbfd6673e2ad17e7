"""What a run would do: its shapes and the memory that XLA plans for a training step."""

from typing import Any

import jax

from mace_jax.model.load import split_trainable
from mace_jax_train.optimizer import make_optimizer
from mace_jax_train.start import Run, parameter_count
from mace_jax_train.step import initial_state, make_train_step


def describe_run(run: Run) -> dict[str, Any]:
    """Compile the training step without running it.

    Returns: parameters, steps per epoch, padded shapes, and the step's memory in bytes: arguments,
        outputs and temporaries together.
    """
    config = run.config
    network, parameters = split_trainable(run.model)
    optimizer = make_optimizer(config.optimizer, config.train.max_grad_norm)
    step = make_train_step(network, optimizer, config.loss, config.train.ema_decay)
    state = initial_state(parameters, optimizer)
    compiled = jax.jit(step).lower(state, run.loaders["train"].batch(0)).compile()
    memory: Any = compiled.memory_analysis()
    return {
        "parameters": parameter_count(run),
        "steps_per_epoch": len(run.loaders["train"]),
        "caps": {split: vars(loader.plan.caps) for split, loader in run.loaders.items()},
        "structures": {split: len(loader.graphs) for split, loader in run.loaders.items()},
        "step_memory_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes,
    }
