"""The optimizer, as a chain of optax transformations."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from mace_jax.artifacts.train_config_sections import OptimizerConfig


def make_optimizer(
    config: OptimizerConfig, max_grad_norm: float | None
) -> optax.GradientTransformation:
    """Clip by global norm, add L2 decay, scale by Adam or AMSGrad, step by the learning rate."""
    moments = {"adam": optax.scale_by_adam, "amsgrad": scale_by_torch_amsgrad}[config.algorithm]
    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm) if max_grad_norm else optax.identity(),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        # in one vector: XLA runs an operation for each small weight otherwise, a tenth of a step
        optax.flatten(moments(b1=config.b1, b2=config.b2, eps=config.eps)),
        optax.scale_by_learning_rate(config.lr),
    )


class AmsgradState(NamedTuple):
    """Steps taken, first and second moment, and the largest second moment so far."""

    n_steps: Array
    mu: optax.Updates
    nu: optax.Updates
    nu_max: optax.Updates


def scale_by_torch_amsgrad(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Scale by AMSGrad as torch computes it.

    The largest *uncorrected* second moment is kept and bias-corrected afterwards. optax keeps the
    largest corrected one, so that there a large first gradient shrinks all later steps for good.

    Source: Reddi et al. 2018, algorithm 2; ``torch.optim.Adam(amsgrad=True)``, the default of
        mace-torch.
    """

    def init(parameters: optax.Params) -> AmsgradState:
        # arrays of their own, because the training step gives the memory of each away
        moments = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(3))
        return AmsgradState(jnp.zeros((), jnp.int32), *moments)

    def update(
        gradient: optax.Updates, state: AmsgradState, _parameters: optax.Params | None = None
    ) -> tuple[optax.Updates, AmsgradState]:
        n_steps = state.n_steps + 1
        mu = optax.tree.update_moment(gradient, state.mu, b1, 1)
        nu = optax.tree.update_moment(gradient, state.nu, b2, 2)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu)
        mu_hat = optax.tree.bias_correction(mu, b1, n_steps)
        nu_hat = optax.tree.bias_correction(nu_max, b2, n_steps)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu_hat, nu_hat)
        return updates, AmsgradState(n_steps, mu, nu, nu_max)

    return optax.GradientTransformation(init, update)


def decayed(parameters: Any) -> Any:
    """Mark the weights that mace-torch decays: some linear maps of the interactions, all products.

    Source: mace-torch ``get_params_options``, which looks for ``linear.weight`` in the names.
    """

    def is_decayed(path: tuple[Any, ...], _leaf: Any) -> bool:
        names = [str(getattr(entry, "key", entry)) for entry in path]
        linear = {"linear", "skip_linear"} & set(names)
        return names[0] == "products" or (names[0] == "interactions" and bool(linear))

    return jax.tree_util.tree_map_with_path(is_decayed, parameters)
