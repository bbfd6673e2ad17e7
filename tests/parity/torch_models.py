"""Small mace-torch models of every kind, with the numbers mace-torch gives for them.

``python tests/parity/torch_models.py FOLDER [NAME...]`` writes for each variant ``NAME.model``, as
mace-torch would save it, and ``NAME.npz`` with ``<structure>__<head>__<property>`` in float64; for
models saved in float32 also ``NAME.float32.npz``, computed in float32. ``structures.extxyz`` has
the inputs and ``manifest.json`` the settings, and what mace-torch refused. Existing results are
kept. Variants with ``"cue"`` need cuequivariance-torch, the others its absence, without which
mace-torch has only the full coupling basis; so a second run in a second environment is needed.

Needs torch==2.13.0 and mace-torch==0.3.16; no test here imports it without them.
"""

import argparse
import copy
import json
import os
import zlib
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # torch.load of whole models

import ase
import ase.io
import numpy as np
import torch
from mace import data, modules, tools
from mace.cli.convert_e3nn_cueq import run as convert_to_cue
from mace.data.utils import update_keyspec_from_kwargs
from mace.modules import extensions, radial
from mace.modules.lora import inject_LoRAs, merge_lora_weights
from mace.modules.wrapper_ops import CUET_AVAILABLE
from mace.tools import torch_geometric
from mace.tools.checkpoint import CheckpointBuilder, CheckpointState
from mace.tools.scripts_utils import convert_to_json_format, extract_config_mace_model

from e3nn import o3  # isort: skip  # after mace, which lets torch 2.13 read e3nn's tables
from e3nn.util import jit  # isort: skip

RESIDUAL = "RealAgnosticResidualInteractionBlock"
PLAIN = "RealAgnosticInteractionBlock"
DENSITY = "RealAgnosticDensityInteractionBlock"
DENSITY_RESIDUAL = "RealAgnosticDensityResidualInteractionBlock"
ATTENTION = "RealAgnosticAttResidualInteractionBlock"
NONLINEAR = "RealAgnosticResidualNonLinearInteractionBlock"

ELEMENTS = [1, 6, 7, 8, 14, 29]
E0 = {1: -1.31, 6: -5.27, 7: -6.44, 8: -7.13, 14: -3.38, 29: -2.72}

# Settings that are not arguments of the model class: model, its class; e0, "1d" or "2d";
# scale, "scalar" or "list"; dtype it is made and saved in; cue, whether it needs cuequivariance;
# changes, the functions of CHANGES done to it; form of the file, of FORMS; no_numbers
ENERGY = {
    "model": "ScaleShiftMACE",
    "e0": "2d",
    "scale": "list",
    "dtype": "float64",
    "heads": ["Default"],
    "atomic_numbers": ELEMENTS,
    "r_max": 4.0,
    "num_bessel": 4,
    "num_polynomial_cutoff": 5,
    "max_ell": 2,
    "interaction_cls": RESIDUAL,
    "interaction_cls_first": RESIDUAL,
    "num_interactions": 2,
    "hidden_irreps": "4x0e",
    "MLP_irreps": "3x0e",
    "avg_num_neighbors": 5.3,
    "correlation": 2,
    "gate": "silu",
    "use_reduced_cg": False,
    "radial_MLP": [8, 8],
}
L1 = {"hidden_irreps": "4x0e+4x1o"}
TWO_HEADS = {"heads": ["rough", "fine"]}
THREE_HEADS = {"heads": ["rough", "fine", "Default"]}
MACE = {"model": "MACE"}
BIAS_READOUT = {"readout_cls": "NonLinearBiasReadoutBlock"}


def blocks(later: str, first: str | None = None) -> dict[str, str]:
    """Return the settings for the interaction blocks."""
    return {"interaction_cls": later, "interaction_cls_first": first or later}


CHARGE = {"type": "categorical", "per": "graph", "emb_dim": 3, "num_classes": 11, "offset": 5}
SPIN = {"type": "categorical", "per": "graph", "emb_dim": 4, "num_classes": 6}
TEMPERATURE = {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 3}
CATEGORY = {"type": "categorical", "per": "atom", "emb_dim": 3, "num_classes": 3}
QUANTITY = {"type": "continuous", "per": "atom", "in_dim": 2, "emb_dim": 5}
CHARGE_SPIN = {"embedding_specs": {"total_charge": CHARGE, "total_spin": SPIN}}
ALL_EMBEDDINGS = {
    "embedding_specs": {
        "quant_v": {**QUANTITY, "use_bias": False},
        "total_charge": CHARGE,
        "cat": CATEGORY,
        "elec_temp": TEMPERATURE,
        "total_spin": SPIN,
    }
}
READOUT = {"use_embedding_readout": True}

VARIANTS: dict[str, dict[str, Any]] = {
    # one thing at a time, from the smallest model
    "base": {},
    "base_l1": L1,
    "mace": MACE,
    "mace_l1": {**MACE, **L1},
    "mace_proper_e0": {**MACE, **L1, **blocks(RESIDUAL, PLAIN)},
    "float32": {"dtype": "float32"},
    "float32_l1": {"dtype": "float32", **L1, "correlation": 3, "distance_transform": "Agnesi"},
    "float32_r_max": {"dtype": "float32", "r_max": 4.37},
    "float32_to_float64": {"dtype": "float32", **L1, "changes": ["to_float64"]},
    "float64_to_float32": {**L1, "changes": ["to_float32"], "r_max": 4.37},
    "scale_scalar": {"scale": "scalar"},
    "e0_1d": {"e0": "1d"},
    "scale_scalar_e0_1d": {"scale": "scalar", "e0": "1d"},
    "mace_e0_1d": {**MACE, "e0": "1d"},
    "unsorted_elements": {"atomic_numbers": [8, 1, 6]},
    "unsorted_elements_l1_zbl": {
        "atomic_numbers": [8, 1, 6],
        **L1,
        **TWO_HEADS,
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
    },
    "one_element": {"atomic_numbers": [6]},
    "one_element_l1_density": {"atomic_numbers": [6], **L1, **blocks(DENSITY_RESIDUAL, DENSITY)},
    "one_channel": {"hidden_irreps": "1x0e+1x1o", "MLP_irreps": "1x0e"},
    # interaction blocks
    "plain": blocks(PLAIN),
    "plain_l1": {**L1, **blocks(PLAIN)},
    "plain_then_residual": {**L1, **blocks(RESIDUAL, PLAIN)},
    "residual_then_plain": {**L1, **blocks(PLAIN, RESIDUAL)},
    "density": blocks(DENSITY),
    "density_l1": {**L1, **blocks(DENSITY)},
    "density_residual": blocks(DENSITY_RESIDUAL),
    "density_residual_l1": {**L1, **blocks(DENSITY_RESIDUAL)},
    "density_then_density_residual": {**L1, **blocks(DENSITY_RESIDUAL, DENSITY)},
    "density_then_residual": {**L1, **blocks(RESIDUAL, DENSITY)},
    "attention": blocks(ATTENTION),
    "attention_l1": {**L1, **blocks(ATTENTION)},
    "attention_then_residual": {**L1, **blocks(RESIDUAL, ATTENTION)},
    "residual_then_density": {**L1, **blocks(DENSITY, RESIDUAL)},
    "residual_then_density_residual": {**L1, **blocks(DENSITY_RESIDUAL, RESIDUAL)},
    "residual_then_attention": {**L1, **blocks(ATTENTION, RESIDUAL)},
    "residual_then_nonlinear": {**L1, **blocks(NONLINEAR, RESIDUAL)},
    "nonlinear": blocks(NONLINEAR),
    "nonlinear_l1": {**L1, **blocks(NONLINEAR)},
    "nonlinear_l2": {"hidden_irreps": "4x0e+4x1o+4x2e", "max_ell": 3, **blocks(NONLINEAR)},
    "nonlinear_then_residual": {**L1, **blocks(RESIDUAL, NONLINEAR)},
    "plain_then_nonlinear": {**L1, **blocks(NONLINEAR, PLAIN)},
    "mace_plain": {**MACE, **L1, **blocks(PLAIN)},
    "mace_density": {**MACE, **L1, **blocks(DENSITY_RESIDUAL, DENSITY)},
    "mace_attention": {**MACE, **L1, **blocks(ATTENTION)},
    "mace_nonlinear": {**MACE, **L1, **blocks(NONLINEAR)},
    # radial part
    "gaussian": {"radial_type": "gaussian"},
    "gaussian_l1_agnesi": {**L1, "radial_type": "gaussian", "distance_transform": "Agnesi"},
    "chebyshev": {"radial_type": "chebyshev"},
    "chebyshev_agnesi": {"radial_type": "chebyshev", "distance_transform": "Agnesi"},
    "chebyshev_mace_l1": {**MACE, **L1, "radial_type": "chebyshev", "distance_transform": "Soft"},
    "agnesi": {"distance_transform": "Agnesi"},
    "soft": {"distance_transform": "Soft"},
    "soft_l1_gaussian": {**L1, "radial_type": "gaussian", "distance_transform": "Soft"},
    "p3": {"num_polynomial_cutoff": 3},
    "p6": {"num_polynomial_cutoff": 6},
    "p8": {"num_polynomial_cutoff": 8},
    "one_bessel": {"num_bessel": 1},
    "r_max_4.5": {"r_max": 4.5, "num_bessel": 6},
    "radial_mlp_one": {"radial_MLP": [16]},
    "radial_mlp_two": {"radial_MLP": [32, 32]},
    "radial_mlp_three": {"radial_MLP": [64, 64, 64]},
    "radial_mlp_default": {"radial_MLP": None},
    "radial_mlp_no_layer": {"radial_MLP": []},
    "nonlinear_mlp_one": {**blocks(NONLINEAR), "radial_MLP": [16]},
    "nonlinear_mlp_three": {**L1, **blocks(NONLINEAR), "radial_MLP": [12, 10, 8]},
    "nonlinear_mlp_no_layer": {**blocks(NONLINEAR), "radial_MLP": []},
    "zbl": {"pair_repulsion": True},
    "zbl_mace": {**MACE, "pair_repulsion": True},
    "zbl_p8_l1": {**L1, "pair_repulsion": True, "num_polynomial_cutoff": 8},
    "zbl_float32": {"pair_repulsion": True, "dtype": "float32"},
    "zbl_three_heads": {**THREE_HEADS, "pair_repulsion": True},
    "zbl_mace_two_heads": {**MACE, **TWO_HEADS, "pair_repulsion": True},
    "no_cutoff": {"apply_cutoff": False},
    "no_cutoff_mace_plain": {**MACE, **L1, **blocks(PLAIN), "apply_cutoff": False},
    "no_cutoff_l1": {**L1, "apply_cutoff": False},
    "no_cutoff_density": {
        **L1,
        **blocks(DENSITY_RESIDUAL, DENSITY),
        "apply_cutoff": False,
        "distance_transform": "Agnesi",
    },
    "no_cutoff_attention": {**L1, **blocks(ATTENTION), "apply_cutoff": False},
    "no_cutoff_nonlinear": {**L1, **blocks(NONLINEAR), "apply_cutoff": False},
    "no_cutoff_gaussian": {"apply_cutoff": False, "radial_type": "gaussian"},
    "trainable_bessel": {"changes": ["trainable_bessel"]},
    "trainable_gaussian": {"radial_type": "gaussian", "changes": ["trainable_gaussian"]},
    "trainable_agnesi": {"distance_transform": "Agnesi", "changes": ["trainable_agnesi"]},
    "trainable_soft": {"distance_transform": "Soft", "changes": ["trainable_soft"]},
    "trainable_zbl": {"pair_repulsion": True, "changes": ["trainable_zbl"]},
    "trainable_all_float32": {
        **L1,
        "dtype": "float32",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
        "changes": ["trainable_bessel", "trainable_agnesi", "trainable_zbl"],
    },
    # products and irreps
    "correlation_1": {**L1, "correlation": 1},
    "correlation_3": {"correlation": 3},
    "correlation_3_l1": {**L1, "correlation": 3},
    "correlation_3_ell3": {**L1, "correlation": 3, "max_ell": 3},
    "correlation_4": {"correlation": 4},
    "correlation_4_l1": {**L1, "correlation": 4},
    "correlation_4_pseudo": {
        "hidden_irreps": "2x0e+2x0o+2x1o+2x1e",
        "correlation": 4,
        "max_ell": 1,
        "num_interactions": 3,
    },
    "correlation_4_so3": {
        "hidden_irreps": "4x0e+4x1e",
        "correlation": 4,
        "max_ell": 1,
        "use_so3": True,
    },
    "correlation_3_2": {**L1, "correlation": [3, 2]},
    "correlation_1_3": {**L1, "correlation": [1, 3]},
    "correlation_1_2_3": {**L1, "correlation": [1, 2, 3], "num_interactions": 3},
    "ell_0": {"max_ell": 0},
    "ell_0_correlation_1": {"max_ell": 0, "correlation": 1},
    "ell_1": {"max_ell": 1},
    "ell_1_l1": {**L1, "max_ell": 1},
    "ell_3": {"max_ell": 3},
    "ell_4": {"max_ell": 4},
    "ell_4_l2": {"hidden_irreps": "4x0e+4x1o+4x2e", "max_ell": 4},
    "channels_8": {"hidden_irreps": "8x0e", "MLP_irreps": "16x0e"},
    "channels_8_l1": {"hidden_irreps": "8x0e+8x1o", "MLP_irreps": "16x0e"},
    "l2": {"hidden_irreps": "4x0e+4x1o+4x2e"},
    "l2_correlation_3": {"hidden_irreps": "4x0e+4x1o+4x2e", "correlation": 3},
    "l3": {"hidden_irreps": "4x0e+4x1o+4x2e+4x3o", "max_ell": 3},
    "l2_without_l1": {"hidden_irreps": "4x0e+4x2e"},
    "l2_above_max_ell": {"hidden_irreps": "4x0e+4x1o+4x2e", "max_ell": 1},
    "pseudo": {"hidden_irreps": "4x0e+4x0o+4x1o+4x1e"},
    "pseudo_correlation_3": {"hidden_irreps": "4x0e+4x0o+4x1o+4x1e", "correlation": 3},
    "pseudo_three_layers": {
        "hidden_irreps": "4x0e+4x0o+4x1o+4x1e+4x2e+4x2o",
        "num_interactions": 3,
    },
    "pseudo_plain": {"hidden_irreps": "4x0e+4x0o+4x1o+4x1e", **blocks(PLAIN), "correlation": 3},
    "pseudo_density": {
        "hidden_irreps": "4x0e+4x0o+4x1o+4x1e",
        **blocks(DENSITY_RESIDUAL, DENSITY),
        "num_interactions": 3,
    },
    "pseudo_attention": {"hidden_irreps": "4x0e+4x0o+4x1o+4x1e", **blocks(ATTENTION)},
    "pseudo_nonlinear": {
        "hidden_irreps": "4x0e+4x0o+4x1o+4x1e",
        **blocks(NONLINEAR),
        "num_interactions": 3,
    },
    "pseudo_mace": {**MACE, "hidden_irreps": "4x0e+4x0o+4x1o+4x1e"},
    "pseudo_scalars_only": {"hidden_irreps": "4x0e+4x0o", "num_interactions": 3},
    "axial": {"hidden_irreps": "4x0e+4x1e", "correlation": 3},
    "polar_and_axial": {"hidden_irreps": "4x0e+4x1o+4x1e", "correlation": 3},
    "order_0e_2e_1o": {"hidden_irreps": "4x0e+4x2e+4x1o", "num_interactions": 3},
    "order_0e_1e_0o_1o": {"hidden_irreps": "4x0e+4x1e+4x0o+4x1o", "num_interactions": 3},
    "order_1o_0e": {"hidden_irreps": "4x1o+4x0e"},
    "order_0o_0e": {"hidden_irreps": "4x0o+4x0e"},
    "order_1o_0e_kept": {"hidden_irreps": "4x1o+4x0e", "keep_last_layer_irreps": True},
    "repeated_irrep": {"hidden_irreps": "2x0e+2x0e+4x1o"},
    "unequal_channels": {"hidden_irreps": "4x0e+2x1o"},
    "no_scalars": {"hidden_irreps": "4x1o"},
    "so3": {"hidden_irreps": "4x0e+4x1e", "use_so3": True},
    "so3_l0": {"use_so3": True},
    "so3_l2": {"hidden_irreps": "4x0e+4x1e+4x2e", "use_so3": True, "correlation": 3},
    "so3_odd_hidden": {**L1, "use_so3": True},
    "so3_nonlinear": {"hidden_irreps": "4x0e+4x1e", "use_so3": True, **blocks(NONLINEAR)},
    "so3_density_mace": {
        **MACE,
        "hidden_irreps": "4x0e+4x1e",
        "use_so3": True,
        **blocks(DENSITY_RESIDUAL, DENSITY),
        "num_interactions": 3,
    },
    "agnostic_product": {"use_agnostic_product": True},
    "agnostic_product_l1": {**L1, "use_agnostic_product": True, "correlation": 3},
    "agnostic_product_mace_plain": {**MACE, **L1, **blocks(PLAIN), "use_agnostic_product": True},
    "edge_irreps": {"hidden_irreps": "8x0e+8x1o", "edge_irreps": "4x0e+4x1o"},
    "edge_irreps_scalar": {**L1, "edge_irreps": "3x0e"},
    "edge_irreps_more": {**L1, "edge_irreps": "16x0e"},
    "edge_irreps_unequal": {"hidden_irreps": "8x0e+8x1o", "edge_irreps": "8x0e+4x1o"},
    "edge_irreps_first": {
        "hidden_irreps": "8x0e+8x1o",
        "edge_irreps": "5x0e+3x1o",
        "use_edge_irreps_first": True,
    },
    "edge_irreps_first_nonlinear": {
        **L1,
        **blocks(NONLINEAR),
        "edge_irreps": "3x0e+2x1o",
        "use_edge_irreps_first": True,
    },
    "edge_irreps_density_mace": {
        **MACE,
        **L1,
        **blocks(DENSITY_RESIDUAL, DENSITY),
        "edge_irreps": "2x0e+3x1o",
        "num_interactions": 3,
    },
    "edge_irreps_attention": {**L1, **blocks(ATTENTION), "edge_irreps": "2x0e+3x1o"},
    "edge_irreps_first_alone": {**L1, "use_edge_irreps_first": True},
    # layers and readouts
    "layers_1": {"num_interactions": 1},
    "layers_1_l1": {**L1, "num_interactions": 1, "correlation": 3},
    "layers_1_mace": {**MACE, **L1, "num_interactions": 1, "gate": "tanh"},
    "layers_1_nonlinear": {**L1, **blocks(NONLINEAR), "num_interactions": 1},
    "layers_1_density_heads": {**L1, **blocks(DENSITY), "num_interactions": 1, **TWO_HEADS},
    "layers_1_kept": {**L1, "num_interactions": 1, "keep_last_layer_irreps": True},
    "layers_3": {"num_interactions": 3},
    "layers_3_l1": {**L1, "num_interactions": 3},
    "layers_3_mace": {**MACE, **L1, "num_interactions": 3},
    "layers_3_nonlinear": {**L1, **blocks(NONLINEAR), "num_interactions": 3},
    "layers_4": {**L1, "num_interactions": 4},
    "gate_tanh": {"gate": "tanh"},
    "gate_abs": {"gate": "abs"},
    "gate_none": {"gate": None},
    "mlp_two_irreps": {"MLP_irreps": "2x0e+3x0e"},
    "mlp_odd": {"MLP_irreps": "3x0e+2x0o", "gate": "tanh"},
    "last_readout_only": {**L1, "use_last_readout_only": True},
    "last_readout_only_layers_3": {**L1, "use_last_readout_only": True, "num_interactions": 3},
    "last_readout_only_mace_heads": {**MACE, **TWO_HEADS, "use_last_readout_only": True},
    "last_readout_only_layers_1": {"use_last_readout_only": True, "num_interactions": 1},
    "keep_last_layer": {**L1, "keep_last_layer_irreps": True},
    "keep_last_layer_mace_layers_3": {
        **MACE,
        "hidden_irreps": "4x0e+4x1o+4x2e",
        "keep_last_layer_irreps": True,
        "num_interactions": 3,
    },
    "keep_last_layer_nonlinear_heads": {
        **L1,
        **blocks(NONLINEAR),
        **TWO_HEADS,
        "keep_last_layer_irreps": True,
    },
    "bias_readout": BIAS_READOUT,
    "bias_readout_tanh_l1": {**L1, **BIAS_READOUT, "gate": "tanh"},
    "bias_readout_none": {**BIAS_READOUT, "gate": None},
    "bias_readout_two_heads": {**BIAS_READOUT, **TWO_HEADS},
    "bias_readout_three_heads_mace": {**MACE, **BIAS_READOUT, **THREE_HEADS},
    "bias_readout_order_1o_0e": {"hidden_irreps": "4x1o+4x0e", **BIAS_READOUT},
    "linear_readout": {"readout_cls": "LinearReadoutBlock"},
    "general_bias_readout": {"readout_cls": "GeneralNonLinearBiasReadoutBlock"},
    "two_heads": TWO_HEADS,
    "three_heads": THREE_HEADS,
    "three_heads_l1_layers_3": {**L1, **THREE_HEADS, "num_interactions": 3, "gate": "tanh"},
    "two_heads_mace": {**MACE, **TWO_HEADS},
    "two_heads_scale_scalar": {**TWO_HEADS, "scale": "scalar"},
    "two_heads_e0_1d": {**TWO_HEADS, "e0": "1d"},
    "two_heads_float32": {**L1, **TWO_HEADS, "dtype": "float32"},
    "one_named_head": {"heads": ["fine"]},
    # embeddings of charge, spin and the like
    "charge_spin": CHARGE_SPIN,
    "charge_spin_mace": {**MACE, **CHARGE_SPIN},
    "charge_spin_readout": {**CHARGE_SPIN, **READOUT},
    "charge_spin_readout_mace": {**MACE, **CHARGE_SPIN, **READOUT},
    "charge_spin_heads": {**CHARGE_SPIN, **TWO_HEADS},
    "charge_spin_readout_heads": {**CHARGE_SPIN, **READOUT, **THREE_HEADS},
    "charge_spin_readout_heads_mace": {**MACE, **CHARGE_SPIN, **READOUT, **TWO_HEADS},
    "temperature": {"embedding_specs": {"elec_temp": TEMPERATURE}},
    "temperature_no_bias": {"embedding_specs": {"elec_temp": {**TEMPERATURE, "use_bias": False}}},
    "category": {"embedding_specs": {"cat": CATEGORY}},
    "category_key": {"embedding_specs": {"label": {**CATEGORY, "key": "cat"}}},
    "quantity": {**L1, "embedding_specs": {"quant_v": QUANTITY}},
    "quantity_no_bias": {"embedding_specs": {"quant_v": {**QUANTITY, "use_bias": False}}},
    "charges_embedded": {
        "embedding_specs": {"charges": {**QUANTITY, "in_dim": 1, "key": "REF_charges"}}
    },
    "all_embeddings": {**L1, **ALL_EMBEDDINGS},
    "all_embeddings_readout_heads": {**L1, **ALL_EMBEDDINGS, **READOUT, **TWO_HEADS},
    "all_embeddings_nonlinear": {**L1, **ALL_EMBEDDINGS, **blocks(NONLINEAR)},
    "all_embeddings_float32": {**ALL_EMBEDDINGS, **READOUT, "dtype": "float32"},
    # much at once, like published models
    "like_mp0": {"hidden_irreps": "8x0e+8x1o", "max_ell": 3, "correlation": 3, "dtype": "float32"},
    "like_mp0b": {
        "hidden_irreps": "8x0e+8x1o",
        "max_ell": 3,
        "correlation": 3,
        "dtype": "float32",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
        **blocks(DENSITY_RESIDUAL, DENSITY),
    },
    "like_off": {
        **MACE,
        "hidden_irreps": "8x0e+8x1o+8x2e",
        "max_ell": 3,
        "correlation": 3,
        **blocks(RESIDUAL, PLAIN),
        "e0": "1d",
    },
    "like_omol": {
        **L1,
        **blocks(NONLINEAR),
        **CHARGE_SPIN,
        **READOUT,
        **BIAS_READOUT,
        "apply_cutoff": False,
        "distance_transform": "Agnesi",
        "edge_irreps": "3x0e+3x1o",
        "use_edge_irreps_first": True,
        "use_agnostic_product": True,
        "use_last_readout_only": True,
        "keep_last_layer_irreps": True,
        "pair_repulsion": True,
        "dtype": "float32",
    },
    "like_mh": {
        "hidden_irreps": "4x0e+4x1o+4x2e",
        **THREE_HEADS,
        **blocks(NONLINEAR),
        **BIAS_READOUT,
        "apply_cutoff": False,
        "edge_irreps": "3x0e+3x1o+3x2e",
        "num_interactions": 3,
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
    },
    "mp0_medium": {
        "hidden_irreps": "128x0e+128x1o",
        "max_ell": 3,
        "correlation": 3,
        "atomic_numbers": list(range(1, 90)),
        "r_max": 6.0,
        "num_bessel": 10,
        "MLP_irreps": "16x0e",
        "avg_num_neighbors": 61.964672446250916,
        "radial_MLP": [64, 64, 64],
        "dtype": "float32",
        "e0": "1d",
        "scale": "scalar",
        "no_numbers": True,
    },
    # asked for couplings that mace-torch only has with cuequivariance, silently made without
    "reduced_cg_without_cue": {**L1, "correlation": 3, "use_reduced_cg": True},
}

DIPOLES = {
    "heads": None,
    "use_reduced_cg": None,
    "interaction_cls_first": PLAIN,
    "hidden_irreps": "4x0e+4x1o",
    "MLP_irreps": "3x0e+3x1o",
}
ATOMIC_DIPOLES = {"model": "AtomicDipolesMACE", **DIPOLES, "MLP_irreps": "3x1o"}
ENERGY_DIPOLES = {"model": "EnergyDipolesMACE", **DIPOLES, "e0": "1d"}
DIELECTRIC = {
    "model": "AtomicDielectricMACE",
    **DIPOLES,
    "hidden_irreps": "4x0e+4x1o+4x2e",
    "MLP_irreps": "3x0e+3x1o+3x2e",
}
for _name, _settings in {
    "atomic_dipoles": ATOMIC_DIPOLES,
    "energy_dipoles": ENERGY_DIPOLES,
    "dielectric": DIELECTRIC,
}.items():
    VARIANTS |= {
        _name: _settings,
        f"{_name}_layers_1": {**_settings, "num_interactions": 1},
        f"{_name}_layers_3": {**_settings, "num_interactions": 3},
        f"{_name}_residual": {**_settings, **blocks(RESIDUAL)},
        f"{_name}_density": {**_settings, **blocks(DENSITY_RESIDUAL, DENSITY)},
        f"{_name}_attention": {**_settings, **blocks(ATTENTION)},
        f"{_name}_nonlinear": {**_settings, **blocks(NONLINEAR)},
        f"{_name}_l2": {**_settings, "hidden_irreps": "4x0e+4x1o+4x2e", "correlation": 3},
        f"{_name}_tanh": {**_settings, "gate": "tanh"},
        f"{_name}_abs": {**_settings, "gate": "abs"},
        f"{_name}_float32": {**_settings, "dtype": "float32"},
        f"{_name}_ignored": {
            **_settings,
            "apply_cutoff": False,
            "distance_transform": "Agnesi",
            "edge_irreps": "2x0e+2x1o",
            "use_so3": True,
        },
    }
VARIANTS |= {
    "atomic_dipoles_scalar_mlp": {**ATOMIC_DIPOLES, "MLP_irreps": "3x0e"},
    "atomic_dipoles_full_mlp": {**ATOMIC_DIPOLES, "MLP_irreps": "3x0e+3x1o"},
    "atomic_dipoles_gaussian": {**ATOMIC_DIPOLES, "radial_type": "gaussian"},
    "dielectric_chebyshev": {**DIELECTRIC, "radial_type": "chebyshev"},
    "dielectric_means": {**DIELECTRIC, "means_stds": True},
    "dielectric_no_polarizability": {**DIELECTRIC, "use_polarizability": False},
    "energy_dipoles_e0_2d": {**ENERGY_DIPOLES, "e0": "2d"},
    "energy_dipoles_unsorted": {**ENERGY_DIPOLES, "atomic_numbers": [8, 1, 6]},
    "energy_dipoles_mlp_unequal": {**ENERGY_DIPOLES, "MLP_irreps": "5x0e+2x1o"},
    "energy_dipoles_mlp_unsorted": {**ENERGY_DIPOLES, "MLP_irreps": "3x1o+3x0e"},
    "dielectric_mlp_unequal": {**DIELECTRIC, "MLP_irreps": "5x0e+2x1o+3x2e"},
    "dielectric_mlp_unsorted": {**DIELECTRIC, "MLP_irreps": "3x0e+3x2e+3x1o"},
    "energy_dipoles_order_1o_0e": {**ENERGY_DIPOLES, "hidden_irreps": "4x1o+4x0e"},
}

# other contents of a file
OLD = {"changes": ["old"], "e0": "1d", "scale": "scalar"}
STORED = {
    "residual": {**L1, "correlation": 3, "scale": "scalar"},
    "agnesi_zbl": {**L1, "distance_transform": "Agnesi", "pair_repulsion": True},
    "density_heads": {**L1, **blocks(DENSITY_RESIDUAL, DENSITY), **TWO_HEADS},
    "nonlinear": {**L1, **blocks(NONLINEAR), "apply_cutoff": False, "edge_irreps": "3x0e+3x1o"},
    "embeddings": {**CHARGE_SPIN, **READOUT, **BIAS_READOUT, "gate": "tanh"},
    "so3_agnostic": {
        "hidden_irreps": "4x0e+4x1e",
        "use_so3": True,
        "use_agnostic_product": True,
        "use_last_readout_only": True,
        "num_interactions": 3,
    },
    "layers_1": {"num_interactions": 1, "scale": "scalar", "e0": "1d"},
    "correlations": {**L1, "correlation": [3, 2]},
    "keep_last": {**L1, "keep_last_layer_irreps": True},
    "gaussian": {"radial_type": "gaussian"},
    "mace": {**MACE, **L1},
    "float32": {**L1, "dtype": "float32"},
}
for _name, _settings in STORED.items():
    VARIANTS |= {
        f"config_{_name}": {**_settings, "form": "config"},
        f"json_{_name}": {**_settings, "form": "json_config"},
    }
VARIANTS |= {
    "torchscript": {**L1, "form": "torchscript"},
    "torchscript_heads_zbl": {**TWO_HEADS, "pair_repulsion": True, "form": "torchscript"},
    "torchscript_mace": {**MACE, "form": "torchscript"},
    "training_checkpoint": {**L1, "form": "checkpoint"},
    "bare_state_dict": {**L1, "form": "state_dict"},
    "lora": {**L1, "changes": ["lora"]},
    "lora_nonlinear": {**L1, **blocks(NONLINEAR), "changes": ["lora"]},
    "lora_merged": {**L1, "changes": ["lora", "merge_lora"]},
    "class_polar": {**L1, "changes": ["as_polar"], "no_numbers": True},
    "class_les": {**L1, "changes": ["as_les"], "no_numbers": True},
    "polar": {"model": "PolarMACE", **L1, "scale": "list"},
    "old": {**L1, **OLD},
    "old_agnesi_zbl": {**L1, **OLD, "distance_transform": "Agnesi", "pair_repulsion": True},
    "old_mace": {**MACE, **L1, **blocks(RESIDUAL, PLAIN), "changes": ["old"], "e0": "1d"},
    "old_density": {**L1, **blocks(DENSITY_RESIDUAL, DENSITY), **OLD},
    "old_layers_1": {**OLD, "num_interactions": 1},
    "old_float32_correlation_3": {**L1, **OLD, "correlation": 3, "dtype": "float32"},
    "old_pseudo": {"hidden_irreps": "4x0e+4x0o+4x1o+4x1e", **OLD},
    "old_energy_dipoles": {**ENERGY_DIPOLES, "changes": ["old"]},
}

# with cuequivariance
REDUCED = {"use_reduced_cg": True, "cue": True}
VARIANTS |= {
    f"reduced_{_name}": {**_settings, **REDUCED}
    for _name, _settings in {
        "l0": {},
        "l0_correlation_1": {"correlation": 1},
        "l0_correlation_3": {"correlation": 3},
        "l0_correlation_4": {"correlation": 4},
        "l1": L1,
        "l1_correlation_3": {**L1, "correlation": 3},
        "l1_correlation_4": {**L1, "correlation": 4},
        "l1_ell3_correlation_3": {**L1, "correlation": 3, "max_ell": 3},
        "l2": {"hidden_irreps": "4x0e+4x1o+4x2e", "correlation": 3},
        "ell_0": {"max_ell": 0},
        "ell_0_correlation_3": {"max_ell": 0, "correlation": 3},
        "correlation_3_2": {**L1, "correlation": [3, 2]},
        "pseudo": {"hidden_irreps": "4x0e+4x0o+4x1o+4x1e", "num_interactions": 3},
        "pseudo_correlation_3": {"hidden_irreps": "4x0e+4x0o+4x1o+4x1e", "correlation": 3},
        "pseudo_correlation_4": {
            "hidden_irreps": "4x0e+4x0o+4x1o+4x1e",
            "correlation": 4,
            "max_ell": 1,
            "num_interactions": 3,
        },
        "axial": {"hidden_irreps": "4x0e+4x1e", "correlation": 3},
        "so3": {"hidden_irreps": "4x0e+4x1e", "use_so3": True, "correlation": 3},
        "so3_correlation_4": {
            "hidden_irreps": "4x0e+4x1e",
            "use_so3": True,
            "correlation": 4,
            "max_ell": 1,
        },
        "float32": {**L1, "correlation": 3, "dtype": "float32"},
        "mace_heads": {**MACE, **L1, "correlation": 3, **TWO_HEADS},
        "agnostic": {**L1, "correlation": 3, "use_agnostic_product": True},
        "nonlinear": {**L1, "correlation": 3, **blocks(NONLINEAR)},
        "config": {**L1, "correlation": 3, "form": "config"},
        "like_omol": {**VARIANTS["like_omol"], "correlation": 3},
    }.items()
}
VARIANTS |= {
    f"full_with_cue_{_name}": {**_settings, "cue": True}
    for _name, _settings in {
        "l1": {**L1, "correlation": 3},
        "ell_0": {"max_ell": 0},
        "correlation_4_l1": {**L1, "correlation": 4},
        "pseudo_correlation_4": VARIANTS["correlation_4_pseudo"],
    }.items()
}
for _layout in ("mul_ir", "ir_mul"):
    for _name, _settings in {
        "l0": {},
        "l1": L1,
        "l1_correlation_3": {**L1, "correlation": 3},
        "l2": {"hidden_irreps": "4x0e+4x1o+4x2e"},
        "layers_1": {**L1, "num_interactions": 1},
        "layers_3": {**L1, "num_interactions": 3},
        "plain_then_residual": {**L1, **blocks(RESIDUAL, PLAIN)},
        "density": {**L1, **blocks(DENSITY_RESIDUAL, DENSITY), "correlation": 3},
        "attention": {**L1, **blocks(ATTENTION)},
        "nonlinear": {**L1, **blocks(NONLINEAR)},
        "nonlinear_l2_no_cutoff": {
            "hidden_irreps": "4x0e+4x1o+4x2e",
            **blocks(NONLINEAR),
            "apply_cutoff": False,
            "edge_irreps": "3x0e+3x1o+3x2e",
        },
        "heads_zbl": {**L1, **TWO_HEADS, "distance_transform": "Agnesi", "pair_repulsion": True},
        "bias_readout_heads": {**L1, **TWO_HEADS, **BIAS_READOUT},
        "embeddings": {**L1, **ALL_EMBEDDINGS, **READOUT},
        "pseudo": {"hidden_irreps": "4x0e+4x0o+4x1o+4x1e"},
        "so3": {"hidden_irreps": "4x0e+4x1e", "use_so3": True},
        "agnostic": {**L1, "use_agnostic_product": True},
        "float32": {**L1, "dtype": "float32"},
        "correlation_1": {**L1, "correlation": 1},
        "correlation_4": {**L1, "correlation": 4},
        "mace": {**MACE, **L1},
        "keep_last": {**L1, "keep_last_layer_irreps": True},
    }.items():
        for _kind, _reduced in (("full", False), ("reduced", True)):
            if _reduced and _name not in {"l0", "l1", "l1_correlation_3", "nonlinear", "pseudo"}:
                continue
            VARIANTS[f"cue_{_layout}_{_kind}_{_name}"] = {
                **_settings,
                "use_reduced_cg": _reduced,
                "cue": True,
                "changes": [f"cue_{_layout}"],
            }

# patterns of names, and what is special about these variants
REMARKS = {
    "atomic_dipoles*": "a readout after the first is always zero: no scalars to open its gates",
    "energy_dipoles*": "node_energy is only the atomic energy",
    "old_energy_dipoles": "node_energy is only the atomic energy",
    "*dipoles_ignored": "apply_cutoff, distance_transform, edge_irreps, use_so3 have no effect",
    "dielectric_ignored": "apply_cutoff, distance_transform, edge_irreps, use_so3 have no effect",
    "dielectric_means": "means and deviations are saved but never used",
    "dielectric_no_polarizability": "not equivariant: the dipole is cut from the wrong columns",
    "*_mlp_unsorted": "not equivariant: irreps of the last readout are mixed up",
    "chebyshev*": "forces of mace-torch are wrong, and in *_upstream_raw; basis not of r / r_max",
    "correlation_4_*": "products of four pass only through 0e, 1o, 2e, ..., so give no 0o or 1e",
    "*attention*": "radial_MLP has no effect: the layers are 256, 256, 256",
    "order_[01]o_0e": "the last layer has only the first irrep, so no scalars, and no effect",
    "*readout_order_1o_0e": "the last layer has only the first irrep; its readout's biases count",
    "order_1o_0e_kept": "only the scalars of the last layer are read",
    "keep_last_layer*": "only the scalars of the last layer are read",
    "layers_1_kept": "keep_last_layer_irreps has no effect with one layer",
    "edge_irreps_first_alone": "use_edge_irreps_first has no effect without edge_irreps",
    "two_heads_scale_scalar": "only the first head works",
    "two_heads_e0_1d": "only the first head works",
    "last_readout_only_layers_1": "no readout at all: mace-torch misses a gradient",
    "reduced_cg_without_cue": "says use_reduced_cg but has the full basis",
    "charge_spin_readout*": "node_energy lacks the embedding readout",
    "all_embeddings_[fr]*": "node_energy lacks the embedding readout",
    "*_embeddings": "node_energy lacks the embedding readout",
    "*like_omol": "node_energy lacks the embedding readout",
    "*_correlations": "config has only the first correlation: mace-torch cannot load it",
    "config_keep_last": "config lacks keep_last_layer_irreps: mace-torch cannot load it",
    "json_keep_last": "config lacks keep_last_layer_irreps: mace-torch cannot load it",
    "config_mace": "config is only an error: not of class ScaleShiftMACE",
    "json_mace": "config is only an error: not of class ScaleShiftMACE",
    "training_checkpoint": "to be refused: no settings",
    "bare_state_dict": "to be refused: no settings",
    "lora": "to be refused, or merged",
    "lora_nonlinear": "to be refused, or merged",
    "class_*": "to be refused: a ScaleShiftMACE under another class's name",
    "torchscript*": "config.yaml inside",
    "cue_*": "needs cuequivariance to be loaded",
    "cue_*_float32": "parts compute in float32 even in a float64 run: 1e-5 off",
    "cue_*_keep_last": "converted without keep_last_layer_irreps: other numbers than before",
    "reduced_*": "needs no cuequivariance to be loaded",
    "full_with_cue_*": "needs no cuequivariance to be loaded",
}

WATERS = [[0.31, 0.42, 0.25], [1.17, 0.77, 0.53], [0.22, -0.41, 0.71]]
CELL = np.array([[3.9, 0.2, -0.1], [1.3, 3.6, 0.3], [-0.7, 0.9, 4.4]])
INPUTS: dict[str, dict[str, Any]] = {
    "isolated_atom": {"symbols": "O", "positions": [[0.3, -0.2, 0.1]]},
    "dimer": {"symbols": "CO", "positions": [[0.0, 0.0, 0.0], [0.61, -0.42, 0.87]]},
    "apart": {"symbols": "OH2", "positions": [[0.1, 0.2, -0.3], [0.9, 0.7, 0.1], [6.2, -5.1, 7.4]]},
    "molecule": {
        "symbols": "CONH4",
        "positions": [
            [0.047, -0.012, 0.021],
            [1.187, 0.071, -0.055],
            [-0.653, 1.094, 0.263],
            [-0.532, -0.951, -0.087],
            [-0.191, 1.942, 0.513],
            [-1.641, 1.032, 0.391],
            [2.113, 1.804, 0.766],
        ],
        "info": {"total_charge": -1, "total_spin": 2, "elec_temp": 0.17},
    },
    "water_box": {
        "symbols": "OH2OH2",
        "positions": [*WATERS, *(np.array(WATERS)[:, [1, 2, 0]] + [2.2, 1.9, 2.6])],
        "cell": [4.9, 5.1, 4.7],
        "pbc": True,
        "info": {"total_charge": 1, "total_spin": 3},
    },
    "triclinic": {
        "symbols": "COH",
        "positions": np.array([[0.05, 0.11, 0.08], [0.46, 0.57, 0.31], [0.27, 0.18, 0.72]]) @ CELL,
        "cell": CELL,
        "pbc": True,
        "info": {"elec_temp": 0.4},
    },
    "slab": {
        "symbols": "Si2Cu2OH",
        "positions": [
            [0.1, 0.2, 2.1],
            [2.5, 2.6, 2.3],
            [2.4, 0.1, 4.0],
            [0.2, 2.7, 4.2],
            [1.3, 1.2, 5.6],
            [1.9, 1.6, 6.4],
        ],
        "cell": [5.1, 5.1, 15.0],
        "pbc": [True, True, False],
        "info": {"total_charge": -2, "total_spin": 1},
    },
    "carbon": {
        "symbols": "C3",
        "positions": [[0.1, 0.05, 0.0], [0.95, 0.86, 1.02], [2.31, 1.07, 1.93]],
        "cell": [[0.0, 2.6, 1.8], [1.8, 0.0, 2.4], [2.3, 1.7, 0.1]],
        "pbc": True,
    },
}


def structures() -> list[ase.Atoms]:
    """Return the inputs, rounded such that a file keeps them exactly."""
    generator = np.random.default_rng(7)
    found = []
    for name, given in INPUTS.items():
        atoms = ase.Atoms(
            given["symbols"],
            positions=np.round(given["positions"], 6),
            cell=given.get("cell"),
            pbc=given.get("pbc", False),
        )
        atoms.info = {"name": name, **given.get("info", {})}
        atoms.arrays["REF_charges"] = np.round(generator.uniform(-1, 1, len(atoms)), 4)
        atoms.arrays["cat"] = generator.integers(0, 3, len(atoms))
        atoms.arrays["quant_v"] = np.round(generator.normal(size=(len(atoms), 2)), 4)
        found.append(atoms)
    return found


def settings_of(name: str) -> dict[str, Any]:
    """Return all settings of a variant."""
    return {**ENERGY, **VARIANTS[name]}


def arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what the model class is called with."""
    ours = {"model", "e0", "scale", "dtype", "cue", "changes", "form", "no_numbers"}
    found = {key: value for key, value in settings.items() if key not in ours}
    for key in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        if key in found:
            found[key] = o3.Irreps(found[key])
    for key in ("interaction_cls", "interaction_cls_first"):
        found[key] = modules.interaction_classes[found[key]]
    if "readout_cls" in found:
        found["readout_cls"] = modules.readout_classes[found["readout_cls"]]
    found["gate"] = modules.gate_dict[str(found["gate"])]
    elements = found["atomic_numbers"]
    found["num_elements"] = len(elements)
    n_heads = len(found["heads"] or "1")
    energies = np.array([E0.get(z, -0.1 * z) for z in elements])
    energies = np.stack([energies * (1 + 0.11 * head) + 0.4 * head for head in range(n_heads)])
    found["atomic_energies"] = energies[0] if settings["e0"] == "1d" else energies
    if settings["model"] in {"ScaleShiftMACE", "PolarMACE"}:
        scale = [0.83 + 0.31 * head for head in range(n_heads)]
        shift = [-0.27 + 0.46 * head for head in range(n_heads)]
        one = settings["scale"] == "scalar"
        found["atomic_inter_scale"] = scale[0] if one else scale
        found["atomic_inter_shift"] = shift[0] if one else shift
    if settings["heads"] is None:  # dipole models
        del found["heads"], found["use_reduced_cg"]
        if settings["model"] != "EnergyDipolesMACE":
            found["atomic_energies"] = None
    if "means_stds" in found:
        found["means_stds"] = {
            "dipole_mean": torch.tensor([0.3, -0.2, 0.5]),
            "dipole_std": torch.tensor([1.3, 0.8, 1.7]),
            "polarizability_mean": torch.full((3, 3), 0.4),
            "polarizability_std": torch.full((3, 3), 1.6),
        }
    return found


def randomize(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter anew, biases and normalizations included."""

    def draw(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue  # weights of couplings that do not exist
            value = draw(parameter)
            if isinstance(module, torch.nn.LayerNorm):
                value = 0.3 * value + (name == "weight")
            elif name in {"alpha", "beta"}:
                value = 1.7 + 0.3 * value
            elif name == "bias":
                value = 0.5 * value
            elif isinstance(module, torch.nn.Linear) or parameter.ndim == 3:  # 3: of products
                value /= parameter.shape[1] ** 0.5
            parameter.data.copy_(value)


def balance(model: torch.nn.Module, inputs: list[ase.Atoms]) -> None:
    """Scale the weights such that the features of each layer and each readout are of order one."""
    seen = []
    targets = []
    for interaction, product in zip(model.interactions, model.products, strict=True):
        targets += [getattr(interaction, "linear_2", None) or interaction.linear, product.linear]
    for readout in model.readouts:
        targets.append(getattr(readout, "linear_2", None) or readout.linear)
    if hasattr(model, "embedding_readout"):
        targets.append(model.embedding_readout.linear)
    for target in targets:
        seen.clear()
        hook = target.register_forward_hook(lambda module, given, out: seen.append(out.detach()))
        for atoms in inputs:
            with torch.jit.optimized_execution(False):
                model(graph(model, atoms, None), compute_force=False)
        hook.remove()
        size = torch.cat(seen).square().mean().sqrt()
        if size > 1e-6:
            target.weight.data /= size


def trainable_bessel(model: torch.nn.Module) -> None:
    """Replace the frequencies by changed parameters."""
    old = model.radial_embedding.bessel_fn
    new = radial.BesselBasis(old.r_max.item(), len(old.bessel_weights), trainable=True)
    new.bessel_weights.data *= torch.linspace(0.93, 1.08, len(new.bessel_weights))
    model.radial_embedding.bessel_fn = new


def trainable_gaussian(model: torch.nn.Module) -> None:
    """Replace the centers by changed parameters."""
    old = model.radial_embedding.bessel_fn
    new = radial.GaussianBasis(model.r_max.item(), len(old.gaussian_weights), trainable=True)
    new.gaussian_weights.data += torch.linspace(0.1, -0.3, len(new.gaussian_weights))
    model.radial_embedding.bessel_fn = new


def trainable_agnesi(model: torch.nn.Module) -> None:
    """Make the distance transform trainable, and trained."""
    model.radial_embedding.distance_transform = radial.AgnesiTransform(trainable=True)
    for name, factor in (("q", 1.21), ("p", 0.87), ("a", 1.13)):
        getattr(model.radial_embedding.distance_transform, name).data *= factor


def trainable_soft(model: torch.nn.Module) -> None:
    """Make the distance transform trainable, and trained."""
    model.radial_embedding.distance_transform = radial.SoftTransform(trainable=True)
    model.radial_embedding.distance_transform.alpha.data *= 0.81


def trainable_zbl(model: torch.nn.Module) -> None:
    """Make the pair repulsion trainable, and trained."""
    new = radial.ZBLBasis(p=model.pair_repulsion_fn.p.item(), trainable=True)
    new.a_exp.data *= 0.9
    new.a_prefactor.data *= 1.2
    model.pair_repulsion_fn = new


OLD_LACKS = [
    "apply_cutoff",
    "cueq_config",
    "edge_irreps",
    "heads",
    "lammps_mliap",
    "num_heads",
    "oeq_config",
    "radial_MLP",
    "use_agnostic_product",
    "use_edge_irreps_first",
    "use_last_readout_only",
    "use_reduced_cg",
    "use_so3",
]


def old(model: torch.nn.Module) -> None:
    """Take away what older versions of mace-torch did not write."""
    for module in model.modules():
        for name in OLD_LACKS:
            module.__dict__.pop(name, None)
        for name, _ in list(module.named_buffers(recurse=False)):
            if name.endswith("_zeroed"):
                delattr(module, name)


def lora(model: torch.nn.Module) -> None:
    """Add low-rank corrections that are not zero."""
    inject_LoRAs(model, rank=2)
    generator = torch.Generator().manual_seed(11)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            value = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.copy_(0.3 * value)


def rename(name: str) -> Callable[[torch.nn.Module], None]:
    """Return a change that gives the model another class, but nothing of what that has."""

    def change(model: torch.nn.Module) -> None:
        model.__class__ = getattr(extensions, name)

    return change


def cue(layout: str) -> Callable[[torch.nn.Module], torch.nn.Module]:
    """Return a change to the modules of cuequivariance."""
    return lambda model: convert_to_cue(model, device="cpu", layout=layout)


CHANGES: dict[str, Callable[[torch.nn.Module], torch.nn.Module | None]] = {
    "trainable_bessel": trainable_bessel,
    "trainable_gaussian": trainable_gaussian,
    "trainable_agnesi": trainable_agnesi,
    "trainable_soft": trainable_soft,
    "trainable_zbl": trainable_zbl,
    "to_float32": torch.nn.Module.float,
    "to_float64": torch.nn.Module.double,
    "old": old,
    "lora": lora,
    "merge_lora": merge_lora_weights,
    "as_polar": rename("PolarMACE"),
    "as_les": rename("MACELES"),
    "cue_mul_ir": cue("mul_ir"),
    "cue_ir_mul": cue("ir_mul"),
}


def build(name: str, dtype: torch.dtype | None = None) -> torch.nn.Module:
    """Return a model of random weights, made in the variant's dtype or the given one."""
    settings = settings_of(name)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or getattr(torch, settings["dtype"]))
    try:
        torch.manual_seed(0)
        model = getattr(modules, settings["model"])(**arguments(settings))
        randomize(model, torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if not settings.get("no_numbers"):
            balance(model, known_to(model))
        for change in settings.get("changes", []):
            model = CHANGES[change](model) or model
        return model
    finally:
        torch.set_default_dtype(before)


def known_to(model: torch.nn.Module) -> list[ase.Atoms]:
    """Return the structures of elements the model knows."""
    elements = set(model.atomic_numbers.tolist())
    return [atoms for atoms in structures() if elements.issuperset(atoms.numbers)]


def graph(model: torch.nn.Module, atoms: ase.Atoms, head: str | None) -> dict[str, torch.Tensor]:
    """Return the model's input, made by mace-torch in torch's default dtype."""
    specs = getattr(model, "embedding_specs", None)
    keys = {**tools.DefaultKeys.keydict(), "embedding_specs": specs}
    heads = getattr(model, "heads", ["Default"])
    config = data.config_from_atoms(
        atoms,
        key_specification=update_keyspec_from_kwargs(data.KeySpecification(), keys),
        head_name=head or heads[0],
    )
    item = data.AtomicData.from_config(
        config,
        z_table=tools.AtomicNumberTable(model.atomic_numbers.tolist()),
        cutoff=float(model.r_max),
        heads=heads,
    )
    (batch,) = torch_geometric.dataloader.DataLoader([item], batch_size=1)
    return batch.to_dict()


PER_GRAPH = ("energy", "interaction_energy", "stress", "virials", "dipole", "polarizability")
PER_ATOM = ("forces", "node_energy", "atomic_dipoles", "charges")


def evaluate(
    model: torch.nn.Module, atoms_list: Iterable[ase.Atoms], head: str, dtype: torch.dtype
) -> list[dict[str, np.ndarray]]:
    """Return mace-torch's results for each structure.

    Signs: forces = -dE/dx, stress = dE/dstrain / volume, virials = -dE/dstrain. ``volume_used`` is
    of the cell that mace-torch stretches along open directions. With a Chebyshev basis, whose
    derivative in torch is wrong, ``forces``, ``stress`` and ``virials`` are true derivatives and
    ``forces_upstream_raw`` and so on are what mace-torch gives.
    """
    model = model.to(dtype)
    basis = model.radial_embedding.bessel_fn
    wrong = isinstance(basis, radial.ChebychevBasis)
    results = [call(model, atoms, head, dtype) for atoms in atoms_list]
    if wrong:
        model.radial_embedding.bessel_fn = Chebyshev(basis)
        for atoms, result in zip(atoms_list, results, strict=True):
            true = call(model, atoms, head, dtype)
            for key in {"forces", "stress", "virials"} & result.keys():
                result[f"{key}_upstream_raw"] = result[key]
                result[key] = true[key]
        model.radial_embedding.bessel_fn = basis
    return results


def call(
    model: torch.nn.Module, atoms: ase.Atoms, head: str, dtype: torch.dtype
) -> dict[str, np.ndarray]:
    """Return mace-torch's results for one structure."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        given = graph(model, atoms, head)
        result = {
            "n_edges": np.array(given["edge_index"].shape[1]),
            "volume_used": given["cell"].view(3, 3).det().abs().numpy().astype(float),
        }
        derivatives = hasattr(model, "atomic_energies_fn")
        wanted = dict.fromkeys(("compute_force", "compute_virials", "compute_stress"), derivatives)
        # optimized, models with embeddings fail from the second call on: a leaf is changed in place
        with torch.jit.optimized_execution(False):
            out = model(given, **wanted)
    finally:
        torch.set_default_dtype(before)
    for key in PER_GRAPH + PER_ATOM:
        if out.get(key) is not None:
            value = out[key][0] if key in PER_GRAPH else out[key]
            result[key] = value.detach().numpy().astype(float)
    return result


class Chebyshev(torch.nn.Module):
    """mace-torch's Chebyshev basis by its recursion, which torch can differentiate."""

    def __init__(self, basis: torch.nn.Module):
        super().__init__()
        self.num_basis = basis.num_basis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the polynomials of degree 1 to num_basis."""
        found = [torch.ones_like(x), x]
        while len(found) <= self.num_basis:
            found.append(2 * x * found[-1] - found[-2])
        return torch.cat(found[1 : self.num_basis + 1], dim=-1)


def save(model: torch.nn.Module, form: str, path: Path) -> None:
    """Write the model in one of the forms in which mace-torch's users have files."""
    if form == "model":
        torch.save(model, path)
    elif form in {"config", "json_config"}:
        config = extract_config_mace_model(model)
        if form == "json_config":
            config = convert_to_json_format(config)
        torch.save({"state_dict": model.state_dict(), "config": config}, path)
    elif form == "state_dict":
        torch.save(model.state_dict(), path)
    elif form == "checkpoint":
        optimizer = torch.optim.Adam(model.parameters())
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99)
        state = CheckpointState(model, optimizer, scheduler)
        torch.save(CheckpointBuilder.create_checkpoint(state), path)
    elif form == "torchscript":
        config = json.dumps(convert_to_json_format(extract_config_mace_model(model)))
        extra = {"commit.txt": b"", "config.yaml": config}
        torch.jit.save(jit.compile(copy.deepcopy(model)), path, _extra_files=extra)
    else:
        msg = f"no form {form!r}"
        raise ValueError(msg)


def reason(error: Exception) -> str:
    """Return the kind of an error and its last line, the telling one of TorchScript's."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"


def references(
    model: torch.nn.Module, dtype: torch.dtype
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the results of all structures and heads, and the structures that failed."""
    results = {}
    failed = {}
    for head in getattr(model, "heads", ["Default"]):
        for atoms in known_to(model):
            name = atoms.info["name"]
            try:
                (result,) = evaluate(model, [atoms], head, dtype)
            except Exception as error:  # noqa: BLE001
                failed[f"{name}__{head}"] = reason(error)
                continue
            results |= {f"{name}__{head}__{key}": value for key, value in result.items()}
    return results, failed


def write(name: str, folder: Path) -> dict[str, Any]:
    """Write one variant and return its entry for the manifest."""
    settings = settings_of(name)
    entry: dict[str, Any] = {
        "settings": settings,
        "heads": settings["heads"] or ["Default"],
        "environment": "cuequivariance" if settings.get("cue") else "plain",
    }
    remarks = [remark for pattern, remark in REMARKS.items() if fnmatch(name, pattern)]
    if remarks:
        entry["remark"] = "; ".join(remarks)
    file = folder / f"{name}.model"
    try:
        model = build(name)
        save(model, settings.get("form", "model"), file)
    except Exception as error:  # noqa: BLE001
        file.unlink(missing_ok=True)
        return {**entry, "remark": f"impossible in mace-torch: {reason(error)}"}
    entry["bytes"] = file.stat().st_size
    if settings.get("no_numbers"):
        return entry
    if settings.get("form", "model") == "model":
        model = torch.load(file)
    if next(model.parameters()).dtype == torch.float32:
        results, _ = references(model, torch.float32)
        np.savez_compressed(folder / f"{name}.float32.npz", **results)
    results, failed = references(model, torch.float64)
    np.savez_compressed(folder / f"{name}.npz", **results)
    if failed:
        entry["failed"] = failed
    for key in ("energy", "forces", "dipole"):
        found = [np.abs(value).max() for label, value in results.items() if label.endswith(key)]
        if found:
            entry[f"largest_{key}"] = float(max(found))
    return entry


def main() -> None:
    """Write what does not exist yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(VARIANTS), metavar="NAME")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    inputs = options.folder / "structures.extxyz"
    if not inputs.exists():
        ase.io.write(inputs, structures())
    manifest = options.folder / "manifest.json"
    entries = json.loads(manifest.read_text()) if manifest.exists() else {}
    for name in options.names:
        if name in entries or bool(VARIANTS[name].get("cue")) != CUET_AVAILABLE:
            continue
        entries[name] = write(name, options.folder)
        manifest.write_text(json.dumps(entries, indent=1))
        print(name, {k: v for k, v in entries[name].items() if k not in {"settings", "heads"}})


if __name__ == "__main__":
    main()
