"""From Torch MACE's files, a user's own or released ones, to model bundles, without torch."""
