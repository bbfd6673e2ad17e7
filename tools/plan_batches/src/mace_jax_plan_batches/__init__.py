"""Plan fixed-shape batches for a dataset."""
