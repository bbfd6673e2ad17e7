"""What the names of mace-jax's gin files mean here: a table, so that its files can be used.

Every name is ``configurable.parameter``; modules before it, as in
``mace_jax.tools.gin_functions.loss.loss_cls``, may be written and say nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mace_jax.artifacts.train_config_consistency import (
    ALGORITHM_PARAMETERS,
    SCHEDULE_PARAMETERS,
    WARMUP,
)
from mace_jax.artifacts.train_config_fields import FIELDS, choices, is_section
from mace_jax.artifacts.train_config_sections import SECTIONS
from mace_jax_train.head_options import head_sections

MODULES = frozenset({"mace_jax", "modules", "tools", "gin_functions", "gin_datasets", "gin_model"})

# Configurables that count only where a parameter refers to them with @.
REFERRED = {
    "SWAConfig": "train.swa_config",
    "stage_two_loss": "train.swa_config.loss",
    "CuEquivarianceConfig": "model.cueq_config",
}
SCHEDULES = {
    "constant_schedule" if name == "constant" else name: name for name in SCHEDULE_PARAMETERS
}
LOSSES = {
    "WeightedEnergyForcesStressLoss": "stress",
    "WeightedEnergyForcesLoss": "ef",
    "WeightedForcesLoss": "forces_only",
    "WeightedEnergyForcesVirialsLoss": "virials",
    "WeightedHuberEnergyForcesStressLoss": "huber",
    "UniversalLoss": "universal",
    "WeightedEnergyForcesL1L2Loss": "l1l2",
    "DipoleSingleLoss": "dipole",
    "WeightedEnergyForcesDipoleLoss": "energy_forces_dipole",
    "l1l2energyforces": "l1l2",
}

# Other names of the same.
MEANS: Mapping[str, str] = {
    "datasets.atomic_energies_override": "datasets.E0s",
    "datasets.stream_train_max_batches": "datasets.max_batches",
    "datasets.stream_train_shuffle": "datasets.shuffle",
    "model.atomic_energies": "datasets.E0s",
    "model.heads": "datasets.heads",
    "datasets.head_configs": "datasets.heads",
    "model.atomic_numbers": "datasets.atomic_numbers",
    "model.readout_mlp_irreps": "model.MLP_irreps",
    "optimizer.max_num_epochs": "optimizer.max_epochs",
    "optimizer.stage_two_interval": "train.swa_config.start_interval",
    "optimizer.stage_two_lr": "train.swa_config.lr",
    "CuEquivarianceConfig.enabled": "flags.backend",
    "CuEquivarianceConfig.optimize_all": "flags.cueq_optimize_all",
    "CuEquivarianceConfig.conv_fusion": "flags.cueq_conv_fusion",
    "model.cueq_config": "model.cueq_config",
}

# Names that change no number, here or there: a warning says why.
WITHOUT_EFFECT: Mapping[str, str] = {
    "datasets.n_node": "how many atoms a batch has room for follows from its plan",
    "datasets.n_graph": "how many graphs a batch has room for follows from its plan",
    "datasets.seed": "flags.seed is the seed of everything",
    "datasets.statistics_metadata_path": "datasets.statistics_file says where they are from",
    "datasets.stream_train_node_percentile": "the room for atoms follows from the plan",
    "datasets.stream_train_prefetch": "each of datasets.num_workers works two batches ahead",
    "datasets.stream_train_stats_workers": "mace-jax-preprocess --num_process has as many",
    "model.avg_r_min": "the radial basis is not normalized by it",
    "model.num_species": "the elements are those of the data",
    "model.radial_basis": "model.radial_type and model.num_bessel choose the basis",
    "model.radial_envelope": "model.num_polynomial_cutoff is the order of the envelope",
    "bessel_basis.number": "model.num_bessel is the number",
    "soft_envelope.arg_multiplicator": "model.num_polynomial_cutoff is the order of the envelope",
    "soft_envelope.value_at_origin": "model.num_polynomial_cutoff is the order of the envelope",
    "polynomial_envelope.degree0": "model.num_polynomial_cutoff is the order of the envelope",
    "polynomial_envelope.degree1": "model.num_polynomial_cutoff is the order of the envelope",
    "u_envelope.p": "model.num_polynomial_cutoff is the order of the envelope",
    "CuEquivarianceConfig.layout": "it is always ir_mul, with the same numbers",
    "CuEquivarianceConfig.group": "it is always O3_e3nn, with the same numbers",
    "train.device_prefetch_batches": "the next batch is always sent ahead",
    "train.progress_bar": "there is one where stderr is a terminal",
}

# Names with one value that says what is done anyway; any other is an error with what to do.
ONLY: Mapping[str, tuple[Any, str]] = {
    "flags.profile": (False, "there is no profiler; use jax.profiler"),
    "reload.path": (None, "give train.resume_from a checkpoint or model.start_from a bundle"),
    "checks.enabled": (False, "give --dry-run"),
    "datasets.prefactor_stress": (1.0, "convert the stresses to eV/Å³ before"),
    "datasets.remap_stress": (None, "write the stresses as 3×3 or in Voigt order before"),
    "datasets.valid_fraction": (None, "split with mace-jax-preprocess --valid_fraction"),
    "model.path_normalization": ("path", "the numbers are those of mace-torch; leave it out"),
    "model.gradient_normalization": ("path", "the numbers are those of mace-torch; leave it out"),
    "model.learnable_atomic_energies": (False, "E0s are not trained; leave it out"),
    "model.collapse_hidden_irreps": (True, "use model.keep_last_layer_irreps"),
    "model.embedding_specs": (None, "a network with other inputs cannot be trained"),
    "model.use_embedding_readout": (False, "a network with other inputs cannot be trained"),
    "model.normalize2mom_consts": (None, "activations have exact constants; leave it out"),
    "loss.polarizability_weight": (0.0, "there is no loss with polarizabilities"),
    "optimizer.decoupled_weight_decay": (False, "use optimizer.algorithm = @adamw"),
    "optimizer.schedule_free": (False, "use optimizer.algorithm = @schedulefree"),
    "constant_scaling.mean": (0.0, "model.scaling takes mean and scale from the statistics"),
    "constant_scaling.std": (1.0, "model.scaling takes mean and scale from the statistics"),
    "SWAConfig.stage_loss_factory": (None, "use SWAConfig.loss = @stage_two_loss"),
    "SWAConfig.stage_loss_kwargs": (None, "use SWAConfig.loss = @stage_two_loss"),
    "train.lr_scale_by_graphs": (False, "multiply optimizer.lr"),
    "wandb_run.resume": (None, "a run that goes on is a new one there"),
    "wandb_run.config": (None, "the whole configuration is reported"),
    "wandb_run.anonymous": (None, "log in with wandb login, or use wandb_run.mode = 'offline'"),
}


def _loss(value: Any) -> Any:
    return LOSSES.get(value, value) if isinstance(value, str) else value


def _pairs(value: Any) -> Any:
    """Return the items of a dict, in order of their epochs."""
    if not isinstance(value, dict):
        return value
    numbers = all(isinstance(epoch, (int, float)) for epoch in value)
    return tuple(sorted(value.items()) if numbers else value.items())


# name -> from a value as it may be written to what it is
VALUES: Mapping[str, Callable[[Any], Any]] = {
    "model.avg_num_neighbors": lambda value: None if value == "average" else value,
    "model.gate": lambda value: "None" if value is None else value,
    "model.distance_transform": lambda value: "None" if value is None else value,
    "model.scaling": lambda value: "no_scaling" if value in (None, "constant_scaling") else value,
    "datasets.E0s": lambda value: repr(value) if isinstance(value, dict) else value,
    "datasets.heads": head_sections,
    "loss.loss_cls": _loss,
    "train.swa_config.loss.loss_cls": _loss,
    "optimizer.scheduler.boundaries_and_scales": _pairs,
    "optimizer.scheduler.end_value": lambda value: 0.0 if value is None else value,
    "flags.backend": lambda value: (
        ("cueq" if value else "dense") if isinstance(value, bool) else value
    ),
}


def _parameters() -> dict[str, str]:
    """Return every ``configurable.parameter`` that has a meaning, and the value it sets."""
    own = {name: name for name in FIELDS if name.count(".") == 1}
    referred = {
        name.replace(section, configurable): name
        for configurable, section in REFERRED.items()
        for name in FIELDS
        if name.rpartition(".")[0] == section
    }
    scheduled = {
        f"{configurable}.{parameter}": f"optimizer.scheduler.{parameter}"
        for configurable, name in SCHEDULES.items()
        for parameter in (*SCHEDULE_PARAMETERS[name], WARMUP)
    }
    algorithms = {
        f"{algorithm}.{parameter}": f"optimizer.{parameter}"
        for algorithm, parameters in ALGORITHM_PARAMETERS.items()
        for parameter in parameters
    }
    return {**own, **referred, **scheduled, **algorithms, **MEANS}


PARAMETERS = _parameters()
KNOWN = frozenset({*PARAMETERS, *WITHOUT_EFFECT, *ONLY})
CONFIGURABLES = frozenset(name.split(".")[0] for name in KNOWN)
# What may stand behind an @ beside those.
WORDS = frozenset(
    {
        *(word for name, hint in FIELDS.items() if not is_section(hint) for word in choices(hint)),
        *LOSSES,
        *SCHEDULES,
        *SECTIONS,
    }
)
