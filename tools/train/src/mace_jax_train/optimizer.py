"""The optimizer, as a chain of optax transformations."""

from typing import Any

import jax
import optax

from mace_jax.artifacts.train_config import OptimizerConfig


def make_optimizer(
    config: OptimizerConfig, max_grad_norm: float | None
) -> optax.GradientTransformation:
    """Clip by global norm, add L2 decay, scale by Adam or AMSGrad, step by the learning rate."""
    moments = {"adam": optax.scale_by_adam, "amsgrad": optax.scale_by_amsgrad}[config.algorithm]
    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm) if max_grad_norm else optax.identity(),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        moments(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.scale_by_learning_rate(config.lr),
    )


def decayed(parameters: Any) -> Any:
    """Mark the weights that mace-torch decays: the interactions' ``linear``, and all products."""

    def is_decayed(path: tuple[Any, ...], _leaf: Any) -> bool:
        names = [str(getattr(entry, "key", entry)) for entry in path]
        return names[0] == "products" or (names[0] == "interactions" and "linear" in names)

    return jax.tree_util.tree_map_with_path(is_decayed, parameters)
