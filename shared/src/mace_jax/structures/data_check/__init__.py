"""Checks of data before it is trained on: what is wrong, what is doubtful, what there is."""
