"""Convert Torch MACE checkpoints into model bundles, without torch."""
