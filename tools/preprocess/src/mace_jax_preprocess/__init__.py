"""Turn DFT data (extxyz) into an HDF5 dataset and statistics.json."""
