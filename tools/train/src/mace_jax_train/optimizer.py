"""The optimizer, as a chain of optax transformations of one vector: all weights, end to end.

XLA runs an operation for each small weight otherwise, which takes a tenth of a training step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from mace_jax.artifacts.train_config_sections import OptimizerConfig
from mace_jax_train.lora import ADAPTER

# Those whose weight decay is a part of the step, not of the gradient.
_DECOUPLED = ("adamw", "schedulefree")


def make_optimizer(
    config: OptimizerConfig,
    lr: ArrayLike,
    weight_decay: Array | None = None,
    lr_factors: Array | None = None,
) -> optax.GradientTransformation:
    """Return the optimizer for one step; its state is of the same kind for every ``lr``.

    Decay is added to the gradient (L2), or to the step where it is decoupled. The numbers are those
    of torch's ``Adam``, ``AdamW`` and ``SGD`` without momentum, and of ``AdamWScheduleFree``, whose
    steps go from z and whose gradients and decay are those at y, the parameters.

    Source: ``get_optimizer`` of mace-torch; Defazio et al. 2024, algorithm 1 with Adam's
        normalisation.

    Args:
        config: of the run.
        lr: learning rate.
        weight_decay: of each weight, ``[n_weight]``; None: none decays.
        lr_factors: what the learning rate of each weight is multiplied by, ``[n_weight]``; None: 1.
            The average of ``schedulefree`` is the same for any constant factor.
    """

    def add_decay(update: Array, parameters: Array) -> Array:
        return update if weight_decay is None else update + weight_decay * parameters

    decay = optax.stateless(add_decay)
    decoupled = config.algorithm in _DECOUPLED
    step = optax.chain(
        optax.identity() if decoupled else decay,
        _direction(config),
        decay if decoupled else optax.identity(),
        optax.scale_by_learning_rate(lr if lr_factors is None else lr * lr_factors),
    )
    if config.algorithm != "schedulefree":
        return step
    power = config.schedule_free_weight_lr_power
    return optax.contrib.schedule_free(step, lr, config.schedule_free_b1, power)


def _direction(config: OptimizerConfig) -> optax.GradientTransformation:
    """Return what makes a direction of a gradient."""
    b1, b2, eps = config.b1, config.b2, config.eps
    match config.algorithm:
        case "sgd":
            return optax.identity()
        case "amsgrad":
            return scale_by_torch_amsgrad(b1, b2, eps)
        case "schedulefree":
            # the average takes the place of the first moment
            return optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)
        case _:
            return optax.scale_by_adam(b1, b2, eps)


def clip(gradient: Array, max_norm: float) -> Array:
    """Scale a gradient down to ``max_norm``.

    Source: torch ``clip_grad_norm_``, which adds 1e-6 to the norm.
    """
    return gradient * jnp.minimum(1, max_norm / (jnp.linalg.norm(gradient) + 1e-6))


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


def weight_decays(config: OptimizerConfig, parameters: Any) -> Array | None:
    """Return the weight decay of each weight, ``[n_weight]``; None if there is none."""
    if not config.weight_decay:
        return None
    rates = jax.tree.map(
        lambda leaf, mark: jnp.full_like(leaf, config.weight_decay * mark),
        parameters,
        decayed(parameters),
    )
    return ravel_pytree(rates)[0]


def decayed(parameters: Any) -> Any:
    """Mark the weights that mace-torch decays: some linear maps of the interactions, all products.

    Of adapters it decays those in the products.

    Source: mace-torch ``get_params_options``, which looks for ``linear.weight`` in the names.
    """

    def is_decayed(path: tuple[Any, ...], _leaf: Any) -> bool:
        names = [str(getattr(entry, "key", entry)) for entry in path]
        linear = {"linear", "skip_linear"} & set(names) and not ADAPTER & set(names)
        return names[0] == "products" or (names[0] == "interactions" and bool(linear))

    return jax.tree_util.tree_map_with_path(is_decayed, parameters)
