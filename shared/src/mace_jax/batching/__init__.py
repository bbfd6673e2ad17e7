"""From structures of any size to batches of one shape."""
