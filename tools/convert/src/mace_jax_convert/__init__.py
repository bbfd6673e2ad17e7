"""Convert Torch MACE checkpoints into model bundles, without torch and without running their code."""
