"""From raw structures to datasets on disk: what preprocess does, and train when given extxyz.

A stream of structures is divided into splits and spooled to one flat file a split; when the order
is known, writers in parallel read the spool, find neighbours and write the dataset and its index.
Memory is constant but for some hundred bytes a structure.
"""
